"""Jobs of the service: files that come and are kept, what becomes of them, and what no kill takes away."""

import csv
import json
import re
from contextlib import closing
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook, load_workbook
from serving import SHOES, begun, ended, problem, records, sent, serving, table
from test_feedback import record

from extractor import Attribute
from extractor.client import Client
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import InputError
from extractor.feedback import Store
from extractor.io import RowReader


def test_a_file_becomes_records_that_can_be_reviewed(live):
    upload = sent(live, table(200) + b"x,,Shoes\n7,Twice,Shoes\n", "Herbst 2026.csv").json()
    assert upload["columns"] == ["sku", "Product name", "Category"] and len(upload["rows"]) == 10
    assert upload["guessed"] == {"id": "sku", "title": "Product name", "description": None, "category": "Category"}
    assert live.http.get(f"/v1/uploads/{upload['id']}").json() == upload
    job = live.http.post("/v1/jobs", json={"upload": upload["id"]}).json()
    assert job["state"] in ("waiting", "running", "finished") and job["columns"] == upload["guessed"]
    problem(live.http.get(f"/v1/uploads/{upload['id']}"), 404, "unknown-upload")
    done = ended(live, job)
    assert done["counts"]["records"] == 200 and done["counts"]["total"] == 202 and done["fraction"] == 1
    assert done["counts"]["reasons"] == {"invalid_offer": 1, "duplicate_id": 1} and done["finished"]
    rows = records(live, job)
    assert [r["offer_id"] for r in rows] == [*map(str, range(200)), "x", "7"]
    assert rows[5]["attributes"]["Brand"][0]["value"] == "Brand5"
    failed = live.http.get(f"/v1/jobs/{job['id']}/failures", params={"offset": 1}).json()
    assert failed["total"] == 2 and [f["row"] for f in failed["failures"]] == [201]
    assert [r.offer_id for r in live.service.store.records(["5", "199"])] == ["5", "199"]
    assert live.http.get("/v1/jobs").json()["jobs"][0] == done
    audited = [(e.what, e.about) for e in live.service.journal.entries(5)]
    assert ("job submit", job["id"]) in audited


def test_what_reviewers_decided_stands_in_downloads(live):
    job = begun(live, b"id,title\nr1,Diesel boot\nr2,Kesto boot\n", schema="Shoes")
    ended(live, job)
    assert {r["category"] for r in records(live, job)} == {"Shoes"}, "reviews find the schema by it"
    live.service.store.decide("ann", "r1", SHOES.attributes[1], ["boot"])
    color = lambda **asked: [[v["value"] for v in r["attributes"]["Color"]] for r in records(live, job, **asked)]  # noqa: E731
    assert color() == [["boot"], []] and color(reviewed=False) == [[], []]
    other = begun(live, b"id,title\nr1,Ceylon tea\n", schema={"attributes": ["Brand", "Color"]})
    ended(live, other)
    assert [r["attributes"]["Color"] for r in records(live, other)] == [
        [{**records(live, other)[0]["attributes"]["Color"][0]}]
    ]
    assert color() == [[], []], "the id is another offer's by now"


@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet", "xlsx"])
def test_results_come_in_every_format(live, tmp_path, format):
    job = begun(live, table(150), 'a"b;\u202e../x.csv')
    ended(live, job)
    response = live.http.get(f"/v1/jobs/{job['id']}/results", params={"format": format})
    path = tmp_path / f"r.{format}"
    path.write_bytes(response.content)
    if format == "jsonl":
        ids = [json.loads(line)["offer_id"] for line in path.read_text().splitlines()]
    elif format == "csv":
        ids = [row["offer_id"] for row in csv.DictReader(path.read_text().splitlines())]
    elif format == "xlsx":
        ids = [r["offer_id"] for r in RowReader(path)]
    else:
        ids = pq.read_table(path)["offer_id"].to_pylist()
    assert ids == [*map(str, range(150))]
    assert (
        response.headers["content-disposition"]
        == f"attachment; filename=\"records.{format}\"; filename*=UTF-8''x-records.{format}"
    )


