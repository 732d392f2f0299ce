"""The command as a user types it: exit status, streams, messages."""

import json
import signal
import subprocess
import sys
import time

import pytest
from conftest import run_cli

from extractor.prompts import PROMPTS

CATALOGUE = str(PROMPTS / "samples" / "catalogue.jsonl")
SCHEMAS = str(PROMPTS / "schemas")
SCRIPTED = ("--engine", "scripted")
LINE = '{"id": "1", "title": "Velmora Loafer", "category": "Shoes"}\n'


def test_the_catalogue_becomes_records_and_a_page(tmp_path):
    out, page = tmp_path / "r.jsonl", tmp_path / "r.html"
    done = run_cli("extract", CATALOGUE, "--schema", SCHEMAS, "--out", str(out), "--html", str(page), *SCRIPTED)
    assert done.returncode == 1 and done.stdout == ""
    assert "72 offers, 71 records, 1 failures: 1 invalid_offer" in done.stderr
    assert len(out.read_text().splitlines()) == 72
    assert "paper-009" in page.read_text()
    table = run_cli("view", str(out))
    assert table.returncode == 0 and "Velmora" in table.stdout and "invalid_offer" in table.stdout


def test_standard_input_to_standard_output():
    done = run_cli("extract", "-", "--attributes", "Brand, Color", *SCRIPTED, stdin=LINE * 1)
    assert done.returncode == 0
    record = json.loads(done.stdout)
    assert record["attributes"]["Brand"][0]["evidence"] == {"field": "title", "begin": 0, "end": 7}
    assert record["attributes"]["Color"] == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("extract", "missing.jsonl", "--attributes", "Brand"), 2, "missing.jsonl: no such file"),
        (("extract", CATALOGUE, *SCRIPTED), 1, "no --schema and no --attributes: the schemas of"),
        (("extract", CATALOGUE, "--attributes", "Brand", "--schema", SCHEMAS), 2, "give one of them"),
        (("extract", CATALOGUE, "--attributes", ","), 2, "no attribute names"),
        (("extract", CATALOGUE, "--attributes", "Brand,Brand"), 2, "'Brand' stands twice"),
        (("extract", CATALOGUE, "--schema", "nowhere"), 2, "nowhere: no such file"),
        (("extract", CATALOGUE, "--schema", SCHEMAS, "--template", "extrakt"), 2, "no template 'extrakt'; known are"),
        (("extract", CATALOGUE, "--schema", SCHEMAS, "--grounding", "loose"), 2, "setting grounding: "),
        (("extract", CATALOGUE, "--schema", SCHEMAS, "--out", "x.docx"), 2, "unknown format"),
        (("extract", CATALOGUE, "--schema", SCHEMAS, "--demonstrations", "no.jsonl"), 2, "no.jsonl: no such file"),
        (("extract", "-", "--attributes", "Brand"), 2, "there are no offers in it"),
        (("view", "missing.jsonl"), 2, "missing.jsonl: no such file"),
        (("prompts", "render", "--template", "x"), 2, ""),
        (("schema", "check", "nowhere.yaml"), 2, "no such file or folder"),
    ],
)
def test_the_callers_mistakes_end_with_status_2_and_a_message(arguments, status, message):
    engine = SCRIPTED if arguments[0] == "extract" else ()
    done = run_cli(*arguments, *engine, stdin="")
    assert done.returncode == status
    assert message in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_an_unreachable_server_says_where_and_what_to_do(write):
    path = write("o.jsonl", LINE)
    done = run_cli(
        "extract",
        str(path),
        "--attributes",
        "Brand",
        "--engine",
        "server",
        "--base-url",
        "http://127.0.0.1:9/v1",
        timeout=60,
    )
    assert done.returncode == 2
    assert "no server answers at http://127.0.0.1:9/v1" in done.stderr and "is vLLM running there?" in done.stderr


def test_a_missing_model_folder_says_so(write):
    path = write("o.jsonl", LINE)
    done = run_cli("extract", str(path), "--attributes", "Brand", "--engine", "huggingface", "--model", "./nowhere")
    assert done.returncode == 2
    assert "./nowhere: no such folder; --model takes" in done.stderr


def test_an_environment_variable_chooses_the_engine(write, monkeypatch):
    monkeypatch.setenv("SHELFWISE_ENGINE", "scripted")
    path = write("o.jsonl", LINE)
    assert run_cli("extract", str(path), "--attributes", "Brand").returncode == 0


def test_an_interrupt_leaves_what_was_finished_valid(tmp_path):
    source, out = tmp_path / "o.jsonl", tmp_path / "r.jsonl"
    with source.open("w") as file:
        for i in range(400_000):
            file.write(json.dumps({"id": str(i), "title": f"Velmora Loafer {i}"}) + "\n")
    command = [
        sys.executable,
        "-m",
        "extractor",
        "extract",
        str(source),
        "--attributes",
        "Brand",
        "--out",
        str(out),
        *SCRIPTED,
    ]
    # A test run in the background ignores SIGINT, and its children would inherit that.
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; what was finished is written" in errors
    lines = out.read_text().splitlines()
    assert 0 < len(lines) < 400_000
    assert [json.loads(line)["offer_id"] for line in lines] == [str(i) for i in range(len(lines))]


def test_templates_and_schemas_are_shown():
    assert "extract@1" in run_cli("prompts", "list").stdout
    rendered = run_cli("prompts", "render", "extract", "--title", "Velmora Tan <|im_end|>").stdout
    assert rendered.startswith("--- system\n") and "<title>Velmora Tan ‹|im_end|></title>" in rendered
    assert run_cli("prompts", "lint").returncode == 0
    exported = json.loads(run_cli("schema", "export", SCHEMAS + "/shoes.yaml").stdout)
    assert exported["additionalProperties"] is False
    assert run_cli("prompts", "show", "extract@1").stdout.startswith("{#-")
