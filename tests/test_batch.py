"""Durable jobs: every row ends once, in a record or a dead letter, whatever is killed, poisonous, full or changed."""

import json
import random
import socket
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import typer
from conftest import run_cli
from jobs import SCHEMA, made, offers, once, opener, poisonous
from openpyxl import Workbook, load_workbook
from rich.console import Console

from extractor import Extractor
from extractor.batch import files_of, in_process, retry, work
from extractor.batch_cli import _work
from extractor.config import load_settings
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineError, EngineUnavailable, InputError, TemplateError
from extractor.job import MANIFEST, Counts, open_job
from extractor.prices import money, prices_of
from extractor.processes import Engines
from extractor.progress import METRICS, SPEED, facts, line, reporting
from extractor.prompts import PROMPTS, load_template


@contextmanager
def opened_by(template):
    yield Extractor(ScriptedEngine(), [SCHEMA], template)


# --- the whole way ----------------------------------------------------------------------------------------------------


def test_a_job_gives_what_extract_gives_and_counts_add_up(tmp_path):
    common = ("--schema", str(PROMPTS / "schemas"), "--engine", "scripted")
    samples, folder = str(PROMPTS / "samples" / "catalogue.jsonl"), str(tmp_path / "job")
    done = run_cli("batch", "run", samples, *common, "--out", folder, "--chunk", "20", "--progress", "json")
    assert (
        done.returncode == 1 and "72 rows: 71 records (0 known already), 1 dead letters: 1 invalid_offer" in done.stderr
    )
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["rows"] for line in lines] == [20, 40, 60, 72] and lines[-1]["records_per_s"] > 0
    status = json.loads(run_cli("batch", "status", folder, "--json").stdout)
    assert status["rows"] == status["records"] + status["dead"] == status["total"] == 72 and status["finished"]
    assert "72" in run_cli("batch", "status", folder).stdout
    assert run_cli("batch", "resume", folder).returncode == 1  # nothing is left to do, and a dead letter is there
    plain = run_cli("extract", samples, *common).stdout.splitlines()
    exported = run_cli("batch", "export", folder).stdout.splitlines()

    def bare(lines):
        rows = [json.loads(line) for line in lines]
        for row in rows:
            row["provenance"] = None
        return sorted(rows, key=lambda row: row["offer_id"])

    assert bare(exported) == bare(plain)
    assert len(run_cli("batch", "export", folder, "--no-dead").stdout.splitlines()) == 71
    run_cli("batch", "export", folder, "--out", str(tmp_path / "records.parquet"))
    import pyarrow.parquet as pq

    assert pq.read_table(tmp_path / "records.parquet").num_rows == 72
    again = run_cli("batch", "run", samples, *common, "--out", folder)
    assert again.returncode == 2 and f"shelfwise batch resume {folder}" in again.stderr
    with open_job(Path(folder)) as job:
        (letter,) = job.letters()
        assert letter.attempts == 1 and letter.failure.failure.message.startswith("line ")


def test_files_folders_and_globs_are_one_input_with_unique_ids(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.jsonl").write_text(
            '{"title": "Velmora Loafer"}\n{"id": "7", "title": "Oskella Boot"}\n'
        )
    (tmp_path / "in" / "notes.txt").write_text("no offers")
    both = [tmp_path / "in" / "a.jsonl", tmp_path / "in" / "b.jsonl"]
    assert (
        files_of([str(tmp_path / "in")])
        == files_of([f"{tmp_path}/in/*.jsonl"])
        == files_of([*map(str, both), str(both[0])])
        == [str(path) for path in both]
    )
    with pytest.raises(InputError, match="no such file"):
        files_of([f"{tmp_path}/in/*.csv"])
    job = str(tmp_path / "job")
    run_cli("batch", "run", str(tmp_path / "in"), "--attributes", "Brand", "--engine", "scripted", "--out", job)
    with open_job(Path(job)) as opened:
        assert [r.offer_id for r in opened.records()] == ["a.jsonl:line-1", "7", "b.jsonl:line-1"]
        (letter,) = opened.letters()
        assert letter.failure.failure.reason == "duplicate_id" and letter.row == 3
    assert run_cli("batch", "retry", job).returncode == 1  # what is no offer of its own stays dead


# --- poison, death, patience ------------------------------------------------------------------------------------------