def test_files_of_every_kind(live, tmp_path):
    rows = [{"id": str(i), "title": f"Brand{i} x", "category": "Shoes"} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for name, content, kind in (
        ("a.jsonl", lines, "application/octet-stream"),
        ("a.csv", b"id,title,category\n0,Brand0 x,Shoes\n1,Brand1 x,Shoes\n2,Brand2 x,Shoes\n", "text/csv"),
        ("a.parquet", (tmp_path / "t.parquet").read_bytes(), "application/vnd.apache.parquet"),
        ("no ending", lines, "application/jsonl"),
    ):
        upload = sent(live, content, name, kind)
        assert upload.status_code == 201, upload.text
        assert upload.json()["columns"] == ["id", "title", "category"]
        job = live.http.post("/v1/jobs", json={"upload": upload.json()["id"]}).json()
        ended(live, job)
        assert [r["attributes"]["Brand"][0]["value"] for r in records(live, job)] == ["Brand0", "Brand1", "Brand2"]


FORMULA = "=HYPERLINK(1)"


@pytest.mark.parametrize("kind", ["csv", "xlsx"])
def test_formulas_in_offers_are_text_in_downloads(live, tmp_path, kind):
    source = tmp_path / f"offers.{kind}"
    if kind == "csv":
        source.write_text(f"{FORMULA},title\n+1+1,{FORMULA} boot\n")
    else:
        book = Workbook()
        for row in ((FORMULA, "title"), ("+1+1", f"{FORMULA} boot")):
            book.active.append(row)
            for cell in book.active[book.active.max_row]:
                cell.data_type = "s"
        book.save(source)
    job = begun(live, source.read_bytes(), source.name, columns={"id": FORMULA, "title": "title"}, schema="Shoes")
    ended(live, job)
    for format in ("csv", "xlsx"):
        path = tmp_path / f"r.{format}"
        path.write_bytes(live.http.get(f"/v1/jobs/{job['id']}/results", params={"format": format}).content)
    with (tmp_path / "r.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["offer_id"], row["title"], row["Brand"]) == ("'+1+1", f"'{FORMULA} boot", f"'{FORMULA}")
    with closing(load_workbook(tmp_path / "r.xlsx")) as book:
        assert {cell.data_type for row in book.active.iter_rows() for cell in row if cell.value is not None} == {"s"}
        assert book.active["C2"].value == f"{FORMULA} boot"
    assert records(live, job)[0]["title"] == f"{FORMULA} boot"


def test_jobs_mask_where_the_service_does():
    with serving(ScriptedEngine(), mask_pii=True) as running:
        job = begun(running, b"id,title\nm1,ann@example.org boot\n", schema="Shoes")
        ended(running, job)
        assert "ann" not in str(records(running, job)) and records(running, job)[0]["title"].endswith(" boot")


def test_rows_without_an_id_are_told_apart_between_files(live):
    asked = {"columns": {"title": "title"}, "schema": "Shoes"}
    one = begun(live, b"title\nVelmora boot\n \n", **asked)
    other = begun(live, b"title\nKesto boot\n", **asked)
    again = begun(live, b"title\nVelmora boot\n \n", **asked)
    for job in (one, other, again):
        ended(live, job)
    ids = [records(live, job)[0]["offer_id"] for job in (one, other, again)]
    assert ids[0] == ids[2] != ids[1] and all(re.fullmatch("[0-9a-f]{8}:line-2", i) for i in ids)
    (failed,) = live.http.get(f"/v1/jobs/{one['id']}/failures").json()["failures"]
    assert failed["failure"]["failure"]["message"].startswith("line 3: ")


def test_a_record_that_no_review_takes_is_in_the_results(live):
    job = begun(live, b"id,title\nl1,Velmora boot\n" + b"l" * 501 + b",Kesto boot\n", schema="Shoes")
    assert ended(live, job)["counts"]["not_reviewable"] == 1
    assert len(records(live, job)) == 2 and len(live.service.store.records(["l1", "l" * 501])) == 1


def test_a_script_in_a_name_or_a_cell_is_data(live):
    script = "<script>alert(1)<!-- .csv"
    job = begun(live, b"id,title\n<script>,<script>alert(1)</script> boot\n", script, schema="Shoes")
    ended(live, job)
    for path in ("", "/failures", "/results?format=jsonl", "/results?format=csv"):
        response = live.http.get(f"/v1/jobs/{job['id']}{path}")
        assert (
            "html" not in response.headers["content-type"] and response.headers["x-content-type-options"] == "nosniff"
        )
    assert live.http.get(f"/v1/jobs/{job['id']}").json()["name"] == script


@pytest.mark.parametrize(
    ("asked", "status", "kind", "says"),
    [
        ({"schema": "Cars"}, 422, "unknown-schema", "Hostile"),
        ({"columns": {"title": "Titel"}}, 422, "unknown-column", "there are sku, Product name"),
        ({"columns": {"title": "Product name", "category": "x"}}, 422, "unknown-column", "columns.category"),
        ({"columns": {"title": "Product name"}}, 422, "no-category", "choose one schema"),
        ({"columns": {}}, 422, "invalid", "columns.title"),
        ({"upload": "../../x"}, 404, "unknown-upload", "send it again"),
        ({"schema": {"attributes": []}}, 422, "invalid", "at least 1"),
        ({"more": 1}, 422, "invalid", "more"),
    ],
)  # fmt: skip
def test_jobs_that_cannot_be_say_why(live, asked, status, kind, says):
    upload = sent(live, table(2)).json()
    document = problem(live.http.post("/v1/jobs", json={"upload": upload["id"]} | asked), status, kind)
    assert says in document["detail"] + " ".join(document.get("errors", []))
    assert live.http.delete(f"/v1/uploads/{upload['id']}").status_code == 204


def test_asking_twice_is_one_job_and_asking_otherwise_none(live):
    job = begun(live, table(3))
    again = live.http.post("/v1/jobs", json={"upload": job["id"]})
    assert again.status_code == 202 and again.json()["id"] == job["id"]
    problem(live.http.post("/v1/jobs", json={"upload": job["id"], "schema": "Shoes"}), 409, "taken")
    ended(live, job)
    problem(live.http.post(f"/v1/jobs/{job['id']}/cancel"), 409, "state")
    problem(live.http.post(f"/v1/jobs/{job['id']}/resume"), 409, "state")
    problem(live.http.get("/v1/jobs/nothing"), 404, "unknown-job")
    problem(live.http.get("/v1/jobs/nothing/events"), 404, "unknown-job")


def test_other_peoples_jobs_are_not_there(keyed):
    running, secrets = keyed
    mine, other, admin = ({"Authorization": f"Bearer {secrets[r]}"} for r in ("extract", "review", "admin"))
    upload = sent(running, table(2), headers=mine).json()
    problem(running.http.post("/v1/jobs", json={"upload": upload["id"]}, headers=other), 404, "unknown-upload")
    problem(running.http.delete(f"/v1/uploads/{upload['id']}", headers=other), 404, "unknown-upload")
    job = running.http.post("/v1/jobs", json={"upload": upload["id"]}, headers=mine).json()
    for method, path in (
        *[("GET", p) for p in ("", "/events", "/results", "/failures")],
        *[("POST", p) for p in ("/cancel", "/resume")],
        ("DELETE", ""),
    ):
        problem(running.http.request(method, f"/v1/jobs/{job['id']}{path}", headers=other), 404, "unknown-job")
    problem(running.http.post("/v1/jobs", json={"upload": job["id"]}, headers=other), 404, "unknown-upload")
    listed = lambda headers: job["id"] in running.http.get("/v1/jobs", headers=headers).text  # noqa: E731
    assert (listed(mine), listed(other), listed(admin)) == (True, False, True)
    assert ended(running, job, headers=admin)["who"] == "extract"
    problem(sent(running, table(2), headers={"Authorization": "Bearer sw_"}), 401, "key")
    assert "SELECT" not in running.http.get("/v1/jobs/' OR 1=1 --", headers=mine).text


def test_two_keys_of_one_name_are_two_people(keyed):
    running, _ = keyed
    keys = running.service.access.keys
    made = [keys.create("Anna", "extract", None, "test") for _ in range(2)]
    mine, other = ({"Authorization": f"Bearer {secret}"} for _, secret in made)
    waiting, job = sent(running, table(2), headers=mine).json(), begun(running, table(2), headers=mine)
    assert ended(running, job, headers=mine)["who"] == "Anna", "what people are called"
    assert [j["id"] for j in running.http.get("/v1/jobs", headers=mine).json()["jobs"]] == [job["id"]]
    assert running.http.get("/v1/jobs", headers=other).json()["jobs"] == []
    assert running.http.get("/v1/uploads", headers=other).json()["uploads"] == []
    problem(running.http.delete(f"/v1/jobs/{job['id']}", headers=other), 404, "unknown-job")
    problem(running.http.delete(f"/v1/uploads/{waiting['id']}", headers=other), 404, "unknown-upload")
    assert any(e.who == made[0][0].who and e.about == job["id"] for e in running.service.journal.entries(5))
    entry = running.service.jobs.job(job["id"])
    running.service.journal.enter(replace(entry, who="Anna"))  # as before jobs belonged to keys
    assert running.http.delete(f"/v1/jobs/{job['id']}", headers=mine).status_code == 204


def test_the_client_says_what_is_wrong(live, tmp_path):
    with Client(live.url) as client:
        with pytest.raises(InputError, match="no such file"):
            client.submit(tmp_path / "nothing.csv")
        (tmp_path / "a.csv").write_bytes(b"a\n")
        with pytest.raises(InputError, match="422 The file cannot be used"):
            client.submit(tmp_path / "a.csv")
        (tmp_path / "a.csv").write_bytes(table(3))
        with pytest.raises(InputError, match="422 No such schema"):
            client.submit(tmp_path / "a.csv", schema="Cars")
        job = client.submit(tmp_path / "a.csv", schema=SHOES, columns={"title": "Product name"})
        assert client.wait(job.id).counts["records"] == 3
        client.results(job.id, tmp_path / "r.csv", reviewed=False)
        assert (tmp_path / "r.csv").read_text().startswith("offer_id,category,title,Brand,Color")
        with pytest.raises(InputError, match="404 No such job"):
            client.results("nothing", tmp_path / "x.csv")
        assert not (tmp_path / "x.csv").exists()


def test_decisions_stand_on_the_records_of_the_same_text(address):
    with closing(Database(address)) as database:
        store = Store(database)
        old, new = (
            record("a", Brand=("Diesel", 0.5), Size=None),
            record("a", "Kesto boot", "2026-12-01", Brand=("Kesto", 0.5)),
        )
        store.add([old, record("b", Brand=("Diesel", 0.5))])
        store.decide("ann", "a", Attribute(name="Brand"), [])
        brands = lambda *records: [[v.value for v in r.attributes["Brand"]] for r in store.reviewed(records)]  # noqa: E731
        assert brands(old, record("b", Brand=("Diesel", 0.5)), record("c", Brand=("red", 0.1))) == [
            [],
            ["Diesel"],
            ["red"],
        ]
        assert store.reviewed([record("a", Size=None)])[0].attributes == {"Size": []}, (
            "a job has the attributes it asked for"
        )
        assert brands(new) == [["Kesto"]], "it is of another text"
        store.add([new])
        assert (brands(old), brands(new)) == ([["Diesel"]], [[]]), "the newest text is the offer's"
