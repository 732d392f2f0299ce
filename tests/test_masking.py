"""With --mask-pii no personal data reaches a model, a record, a job's folder, a store, a log or another's eyes."""

import csv
import json
import re
from contextlib import closing, contextmanager

import pytest
from conftest import assert_grounded, run_cli
from openpyxl import Workbook
from serving import sent, serving
from test_feedback import record

from extractor import AttributeValue, Extraction, Failure, LabelledOffer, ProductOffer, load_schemas
from extractor.batch import retry, work
from extractor.config import load_settings, make_extractor
from extractor.database import Database, tables
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.feedback import Store
from extractor.io import OfferReader
from extractor.job import MANIFEST, create, open_job
from extractor.pii import MASK

SECRETS = ("ann@velmora.com", "+49 30 23125 123", "4111 1111 1111 1111")
TITLE = "Velmora Loafer, ann@velmora.com, +49 30 23125 123, tan"
SHOWN = re.sub(r"ann@\S+com|\+49[\d ]+\d", lambda found: re.sub(r"\S", MASK, found[0]), TITLE)
ROWS = [
    {"id": "1", "category": "Shoes", "title": TITLE, "description": "paid by 4111 1111 1111 1111"},
    {"id": "1", "category": "Shoes", "title": TITLE},  # a duplicate is a failure with its text
    {"id": "2", "category": "Hats ann@velmora.com", "title": TITLE},  # no schema: a failure too
    {"id": "3", "category": "Shoes", "title": f"POISON {TITLE}"},
    {"id": "4", "category": "Shoes", "title": f"MUMBLE {TITLE}"},
]
YAML = "category: {}\nattributes:\n  - name: Brand\n  - name: Color\n"


def clean(*texts):
    assert not [secret for secret in SECRETS for text in texts if secret in text]


def looking(seen):
    """Keeps the prompts; dies of one offer, and answers another with the title that it was shown."""

    def script(request):
        prompt = str(request.messages)
        seen.append(prompt)
        if "POISON" in prompt:
            raise RuntimeError(request.messages[-1]["content"])
        return request.messages[-1]["content"] if "MUMBLE" in prompt else first_words(request)

    return ScriptedEngine(script)