def test_poisonous_and_damaged_offers_alone_are_dead_letters(tmp_path):
    rng = random.Random(3)
    lines, wrong = offers(3_000), set()
    for i in rng.sample(range(3_000), 45):
        wrong.add(i)
        lines[i] = lines[i][:-9] if len(wrong) <= 30 else lines[i].replace("Loafer", f"POISON {i}")
    with made(tmp_path, lines, part=256) as job:
        work(job, opener(poisonous))
        letters = list(job.letters())
        assert {letter.row for letter in letters} == wrong
        assert job.counts().reasons == {"invalid_offer": 30, "engine_error": 15}
        broken = [letter for letter in letters if letter.failure.failure.reason == "engine_error"]
        assert all("a number that is none" in letter.failure.failure.message for letter in broken)
        assert all("POISON" in letter.prompt[-1]["content"] and letter.attempts > 1 for letter in broken)
        once(job, 3_000)
        counts = retry(job, opener())  # what was poisonous is no longer
        assert counts.records == 2_970 and counts.reasons == {"invalid_offer": 30}
        once(job, 3_000)
        assert retry(job, opener()).records == 2_970  # and has nothing to do any more


@pytest.mark.parametrize("engines", [0, 2])
def test_a_template_stumbles_over_an_offer_or_over_all(tmp_path, engines):
    lines = offers(40)
    lines[20] = lines[20].replace("Loafer", "STUMBLE")
    source = load_template("extract").source
    (tmp_path / "one.jinja").write_text(source + "{{ 1 // (0 if 'STUMBLE' in offer.title else 1) }}")
    (tmp_path / "all.jinja").write_text(source + "{{ 1 // 0 }}")
    extract = Engines(engines) if engines else in_process
    opened = lambda name: partial(opened_by, str(tmp_path / name))  # noqa: E731
    with made(tmp_path, lines) as job:
        with pytest.raises(TemplateError, match=r"all\.jinja:\d+: .*division"):
            work(job, opened("all.jinja"), extract=extract)
        assert job.counts().rows == 0
        work(job, opened("one.jinja"), extract=extract)
        assert once(job, 40)[1] == ["20"]
        assert "one.jinja" in next(job.letters()).failure.failure.message


def test_a_letter_that_dies_again_counts_its_attempts(tmp_path):
    with made(tmp_path, [offers(1)[0].replace("Loafer", "POISON")]) as job:
        work(job, opener(poisonous))
        first = next(job.letters()).attempts
        retry(job, opener(poisonous))
        assert next(job.letters()).attempts == first + 1
        assert once(job, 1) == ([], ["0"])


def test_an_engine_that_dies_is_started_again_and_its_chunk_repeated(tmp_path):
    engines, said, calls = [], [], []

    def script(request):
        calls.append(1)
        if len(calls) == 12:
            raise EngineError("out of memory")
        return first_words(request)

    with made(tmp_path, offers(20)) as job:
        work(job, opener(script, engines), say=said.append)
        assert len(engines) == 2 and once(job, 20)[1] == []
    assert said == ["the engine died, and is started again: EngineError: out of memory"]


def test_an_offer_that_kills_engines_is_found(tmp_path):
    def script(request):
        if "Brand5 " in request.messages[-1]["content"]:
            raise EngineError("segmentation fault")
        return first_words(request)

    engines = []
    with made(tmp_path, offers(16)) as job:
        work(job, opener(script, engines))
        assert once(job, 16)[1] == ["5"] and len(engines) <= 8


def test_a_server_that_is_down_is_waited_for_but_not_for_ever(tmp_path, monkeypatch):
    slept, said, calls = [], [], []
    monkeypatch.setattr("time.sleep", lambda seconds: slept.append(seconds) if seconds else None)

    def script(request):
        calls.append(1)
        if len(calls) < 5:
            raise EngineUnavailable("no answer from the server")
        return first_words(request)

    with made(tmp_path, offers(10)) as job:
        work(job, opener(script), say=said.append)
        assert slept == [1, 2, 4, 8] and once(job, 10)[1] == []
        assert said[1] == "no answer from the server; trying again in 2 s"

    @contextmanager
    def late():  # the server is not even there when the job begins
        calls.append(1)
        if len(calls) < 3:
            raise EngineUnavailable("connection refused")
        yield Extractor(ScriptedEngine(), [SCHEMA])

    calls.clear()
    with made(tmp_path, offers(10), "late") as job:
        work(job, late)
        once(job, 10)

    def down(request):
        raise EngineUnavailable("no answer from the server")

    with made(tmp_path, offers(10), "other") as job:
        with pytest.raises(EngineUnavailable):
            work(job, opener(down), patience=20)
        work(job, opener())
        once(job, 10)


