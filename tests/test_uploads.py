"""Files that people send: what is taken of whom, what is refused, and what their columns are."""

import io
import os
import socket
import time
import zipfile
from datetime import UTC, datetime

import pytest
from serving import POST, begun, ended, problem, sent, serving, table
from test_access import raw, signed_in

from extractor.columns import Sample, guess, sample
from extractor.engines.scripted import ScriptedEngine
from extractor.service.auth import TOKEN

CSV = {"Content-Type": "text/csv"}


@pytest.mark.parametrize(
    ("name", "content", "kind", "status", "says"),
    [
        ("a.csv", b"", "text/csv", 422, "a.csv: the file is empty"),
        ("a.exe", b"x", "application/octet-stream", 422, "'a.exe': files end in"),
        ("", b"x", "application/octet-stream", 422, "files end in"),
        ("http://[", b"x", "application/octet-stream", 422, "files end in"),
        ("a.csv", b"title\nx\n", "text/plain", 415, "Content-Type"),
        ("a.csv", b"title\nx\n", "application/x-www-form-urlencoded", 415, "Content-Type"),
        ("a.parquet", b"title\nx\n", "application/octet-stream", 422, "a.parquet: not a Parquet file"),
        ("a.csv", b"title\n", "text/csv", 422, "no offers in it"),
        ("a.jsonl", '{"title": "x"}\n'.encode("utf-16"), "application/jsonl", 422, "UTF-16"),
        ("a.jsonl", b"[1]\n{\n", "application/jsonl", 422, "none of its first"),
        ("a.csv", ",".join(map(str, range(1_001))).encode() + b"\n1\n", "text/csv", 422, "1001 columns"),
        ("a.jsonl", b'{"title": "' + b"x" * (17 << 20) + b'"}', "application/jsonl", 422, "line of more than 16 MiB"),
    ],
)
def test_files_that_are_none_leave_nothing_behind(live, name, content, kind, status, says):
    before = {p.name for p in live.service.uploads.folder.glob("*")}
    document = problem(sent(live, content, name, kind), status, {415: "media-type", 422: "file"}[status])
    assert says in document["detail"]
    assert str(live.service.folder) not in document["detail"]
    assert {p.name for p in live.service.uploads.folder.glob("*")} == before


@pytest.mark.parametrize(
    "name",
    ["../../../etc/cron.d/x.csv", "..\\..\\x.csv", "/etc/passwd.csv", "a\0/b.csv", "~/x.csv", "x" * 900 + ".csv"],
)
def test_a_name_leads_nowhere(live, name):
    before = set(live.service.folder.rglob("*"))
    upload = sent(live, b"title\nx y\n", name).json()
    assert not set("/\\\0") & set(upload["name"]) and upload["name"].endswith(".csv") and len(upload["name"]) < 150
    new = set(live.service.folder.rglob("*")) - before
    assert {p.name for p in new if p.is_file() and "store" not in p.name} == {"offers.csv"}
    assert live.http.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    problem(live.http.delete(f"/v1/uploads/{upload['id']}"), 404, "unknown-upload")


def test_a_session_uploads_only_from_its_own_page(keyed):
    running, secrets = keyed
    with signed_in(running, secrets["extract"]) as (browser, token):
        post = lambda **headers: browser.post("/v1/uploads?name=a.csv", content=table(1), headers=CSV | headers)  # noqa: E731
        problem(post(), 403, "csrf")
        assert post(**{TOKEN: token}).status_code == 201


def post(path="/v1/uploads?name=a.csv", kind="text/csv"):
    return POST.replace("/v1/extract", path).replace("application/json", kind)


def test_a_file_beyond_the_limit_is_refused_early():
    with serving(ScriptedEngine(), upload=1 << 20) as running:
        answer, sent_bytes = raw(
            running, f"{post()}Content-Length: {100 << 20}\r\n\r\n", *(b"x\n" * (1 << 19) for _ in range(100))
        )
        assert sent_bytes < 30 << 20 and (not answer or " 413 " in answer.split("\r\n")[0])
        answer, _ = raw(running, f"{post()}Content-Length: {100 << 20}\r\n\r\n")
        assert " 413 " in answer.split("\r\n")[0] and "send it in parts" in answer
        chunk = b"100000\r\n" + b"x\n" * (1 << 19) + b"\r\n"
        _, sent_bytes = raw(running, f"{post()}Transfer-Encoding: chunked\r\n\r\n", *(chunk for _ in range(100)))
        assert sent_bytes < 40 << 20
        running.until(lambda: not list(running.service.uploads.folder.glob("*/*")))
        assert sent(running, table(3)).status_code == 201


def test_a_slow_file_is_not_waited_for():
    with serving(ScriptedEngine(), reading=0.3) as running:
        started = time.monotonic()
        answer, _ = raw(running, f"{post()}Content-Length: 1000\r\n\r\n", *[b"a"] * 8, pause=0.1)
        assert " 408 " in answer.split("\r\n")[0] and time.monotonic() - started < 3
        head = f"{post()}Content-Length: 1000\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.sendall(head + b"title\n")
        running.until(lambda: not list(running.service.uploads.folder.glob("*/*")))
        assert not running.service.uploads._coming["anonymous"]