@pytest.fixture
def feed(tmp_path):
    """Offers as JSONL, CSV and XLSX, and schemas."""
    (tmp_path / "o.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with (tmp_path / "o.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    book = Workbook()
    for row in (list(ROWS[0]), *([r.get(name) for name in ROWS[0]] for r in ROWS)):
        book.active.append(row)
    book.save(tmp_path / "o.xlsx")
    (tmp_path / "schemas").mkdir()
    for category in ("Shoes", "Tea"):
        (tmp_path / "schemas" / f"{category}.yaml").write_text(YAML.format(category))
    return tmp_path


@pytest.mark.parametrize("ending", ["jsonl", "csv", "xlsx"])
def test_whatever_is_read_is_masked_failures_too(feed, ending):
    rows = list(OfferReader(feed / f"o.{ending}", mask_pii=True))
    clean(*(row.model_dump_json() for row in rows))
    assert [row.title for row in rows[:2]] == [SHOWN, SHOWN] and rows[1].failure.reason == "duplicate_id"
    assert TITLE in [row.title for row in OfferReader(feed / f"o.{ending}")]


def test_an_extractor_masks_what_it_is_given(feed):
    seen = []
    schemas = load_schemas(feed / "schemas")
    extractor = make_extractor(looking(seen), load_settings(engine="scripted", mask_pii=True), schemas)
    offers = [ProductOffer(**row) for row in ROWS if "POISON" not in row["title"]]
    records = extractor.extract(offers)
    assert_grounded(offers, records)
    clean(*seen, *(r.model_dump_json() for r in records), str(extractor.prompt(offers[0], schemas[0])))
    assert records[0].title == SHOWN and records[0].attributes["Brand"][0].value == "Velmora"
    assert [r.failure.reason for r in records if isinstance(r, Failure)] == ["unknown_category", "invalid_output"]
    plain = make_extractor(looking(seen), load_settings(engine="scripted"), schemas)
    assert plain.extract(offers[:1])[0].title == TITLE and SECRETS[0] in seen[-1]


def test_demonstrations_with_personal_data_are_shown_to_nobody(feed):
    seen = []
    schemas = load_schemas(feed / "schemas")
    shown = [
        LabelledOffer(id="d1", category="Shoes", title=TITLE, attributes={"Brand": ["ann@velmora.com"]}),
        LabelledOffer(id="d2", category="Shoes", title="Tarn Boot ann@velmora, tan", attributes={"Brand": ["Tarn"]}),
    ]
    extractor = make_extractor(looking(seen), load_settings(engine="scripted", mask_pii=True), schemas, shown)
    extractor.extract([ProductOffer(**ROWS[0])])
    clean(*seen)
    assert "Tarn" in seen[0]


def test_the_command_writes_and_logs_nothing_unmasked(feed):
    common = ("--schema", str(feed / "schemas"), "--engine", "scripted", "--out")
    for name in ("r.jsonl", "r.csv"):
        done = run_cli(
            "extract", str(feed / "o.xlsx"), *common, str(feed / name), "--html", str(feed / "r.html"), "--mask-pii"
        )
        clean(done.stdout, done.stderr, (feed / name).read_text(), (feed / "r.html").read_text())
        assert "5 offers" in done.stderr and SHOWN in (feed / name).read_text()
    run_cli("extract", str(feed / "o.xlsx"), *common, str(feed / "r.jsonl"))
    assert SECRETS[0] in (feed / "r.jsonl").read_text()


def job_of(feed, name, *options):
    source, schemas = str(feed / "o.jsonl"), str(feed / "schemas")
    common = ("--schema", schemas, "--engine", "scripted", "--out", str(feed / name))
    return run_cli("batch", "run", source, *common, *options)


def files(folder):
    return [path.read_bytes().decode("utf-8", "replace") for path in folder.rglob("*") if path.is_file()]


def test_nothing_in_the_folder_of_a_job_is_unmasked(feed):
    seen, said = [], []
    job_of(feed, "job", "--mask-pii")
    (feed / "other").mkdir()
    with open_job(feed / "job") as begun, create(feed / "other" / "job", begun.manifest) as job:
        settings, schemas = load_settings(**job.manifest.settings), load_schemas(feed / "schemas")

        @contextmanager
        def opened():
            yield make_extractor(looking(seen), settings, schemas)

        for act in (work, retry):
            act(job, opened, say=said.append)
            reasons = [letter.failure.failure.reason for letter in job.letters()]
            assert sorted(reasons) == ["duplicate_id", "engine_error", "invalid_output", "unknown_category"]
            assert [letter.prompt is not None for letter in job.letters()].count(True) == 2
            clean(*files(feed / "other"), *files(feed / "job"), *seen, *said)
        assert [record.title for record in job.records()] == [SHOWN]
    out = feed / "r.csv"
    run_cli("batch", "export", str(feed / "other" / "job"), "--out", str(out))
    clean(out.read_text())
    job_of(feed, "plain")
    assert SECRETS[0] in "".join(files(feed / "plain"))


def test_a_job_keeps_to_its_masking(feed, monkeypatch):
    job_of(feed, "masked", "--mask-pii")
    job_of(feed, "plain")
    resumed = run_cli("batch", "resume", str(feed / "masked"))
    assert resumed.returncode == 1, resumed.stderr
    manifest = feed / "masked" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"mask_pii": true', '"mask_pii": false'))
    refused = run_cli("batch", "resume", str(feed / "masked"))
    assert refused.returncode == 2 and "changed since the job was made: mask_pii" in refused.stderr
    monkeypatch.setenv("SHELFWISE_MASK_PII", "true")
    for action in ("resume", "retry"):
        refused = run_cli("batch", action, str(feed / "plain"))
        assert refused.returncode == 2 and "the job was begun without --mask-pii" in refused.stderr
    job_of(feed, "asked", "--reuse", str(feed / "plain"))
    clean(*files(feed / "asked"))
    assert SECRETS[0] in "".join(files(feed / "plain"))
    job_of(feed, "unasked", "--no-mask-pii")
    assert SECRETS[0] in "".join(files(feed / "unasked"))


def test_the_store_of_corrections_gets_what_is_masked(feed, address):
    seen = []
    extractor = make_extractor(
        looking(seen), load_settings(engine="scripted", mask_pii=True), load_schemas(feed / "schemas")
    )
    with closing(Database(address)) as database:
        Store(database).add([r for r in extractor.extract([ProductOffer(**ROWS[0])]) if isinstance(r, Extraction)])
        with database.reading() as connection:
            rows = [str(row) for table in tables.metadata.sorted_tables for row in connection.execute(table.select())]
    clean(*rows)
    assert any(SHOWN in row for row in rows)


def test_a_service_that_masks_shows_its_engine_its_log_and_its_clients_nothing(caplog):
    seen = []
    with caplog.at_level("INFO"), serving(looking(seen), mask_pii=True) as running:
        offers = [{**row, "id": str(n)} for n, row in enumerate(ROWS)]
        answer = running.extract(*offers)
        preview = running.http.post("/v1/templates/preview", json={"offer": offers[0]})
        assert answer.status_code == preview.status_code == 200
        metrics = running.http.get("/metrics").text
    results = answer.json()["results"]
    reasons = [r.get("failure", {}).get("reason") for r in results]
    assert reasons == [None, None, "unknown_category", "engine_error", "invalid_output"]
    assert results[0]["title"] == SHOWN and caplog.records
    clean(answer.text, preview.text, metrics, *(str(vars(record)) for record in caplog.records), *seen)


def test_records_from_elsewhere_are_masked_before_they_are_kept():
    made = record("1", TITLE, Brand=("Velmora", 0.5), Contact=("+49 30 23125 123", 0.5)).model_copy(
        update={"description": "paid by 4111 1111 1111 1111"}
    )
    inferred = AttributeValue(value="ann@velmora.com", normalized_value=SECRETS[1], status="inferred")
    made = made.model_copy(update={"attributes": {**made.attributes, "Mail": [inferred]}})
    body = {"records": [made.to_dict()]}
    with serving(ScriptedEngine(), mask_pii=True) as running:
        answers = [running.http.post("/v1/feedback/records", json=body).json()["added"] for _ in range(2)]
        with running.service.store.database.reading() as connection:
            clean(*(str(row) for table in tables.metadata.sorted_tables for row in connection.execute(table.select())))
        (kept,) = running.service.store.records(["1"])
    assert answers == [1, 0] and kept.title == SHOWN and kept.attributes["Brand"] == made.attributes["Brand"]
    (found,) = kept.attributes["Contact"]
    assert found.value == kept.title[found.evidence.begin : found.evidence.end] == "••• •• ••••• •••"
    with serving(ScriptedEngine()) as running:
        running.http.post("/v1/feedback/records", json=body)
        assert running.service.store.records(["1"]) == [made]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "xlsx"])
def test_the_preview_of_a_file_is_masked(feed, ending):
    content = (feed / f"o.{ending}").read_bytes()
    with serving(ScriptedEngine(), mask_pii=True) as running:
        upload = sent(running, content, f"o.{ending}")
        again = running.http.get(f"/v1/uploads/{upload.json()['id']}")
        clean(upload.text, again.text, running.http.get("/v1/uploads").text)
        assert [row["title"] for row in again.json()["rows"]][:2] == [SHOWN, SHOWN]
        assert upload.json()["guessed"]["title"] == "title"
        cut = sent(running, f"id,title\n1,{'red ' * 124}+49 30 23125 123\n".encode())
        assert cut.json()["rows"][0]["title"] == "red " * 124 + "••• "
    with serving(ScriptedEngine()) as running:
        assert sent(running, content, f"o.{ending}").json()["rows"][0]["title"] == TITLE