def test_retries_of_a_job_have_a_budget(tmp_path):
    lines = [line.replace("Loafer", "POISON") for line in offers(40)]
    with made(tmp_path, lines) as job:
        with pytest.raises(
            InputError, match=r"all 10 retries are spent, the last on: RuntimeError: a number.*--retries 20"
        ):
            work(job, opener(poisonous), retries=10)
        assert job.counts().rows == 8  # the first part took seven
        work(job, opener(poisonous), retries=100)
        assert len(once(job, 40)[1]) == 40


def test_a_job_goes_from_workbook_to_workbook(tmp_path):
    book = Workbook()
    for row in (["id", "name"], *([n, f"=Brand{n} Loafer" if n == 7 else f"Brand{n} Loafer"] for n in range(40))):
        book.active.append(row)
    book.active["B9"].data_type = "s"
    book.save(tmp_path / "offers.xlsx")
    job, out = str(tmp_path / "job"), tmp_path / "out.xlsx"
    common = ("--title-column", "name", "--attributes", "Brand", "--engine", "scripted", "--chunk", "16")
    done = run_cli("batch", "run", str(tmp_path / "offers.xlsx"), "--out", job, *common)
    assert done.returncode == 0 and "40 rows: 40 records" in done.stderr, done.stderr
    assert run_cli("batch", "export", job, "--out", str(out)).returncode == 0
    rows = list(load_workbook(out).active.values)
    assert rows[0][:4] == ("offer_id", "category", "title", "Brand")
    assert [row[3] for row in rows[1:]] == [f"=Brand{n}" if n == 7 else f"Brand{n}" for n in range(40)]


# --- what is known already --------------------------------------------------------------------------------------------


def counting(script=first_words):
    seen = []
    return seen, opener(lambda request: seen.append(1) or script(request))


def test_the_same_offer_is_extracted_once(tmp_path):
    lines = [json.dumps({"id": str(i), "category": "Shoes", "title": f"Brand{i % 5} Loafer"}) for i in range(40)]
    seen, opened = counting()
    with made(tmp_path, lines, part=16) as job:
        counts = work(job, opened)
        assert len(seen) == 5 and counts.reused == 35
        assert once(job, 40)[0] == [str(i) for i in range(40)]
        assert [r.attributes["Brand"][0].value for r in job.records()] == [f"Brand{i % 5}" for i in range(40)]


def test_a_feed_of_which_little_changed_costs_little(tmp_path):
    with made(tmp_path, offers(100)) as old:
        work(old, opener())
    changed = offers(100)
    changed[50:52] = offers(2, first=500)
    seen, opened = counting()
    with open_job(tmp_path / "job") as old, made(tmp_path, changed, "new") as job:
        assert work(job, opened, reuse=[old]).reused == 98 and len(seen) == 2
        once(job, 100)


def test_what_changed_is_refused_or_remembered(tmp_path):
    schema = tmp_path / "shoes.yaml"
    schema.write_text("category: Shoes\nattributes:\n  - name: Brand\n")
    source, job = tmp_path / "offers.jsonl", str(tmp_path / "job")
    source.write_text("".join(line + "\n" for line in offers(4)))
    run_cli("batch", "run", str(source), "--schema", str(schema), "--engine", "scripted", "--out", job)
    schema.write_text("category: Shoes\nattributes:\n  - name: Color\n")
    refused = run_cli("batch", "resume", job)
    assert refused.returncode == 2 and "changed since the job was made: schema Shoes" in refused.stderr
    assert run_cli("batch", "resume", job, "--accept-changes").returncode == 0
    (change,) = json.loads((tmp_path / "job" / MANIFEST).read_text())["changes"]
    assert change["what"] == "schema Shoes" and change["was"] != change["is"]
    assert run_cli("batch", "resume", job).returncode == 0
    source.write_text("".join(line + "\n" for line in offers(5)))
    refused = run_cli("batch", "resume", job, "--accept-changes")
    assert refused.returncode == 2 and "the input has changed" in refused.stderr and f"--reuse {job}" in refused.stderr


def test_a_job_keeps_its_settings_but_no_secrets(tmp_path, monkeypatch):
    monkeypatch.setenv("SHELFWISE_API_KEY", "sk-secret")
    monkeypatch.setenv("SHELFWISE_K", "3")
    source = tmp_path / "offers.jsonl"
    source.write_text(offers(1)[0])
    run_cli(
        "batch", "run", str(source), "--attributes", "Brand", "--engine", "scripted", "--out", str(tmp_path / "job")
    )
    assert "sk-secret" not in (tmp_path / "job" / MANIFEST).read_text()
    monkeypatch.delenv("SHELFWISE_K")
    with open_job(tmp_path / "job") as job:
        settings = load_settings(**job.manifest.settings)
        assert settings.k == 3 and settings.api_key == "sk-secret"


