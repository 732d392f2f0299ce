"""Runs and scores through the command line, as users type them; and a real engine in `test_engines`."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import run_cli

from eval.datasets import load_dataset
from eval.run import inputs_of, run
from extractor import Extractor
from extractor.config import load_settings, open_extractor
from extractor.demonstrations import check_leaks
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import DemonstrationError, EngineUnavailable, InputError
from extractor.prompts import PROMPTS

LABELS = [
    {
        "id": str(i),
        "category": "Shoes",
        "title": f"{brand} Loafer Tan",
        "attributes": {"Brand": [brand]},
        "absent": ["Color"],
    }
    for i, brand in enumerate(["Velmora", "Ostrin", "Karu", "Fenno"] * 50)
]


@pytest.fixture
def labels(write) -> Path:
    rows = [row | {"title": f"{row['title']} {row['id']}"} for row in LABELS]
    return write("labels.jsonl", "\n".join(map(json.dumps, rows)))


def predictions(write, rows) -> Path:
    return write("predictions.jsonl", "\n".join(map(json.dumps, rows)))


def test_run_scores_repeats_for_nothing_and_tells_changes_apart(labels, tmp_path):
    def eval_run(*options: str) -> Path:
        arguments = ("eval", "run", "--data", str(labels), "--engine", "scripted", "--out", str(tmp_path / "runs"))
        done = run_cli(*arguments, *options)
        assert done.returncode == 0, done.stderr
        assert "F1, published protocol" in done.stdout and "records/s" in done.stdout
        return Path("".join(done.stdout.splitlines()[-1:]))

    folder = eval_run()
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["micro"]["f1"] == 100.0 and scores["rates"]["failure"] == 0.0  # the fake says the first word
    written = (folder / "predictions.jsonl").stat().st_mtime_ns
    assert eval_run() == folder and (folder / "predictions.jsonl").stat().st_mtime_ns == written
    assert eval_run("--template", "extract-zh") != folder
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_killed_run_goes_on_where_it_stopped(labels, tmp_path):
    dataset, settings = load_dataset(labels), load_settings(engine="scripted")
    inputs = inputs_of(settings, dataset, [])
    calls = []

    def opened():
        return open_extractor(settings, dataset.schemas)

    def killed(done: int) -> None:
        calls.append(done)
        if done == 128:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(opened, dataset, inputs, tmp_path, progress=killed)
    (file,) = tmp_path.glob("*/predictions.jsonl")
    first = file.read_text().splitlines()
    file.write_text("\n".join(first[:100]) + "\n" + first[100][:40])  # torn in the middle of a line
    calls.clear()
    done = run(opened, dataset, inputs, tmp_path, progress=calls.append)
    assert calls == [100, 200] and done.scores["cost"]["offers"] == 200
    lines = (done.folder / "predictions.jsonl").read_text().splitlines()
    assert lines[:100] == first[:100] and [json.loads(x)["offer_id"] for x in lines] == [o.id for o in dataset.offers]


def test_a_broken_cache_is_named(labels, tmp_path):
    dataset, settings = load_dataset(labels), load_settings(engine="scripted")

    def again():
        return run(
            lambda: open_extractor(settings, dataset.schemas), dataset, inputs_of(settings, dataset, []), tmp_path
        )

    file = again().folder / "predictions.jsonl"
    whole = file.read_text()
    file.write_text(whole.replace('"offer_id"', '"offer_id', 1))
    with pytest.raises(InputError, match=r"predictions.jsonl:1: broken: .*; delete .* to run it anew"):
        again()
    file.write_text(whole.replace('"offer_id":"0"', '"offer_id":"other"', 1))
    with pytest.raises(InputError, match="offer 'other' is not of this data"):
        again()


def test_an_engine_that_fails_leaves_what_was_done(labels, tmp_path):
    dataset = load_dataset(labels)
    failing = Extractor(ScriptedEngine(failing=frozenset({1})), dataset.schemas)
    with pytest.raises(EngineUnavailable):
        run(lambda: nullcontext(failing), dataset, {"a": 1}, tmp_path)
    (file,) = tmp_path.glob("*/predictions.jsonl")
    assert len(file.read_text().splitlines()) == 128
    done = run(lambda: nullcontext(failing), dataset, {"a": 1}, tmp_path)
    assert len(done.predictions) == 200


def test_a_demonstration_that_is_evaluated_is_refused(labels):
    done = run_cli("eval", "run", "--data", str(labels), "--engine", "scripted", "--demonstrations", str(labels))
    assert done.returncode == 2 and "demonstration '0' is the evaluated offer '0'" in done.stderr


def test_published_protocol_of_the_papers_lines(write):
    gold = write(
        "gold.jsonl",
        "\n".join(
            json.dumps({"input": t, "category": "Shoes", "target_scores": {"Brand": {b: 1}, "Color": {"n/a": 1}}})
            for t, b in (("Velmora Loafer", "Velmora"), ("Karu Boot", "Karu"))
        ),
    )
    said = predictions(
        write,
        [
            {"input": "Velmora Loafer", "pred": '{"Brand": "Velmora", "Color": "n/a"}'},
            {"input": "Karu Boot", "pred": "{"},
        ],
    )
    done = run_cli("eval", "score", "--predictions", str(said), "--gold", str(gold), "--protocol", "published")
    assert (done.returncode, done.stdout) == (0, "100.00\t50.00\t66.67\n")


def test_score_prints_what_was_left_out_and_writes_json(write, labels, tmp_path):
    rows = [{"id": row["id"], "pred": json.dumps(row["attributes"] | {"Heel": "x"})} for row in LABELS]
    said = predictions(write, [*rows, {"id": "stranger", "pred": "{}"}])
    out = tmp_path / "scores.json"
    done = run_cli("eval", "score", "--predictions", str(said), "--gold", str(labels), "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "left out: 200 values of attribute 'Heel', which is not asked for" in done.stdout
    assert "left out: 1 predictions of offers that gold does not have" in done.stdout
    scores = json.loads(out.read_text())
    assert scores["published"]["f1"] == 100.0 and scores["published"]["interval"] == [100.0, 100.0]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"id": "0", "pred": "{}"}], "199 of 200 gold offers have no prediction (first: 1, 2, 3)"),
        ([{"id": "0", "pred": "{}"}] * 2, "a second prediction for offer '0'"),
        ([{"pred": "{}"}] * 3, "3 predictions without ids for 200 gold offers"),
        ([{"input": "Other", "pred": "{}"}] * 200, "the orders differ"),
        ([{"id": str(i), "pred": '{"Marke": "x"}'} for i in range(200)], "no predicted attribute is asked for"),
        ([{"id": "0", "x": 1}], "neither a record of Shelfwise nor a line with `pred`"),
    ],
)
def test_gold_and_predictions_that_do_not_match(write, labels, rows, message):
    said = predictions(write, rows)
    done = run_cli("eval", "score", "--predictions", str(said), "--gold", str(labels))
    assert done.returncode == 2 and message in done.stderr.replace("\n", " ")


def test_a_changed_label_or_demonstration_is_another_run(labels):
    dataset, settings = load_dataset(labels), load_settings(engine="scripted")
    plain = inputs_of(settings, dataset, [])
    assert plain == inputs_of(load_settings(engine="scripted", k=3), dataset, [])  # k counts only with demonstrations
    assert plain != inputs_of(settings, dataset, list(dataset.offers[:2]))
    assert plain != inputs_of(load_settings(engine="scripted", grounding="off"), dataset, [])
    first, shown = load_settings(engine="scripted", order="first"), list(dataset.offers[:2])
    assert plain == inputs_of(first, dataset, [])  # so does the order, and only of similar ones
    assert inputs_of(first, dataset, shown) != inputs_of(settings, dataset, shown)


def test_leaks_are_found_by_text_too(labels):
    offers = load_dataset(labels).offers
    copy = offers[3].model_copy(update={"id": "new", "title": offers[3].title.upper() + " "})
    with pytest.raises(DemonstrationError, match="training split"):
        check_leaks([copy], offers)
    check_leaks([offers[0]], offers[1:])


@pytest.fixture
def worse(write) -> Path:
    """A template under which the scripted engine answers with a word that the offer does not have."""
    shown = (PROMPTS / "templates" / "extract" / "1.jinja").read_text()
    return write("worse.jinja", shown.replace("<title>{{ offer.title }}", "<title>New {{ offer.title }}"))


def test_prompts_compare_finds_the_worse_template(labels, worse, tmp_path):
    page, out = tmp_path / "compare.html", tmp_path / "compare.json"
    command = ["prompts", "compare", "extract", str(worse), "--data", str(labels), "--n", "60", "--engine", "scripted"]
    command += ["--out", str(tmp_path / "runs"), "--html", str(page), "--json", str(out)]
    done = run_cli(*command, "--fail-below", "50", "--no-regression", "Brand")
    assert done.returncode == 1
    assert "F1 0.0 is below 50" in done.stderr and "Brand fell from 100.0 to 0.0" in done.stderr
    first, second = json.loads(out.read_text())
    assert (first["f1"], second["f1"], second["difference"]["f1"]) == (100.0, 0.0, -100.0)
    assert second["difference"]["p"] < 0.01
    html = page.read_text()
    assert "60 offers on which they differ" in html and "&lt;title&gt;New " in html and "http://" not in html
    again = run_cli(*command)
    assert again.returncode == 0 and "worse: Brand -100.0" in again.stdout


def test_prompts_compare_of_equals(labels, tmp_path):
    done = run_cli(
        *("prompts", "compare", "extract", "extract-zh", "--data", str(labels), "--engine", "scripted"),
        *("--out", str(tmp_path / "runs"), "--no-regression", "Brand"),
    )
    assert done.returncode == 0 and "+0.0 to +0.0" in done.stdout and "1.000" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract",), "name two templates or more"),
        (("extract", "extrakt"), "no template 'extrakt'"),
        (("extract", "extract-zh", "--no-regression", "Heel"), "--no-regression 'Heel': not an attribute of the data"),
        (("extract", "extract-zh", "--price", "prompt"), "write prompt=0.4"),
    ],
)
def test_a_comparison_that_cannot_be_made(labels, arguments, message):
    done = run_cli("prompts", "compare", *arguments, "--data", str(labels), "--engine", "scripted")
    assert done.returncode == 2 and message in done.stderr.replace("\n", " ")