def test_files_that_wait_are_bounded_and_do_not_wait_for_ever(tmp_path):
    with serving(ScriptedEngine(), uploads=3, pending=1_000) as running:
        ids = [sent(running, table(2)).json()["id"] for _ in range(3)]
        assert "DELETE /v1/uploads/ID" in problem(sent(running, table(2)), 429, "uploads")["detail"]
        assert [u["id"] for u in running.http.get("/v1/uploads").json()["uploads"]] == ids[::-1]
        running.http.delete(f"/v1/uploads/{ids[0]}")
        problem(sent(running, table(40)), 429, "uploads")
        uploads = running.service.uploads
        orphan = uploads.folder / "0123456789abcdef"
        orphan.mkdir()
        old = time.time() - 90_000
        os.utime(orphan, (old, old))
        job = running.http.post("/v1/jobs", json={"upload": ids[1]}).json()
        ended(running, job)
        running.service.store.database._clock = lambda: datetime(2100, 1, 1, tzinfo=UTC)
        uploads.sweep()
        assert not orphan.exists() and not uploads.place(ids[2]).exists() and uploads.place(ids[1]).exists()
        assert running.http.get("/v1/uploads").json() == {"uploads": []}


LONG = "A long description of what this thing is, how it was made and for whom, in many words. " * 2
GUESSES = [
    (["Artikelnummer", "Artikelbezeichnung", "Warengruppe", "Beschreibung"], ["1", "Velmora Schuh", "Schuhe", LONG], "1 0 3 2"),
    (["SKU", "Product Name", "Brand Name", "Product Type"], ["a1", "Velmora shoe", "Velmora", "Shoes"], "1 0 - 3"),
    (["référence", "titre", "catégorie", "descriptif"], ["r", "Chaussure Velmora", "Chaussures", "d"], "1 0 3 2"),
    (["gtin", "Titel", "Kategorie"], ["4012", "Velmora Schuh", "Schuhe"], "1 0 - 2"),
    (["货号", "商品名称", "分类"], ["1", "鞋", "鞋类"], "1 0 - 2"),
    (["id", "title", "description", "category"], ["1", "Velmora shoe", "", ""], "1 0 2 3"),
    (["Handle", "Title", "Body (HTML)", "Type"], ["velmora", "Velmora shoe", "<p>x</p>", "Shoes"], "1 0 2 3"),
    (["item_id", "item_name", "longDescription"], ["1", "Velmora shoe", "x"], "1 0 2 -"),
    (["c1", "c2", "c3"], ["x17", "Velmora suede loafer", LONG], "1 0 2 -"),
    (["what"], ["Velmora suede loafer"], "0 - - -"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "row", "places"), GUESSES, ids=[names[0] for names, _, _ in GUESSES])
def test_columns_are_guessed(names, row, places):
    rows = [
        dict(zip(names, (f"{cell}{n}" if i < 2 and cell else cell for i, cell in enumerate(row)), strict=True))
        for n in range(5)
    ]
    title, identity, description, category = (None if p == "-" else names[int(p)] for p in places.split())
    assert guess(Sample(names, rows)) == {
        "title": title,
        "id": identity,
        "description": description,
        "category": category,
    }


def test_the_content_speaks_where_names_do_not():
    rows = [{"id": "1", "sku": str(n), "group": "Shoes", "text 1": f"Velmora boot {n}"} for n in range(6)]
    found = guess(Sample(list(rows[0]), rows), lambda category: category == "Shoes")
    assert found == {"id": "sku", "title": "text 1", "description": None, "category": "group"}


def test_a_zip_bomb_is_refused_and_gone(live):
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("xl/worksheets/sheet1.xml", "w", force_zip64=True) as sheet,
    ):
        for _ in range(1_200):
            sheet.write(b" " * (1 << 20))
    before = {p.name for p in live.service.uploads.folder.glob("*")}
    begun, content = time.monotonic(), packed.getvalue()
    assert "unfolds to more than" in problem(sent(live, content, "bomb.xlsx"), 422, "file")["detail"]
    assert len(content) < 3 << 20 and time.monotonic() - begun < 10
    assert {p.name for p in live.service.uploads.folder.glob("*")} == before


def test_half_a_surrogate_pair_is_shown_as_none(live):
    upload = sent(live, b'{"id": "u", "title": "x \\ud800", "\\udfff": 1}\n', "a.jsonl").json()
    assert upload["columns"] == ["id", "title"] and upload["rows"] == [{"id": "u", "title": "x ?"}]
    assert sent(live, "title,размер\nx y,1\nz y,1\n".encode("cp1251"), "a.csv").json()["columns"] == ["title"]


def test_what_lies_on_another_disk_is_said(live):
    upload = sent(live, table(2)).json()
    live.service.uploads.place(upload["id"]).rename(live.service.folder / "elsewhere")
    for method, path, body in (
        ("POST", "/v1/jobs", {"upload": upload["id"]}),
        ("GET", f"/v1/uploads/{upload['id']}", None),
    ):
        problem(live.http.request(method, path, json=body), 409, "elsewhere")
    (live.service.folder / "elsewhere").rename(live.service.uploads.place(upload["id"]))
    assert live.http.delete(f"/v1/uploads/{upload['id']}").status_code == 204
    job = begun(live, table(2))
    ended(live, job)
    live.service.journal.move(job["id"], ["finished"], state="cancelled")
    live.service.uploads.place(job["id"]).rename(live.service.folder / "elsewhere")
    problem(live.http.post(f"/v1/jobs/{job['id']}/resume"), 409, "elsewhere")
    problem(live.http.post("/v1/jobs", json={"upload": job["id"]}), 409, "elsewhere")


def test_a_sample_is_what_the_file_says(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"\xef\xbb\xbfa,,b\n1,x,2\n3\n\xff,y,4\n")
    assert sample(path) == Sample(["a", "b"], [{"a": "1", "b": "2"}, {"a": "3", "b": ""}])