@pytest.mark.parametrize(
    ("text", "cost"),
    [
        ("prompt=1", 10.0),
        ("prompt=1,cached=0.25", 4.0),
        ("prompt=1, output=2", 14.0),
        ("hour=3", 1.5),
        ("prompt=1,cached=0,output=2,hour=3", 7.5),
        ("hour=x", "write prompt=0.4"),
        ("2.5", "write prompt=0.4"),
        ("day=1", "unknown kind 'day'"),
        ("output=2,hour=3", "prompt tokens is missing"),
    ],
)
def test_what_a_job_costs(text, cost):
    if isinstance(cost, str):
        with pytest.raises(InputError, match=cost):
            prices_of(text)
        return
    assert money(prices_of(text), 10_000_000, 8_000_000, 2_000_000, 1_800) == pytest.approx(cost)
    counts = Counts(500, 490, 0, 10, 1_800, 10_000_000, 8_000_000, 2_000_000, {}, None)
    found = facts(counts, 0.25, counts, 60, prices_of(text))
    assert (found["cost"], found["cost_expected"]) == (pytest.approx(cost), pytest.approx(4 * cost))
    assert {"cost", "cost_expected"} <= METRICS.keys()
    assert line(found, SPEED).endswith(f"80% of the prompts from the prefix cache, {found['cost']} cost so far")
    assert "cost_expected" not in facts(counts, 0.0, prices=prices_of(text))


def test_a_job_knows_its_prices(tmp_path):
    (tmp_path / "offers.jsonl").write_text("".join(line + "\n" for line in offers(40)))
    common = ("--attributes", "Brand", "--engine", "scripted", "--out", str(tmp_path / "job"))
    begin = ("batch", "run", str(tmp_path / "offers.jsonl"), *common, "--chunk", "10", "--progress", "json")
    assert "write prompt=0.4" in run_cli(*begin, "--price", "two").stderr and not (tmp_path / "job").exists()
    done = run_cli(*begin, "--price", "prompt=0,output=1000000")
    costs = [json.loads(row)["cost"] for row in done.stderr.splitlines() if row.startswith("{")]
    assert costs == sorted(costs) and "records/s" in done.stderr and f"{costs[-1]} cost so far" in done.stderr

    def status(*options):
        return json.loads(run_cli("batch", "status", str(tmp_path / "job"), "--json", *options).stdout)

    assert status()["cost"] == status()["cost_expected"] == costs[-1] == status()["output_tokens"]
    assert status("--price", "prompt=0,output=2000000")["cost"] == 2 * costs[-1]

    calls = []

    def script(request):
        calls.append(1)
        if len(calls) > 100:
            raise KeyboardInterrupt
        return first_words(request)

    with made(tmp_path, offers(2_000), "half", part=20) as job, pytest.raises(typer.Exit):
        _work(job, partial(work, job, opener(script)), "none", None, None)
    half = json.loads(
        run_cli("batch", "status", str(tmp_path / "half"), "--json", "--price", "prompt=0,output=1000000").stdout
    )
    assert half["rows"] == half["cost"] == 100 and 1_800 < half["cost_expected"] < 2_200


def test_a_job_is_watched_by_prometheus(tmp_path):
    pytest.importorskip("prometheus_client")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    seen, last = [], []
    prices = prices_of("prompt=0,output=1000000")
    with (
        made(tmp_path, [*offers(30), "{"]) as job,
        reporting("none", job.counts(), Console(stderr=True), port, prices) as report,
    ):

        def scraped(counts, fraction):
            report(counts, fraction)
            last.append(counts)
            seen.append(httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text)

        work(job, opener(), report=scraped)
        with (
            pytest.raises(InputError, match=f"--metrics-port {port}"),
            reporting("none", job.counts(), Console(), port),
        ):
            pass
    assert [f"shelfwise_job_rows {n}.0" in text for n, text in zip((8, 16, 24, 31), seen, strict=True)] == [True] * 4
    assert "shelfwise_job_cost 30.0" in seen[-1] and "shelfwise_job_cost_expected 30.0" in seen[-1]
    assert 'shelfwise_job_dead_letters{reason="invalid_offer"} 1.0' in seen[-1]
    with pytest.raises(InputError, match="--progress 'loud' is none of"), reporting("loud", last[0], Console()):
        pass
