"""Systems side by side: which arms there are, that nothing is run twice, and what the report says."""

import json
import re

import pytest
from conftest import labelled, run_cli

from eval import compare as sides
from eval import page
from eval.compare_report import sections
from eval.datasets import load_dataset
from eval.run import shared_engine
from extractor.config import load_settings
from extractor.errors import InputError


@pytest.fixture
def folder(write):
    """Sixty training offers and twenty to evaluate, whose brands the training labels know in part."""

    def rows(names, n, first):
        for i in range(n):
            brand = names[i % len(names)]
            title = f"{brand} Loafer {'Tan' if i % 2 else 'Navy'} {first + i}"
            colour = {"Color": ["Tan"]} if i % 2 else {"Color": ["Navy"]}
            yield json.dumps({"id": f"{first + i}", "title": title, "attributes": {"Brand": [brand], **colour}})

    train = write("set/train.jsonl", "\n".join(rows(["Velmora", "Ostrin", "Karu"], 60, 0)))
    write("set/validation.jsonl", "\n".join(rows(["Velmora", "Fenno"], 20, 100)))
    return train.parent


def splits(folder):
    return load_dataset(folder, "train"), load_dataset(folder, "validation")


@pytest.mark.parametrize(
    ("system", "budgets", "arms"),
    [
        ("zero-shot", [0, 10, None], [(0, 0)]),
        ("few-shot", [0, 10, None], [(10, 0), (10, 1), (None, 0)]),
        ("lookup", [0, 10, 1000, None], [(10, 0), (10, 1), (None, 0)]),
        ("token_classification", [10, None], [(10, 0), (10, 1), (None, 0), (None, 1)]),
    ],
)
def test_only_what_depends_on_labels_or_chance_is_repeated(system, budgets, arms):
    assert [arm[1:] for arm in sides.plan([system], budgets, seeds=2, labels=60)] == arms


@pytest.mark.parametrize(
    ("system", "labels", "share", "epochs"),
    [
        ("token_classification", 10, 1.0, 320),  # 200 steps of 16 rows
        ("token_classification", 1000, 1.0, 15),
        ("token_classification", 1000, 1 / 3, 5),
        ("token_classification", 30, 1 / 3, 36),
        ("question_answering", 10, 1.0, 107),  # three questions an offer
    ],
)
def test_few_labels_are_seen_more_often(system, labels, share, epochs):
    offers = [labelled(f"x {i}", Brand="x", Color="x", Size="x") for i in range(labels)]
    assert sides._recipe(system, offers, 0, share).epochs == epochs


def test_a_larger_budget_holds_the_smaller_one(folder):
    training, _ = splits(folder)
    ten, thirty = sides.drawn(training, 10, seed=1), sides.drawn(training, 30, seed=1)
    assert len(ten) == 10 and thirty[:10] == ten and sides.drawn(training, 10, seed=2) != ten
    assert sides.drawn(training, None, seed=1) == list(training.offers)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sides.named("lookup,bart"), "unknown system 'bart'; there are zero-shot"),
        (lambda: sides.budgets_of("10,many"), "write numbers and `all` with commas"),
    ],
)
def test_what_is_not_a_system_or_a_budget(call, message):
    with pytest.raises(InputError, match=re.escape(message)):
        call()


def test_a_comparison_runs_every_arm_once_and_reports_them(folder, tmp_path):
    training, validation = splits(folder)
    arms = list(sides.plan(["zero-shot", "few-shot", "lookup"], [0, 10, None], seeds=2, labels=60))
    settings = load_settings(engine="scripted")
    with shared_engine(settings) as extractor:
        found = sides.compare(training, validation, arms, settings, extractor, tmp_path)
    assert [(a.system, a.budget, a.seed, a.labels) for a in found][-1] == ("lookup", None, 0, 60)
    # The scripted engine answers with the first word, the brand, and never with a colour.
    assert found[0].run.scores["by"]["attribute"]["Brand"]["f1"] == 100.0
    lookup = found[-1].run.scores
    assert lookup["by"]["value"]["seen in training"]["recall"] == 100.0
    assert lookup["by"]["value"]["not seen"]["recall"] == 0.0

    def nothing(*_: object):
        raise AssertionError("everything is there already")

    again = sides.compare(training, validation, arms, settings, nothing, tmp_path)
    assert [a.run.scores for a in again] == [a.run.scores for a in found]
    report = sections(validation, found)
    text = page.markdown(report)
    assert "| zero-shot | 66.7 (66.7 to 66.7) |" in text and "| lookup |" in text
    worst = next(s for s in report if "worst" in s.heading)
    assert worst.rows[0][0] == "Brand" and "Fenno Loafer" in worst.rows[0][3] and worst.rows[0][-1] == "none"
    page.write_page(tmp_path / "report.html", "Compared", "<lead>", report)
    html = (tmp_path / "report.html").read_text()
    assert "&lt;lead&gt;" in html and "<svg" in html and "var(--c2)" in html and "#0102f" not in html
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)


def test_the_command(folder, tmp_path):
    command = ["eval", "compare", "--data", str(folder), "--systems", "zero-shot,lookup", "--engine", "scripted"]
    command += ["--budgets", "0,10,all", "--seeds", "1", "--out", str(tmp_path / "runs")]
    command += ["--json", str(tmp_path / "c.json"), "--markdown", str(tmp_path / "c.md")]
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    assert "3/3  set: lookup, all labels, seed 0" in done.stderr and "F1 by number of labels" in done.stdout
    found = json.loads((tmp_path / "c.json").read_text())["set"]
    assert [(a["system"], a["budget"], a["labels"]) for a in found][1:] == [("lookup", "10", 10), ("lookup", "all", 60)]
    assert (tmp_path / "c.md").read_text().startswith("### set: F1 by number of labels")
