"""The search for prompts: its arithmetic by counting what it asks, its choice on answers that are known, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run_cli

from eval.datasets import Dataset, load_dataset
from eval.metrics import Prediction
from eval.prompts_cli import budget_of, numbers_of
from eval.run import Run
from eval.tune import Outcome, Plan, Search, affordable, choose, divided, halve, price, samples, tune
from eval.tune_report import write as write_found
from eval.variants import Variant, removable, shuffled, space
from extractor.config import load_settings
from extractor.demonstrations import DemonstrationPool
from extractor.errors import InputError
from extractor.lint import lint_template
from extractor.prompts import PROMPTS, load_template
from extractor.schema import load_schema

SOURCE = (PROMPTS / "templates" / "extract" / "1.jinja").read_text()
BRANDS = ("Velmora", "Ostrin", "Karu", "Fenno")


def rows(n: int, kind: str, prefix: str = "") -> str:
    labels = [{"attributes": {"Brand": [brand]}, "absent": ["Color"]} for brand in BRANDS]
    made = [
        {"id": f"{prefix}{i}", "category": "Shoes", "title": f"{BRANDS[i % 4]} {kind} {i}"} | labels[i % 4]
        for i in range(n)
    ]
    return "\n".join(map(json.dumps, made))


@pytest.fixture
def labels(write) -> Path:
    return write("labels.jsonl", rows(200, "Loafer"))


@pytest.fixture
def root(write, tmp_path) -> Path:
    """Templates of which `worse` makes the scripted engine answer with a word that no offer has."""
    write("t/extract/1.jinja", SOURCE)
    write("t/worse/1.jinja", SOURCE.replace("<title>{{ offer.title }}", "<title>New {{ offer.title }}"))
    return tmp_path / "t"


def test_the_space_changes_one_thing_first():
    baseline = Variant("a@1", (), 5)
    found = space(baseline, {"a@1": [(), ("examples",)], "b@1": [()]}, (0, 1, 5), 2, seed=0)
    assert found[0] == baseline and len(set(map(str, found))) == len(found)
    changes = [baseline.changes(v) for v in found]
    assert changes == sorted(changes) and changes[1] == 1
    # 3 prompts, each with: none; 1 similar; 5 similar, last or first; 1 and 5, fixed or random, with 2 seeds
    assert len(found) == 3 * (1 + 1 + 2 + 2 * 2 * 2)
    assert found != space(baseline, {"a@1": [(), ("examples",)], "b@1": [()]}, (0, 1, 5), 2, seed=1)


def test_parts_that_change_nothing_are_not_searched(labels):
    dataset, template = load_dataset(labels), load_template("extract@1")
    assert removable(template, dataset) == [()]
    described = replace(dataset, schemas=(load_schema(PROMPTS / "schemas" / "shoes.yaml"),))
    assert removable(template, described) == [(), ("description",), ("examples",), ("description", "examples")]


def answers(quality: dict[Variant, float], asked: list[tuple[Variant, int]]):
    """Answers of which a share is right: the offers whose ids are smallest."""

    def ask(variant: Variant, part: Dataset) -> Run:
        asked.append((variant, len(part.offers)))
        said = [
            Prediction({"Brand": o.attributes["Brand"] if int(o.id) % 100 < 100 * quality[variant] else ["no"]})
            for o in part.offers
        ]
        cost = {"prompt_tokens": 10, "output_tokens": 1, "seconds": 1.0}
        return Run(Path("nowhere"), {"cost": cost}, said)

    return ask


@pytest.mark.parametrize(("offers", "variants"), [(20, 1), (59, 4), (60, 4), (140, 30), (140, 2), (600, 11)])
def test_a_search_asks_what_it_was_priced_at(write, offers, variants):
    dataset = load_dataset(write("labels.jsonl", rows(offers, "Loafer")))
    asked: list[tuple[Variant, int]] = []
    tried = [Variant("a@1", k=i) for i in range(variants + 1)]
    trials = halve(tried, dataset, answers({v: v.k / 100 for v in tried}, asked))
    sizes = samples(offers)
    assert sizes[0] >= 20 and sizes[-1] == offers
    assert sum(n for _, n in asked) == price(variants, sizes)
    assert affordable(price(variants, sizes) / offers, sizes, 1000) == variants
    assert [t.variant for t in trials] == tried
    finished = [t.variant.k for t in trials if len(t.predictions) == offers]
    assert finished[0] == 0 and finished[-1] == variants  # the baseline, though it is the worst, and the best


def test_a_budget_that_buys_nothing():
    with pytest.raises(InputError, match=r"the budget is 1\.5 runs .* the baseline with one variant takes 2"):
        affordable(1.5, samples(100), 9)


@pytest.mark.parametrize(
    ("tuning", "held", "expected"),
    [
        ((0.5, 0.9, 0.6), (0.5, 0.9, 0.6), ""),
        ((0.5, 0.51, 0.5), (0.5, 0.9, 0.9), "no variant is better than the baseline: the best of 1, a@1 k=1"),
        ((0.9, 0.3, 0.2), (0.5, 0.9, 0.9), "no variant is better"),
        ((0.5, 0.9, 0.6), (0.5, 0.4, 0.4), "the gain of a@1 k=1 similar last did not hold"),
    ],
)
def test_the_best_is_chosen_if_it_is_better_and_stays_so(labels, tuning, held, expected):
    first, second = divided(load_dataset(labels), 0.3, seed=0)
    assert not {o.id for o in first.offers} & {o.id for o in second.offers} and len(first.offers) == 140
    variants = [Variant("a@1", k=i) for i in range(3)]
    asked: list[tuple[Variant, int]] = []
    trials = halve(variants, first, answers(dict(zip(variants, tuning, strict=True)), asked))
    found = choose(trials, first, second, answers(dict(zip(variants, held, strict=True)), asked))
    assert found.reason.startswith(expected) and (found.chosen == variants[1]) == (not expected)
    assert found.rows[0]["variant"] == "a@1 k=0"
    if found.held_out:
        assert [row["offers"] for row in found.held_out] == [60, 60] and asked[-2:] == [
            (variants[0], 60),
            (variants[1], 60),
        ]


def test_time_that_runs_out_leaves_what_was_found(labels):
    dataset = load_dataset(labels)
    variants = [Variant("a@1", k=i) for i in range(9)]
    asked: list[tuple[Variant, int]] = []
    trials = halve(variants, dataset, answers(dict.fromkeys(variants, 0.5), asked), lambda: len(asked) == 5)
    found = choose(trials, dataset, dataset, answers({}, asked))
    assert found.chosen is None and found.reason.startswith("the budget ended") and len(found.rows) == 5 == len(asked)


def test_demonstrations_by_order_and_seed(write):
    pool = list(load_dataset(write("train.jsonl", rows(8, "Boot", "t"))).offers)
    schema, offer = (
        load_schema(PROMPTS / "schemas" / "shoes.yaml"),
        load_dataset(write("l.jsonl", rows(3, "Boot"))).offers[2],
    )
    last, first = (DemonstrationPool(pool, 4, order=order).choose(offer, schema) for order in ("last", "first"))
    assert last == first[::-1] and "Karu" in first[0].title
    assert (
        shuffled(pool, 0) == pool
        and shuffled(pool, 1) != pool
        and set(map(str, shuffled(pool, 1))) == set(map(str, pool))
    )


def test_a_killed_search_goes_on(labels, root, tmp_path):
    templates = {"worse@1": load_template("worse@1", root), "extract@1": load_template("extract@1", root)}
    search = Search(
        templates, load_dataset(labels), load_settings(engine="scripted"), [], Plan(runs=4), tmp_path / "runs"
    )

    def killed(done: int, total: int) -> None:
        if done > 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(search, killed)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/predictions.jsonl")}
    found = tune(search)
    assert (
        before
        and before.items() <= {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").glob("*/predictions.jsonl")}.items()
    )
    assert found.chosen == Variant("extract@1")


def test_the_command_writes_the_best_as_a_new_version(labels, root, write, tmp_path):
    train = write("train.jsonl", rows(12, "Boot", "t"))
    command = ["prompts", "tune", "worse@1", "extract@1", "--data", str(labels), "--demonstrations", str(train)]
    command += ["--engine", "scripted", "--templates", str(root), "--out", str(tmp_path / "runs"), "--ks", "0,5"]
    done = run_cli(*command, "--budget-runs", "3")
    assert done.returncode == 0, done.stderr
    assert (
        "worse@1 k=5 similar last" in done.stdout and "+100.0" in done.stdout and "held out: extract@1" in done.stdout
    )
    text = (root / "extract" / "2.jinja").read_text()
    assert (
        f"extract@2 is written; use it with --template {root}/extract/2.jinja --k 5 --choice similar --order last"
        in done.stdout
    )
    assert text.endswith(SOURCE) and (root / "extract" / "1.jinja").read_text() == SOURCE
    head = text.removesuffix(SOURCE)
    assert (
        "Tuned from extract@1" in head and "Held out, 60 offers: F1 100.00" in head and "--k 5 --choice similar" in head
    )
    load_template.cache_clear()
    assert lint_template(load_template("extract@2", root)) == []
    result = json.loads(Path(done.stdout.splitlines()[-1]).read_text())
    assert result["written"] == "extract@2" and result["chosen"]["template"] == "extract@1"
    runs = sorted((tmp_path / "runs").iterdir())
    again = run_cli(*command, "--budget-runs", "3")
    assert again.stdout == done.stdout and sorted((tmp_path / "runs").iterdir()) == runs
    assert not (root / "extract" / "3.jinja").exists()


def test_shuffled_demonstrations_are_kept_beside_the_run(labels, root, write, tmp_path):
    pool = list(load_dataset(write("train.jsonl", rows(12, "Boot", "t"))).offers)
    templates = {"extract@1": load_template("extract@1", root)}
    search = Search(templates, load_dataset(labels), load_settings(engine="scripted"), pool, Plan(), tmp_path / "runs")
    chosen = Variant("extract@1", ("examples",), 3, "fixed", seed=1)
    change = {"f1": 2.0, "interval": (1.0, 3.0), "p": 0.01}
    row = {"variant": str(chosen), "offers": 9, "f1": 50.0, "interval": (40.0, 60.0), "difference": change}
    found = Outcome([row | {"variant": "extract@1 k=0"}, row], chosen, [row, row])
    said = write_found(search, found, root, tmp_path / "train.jsonl")
    kept = search.folder / "demonstrations.jsonl"
    assert f"--k 3 --choice fixed --demonstrations {kept}" in said
    assert list(load_dataset(kept).offers) == shuffled(pool, 1)
    text = (root / "extract" / "2.jinja").read_text()
    assert text.endswith('-#}\n{%- set attributes = attributes | without("examples") -%}\n' + SOURCE)
    # A tuned version that is tuned again does not pile up heads.
    load_template.cache_clear()
    again = replace(search, templates={"extract@2": load_template("extract@2", root)})
    chosen = replace(chosen, template="extract@2", left_out=())
    write_found(again, replace(found, chosen=chosen, rows=[row, row | {"variant": str(chosen)}]), root, None)
    text = (root / "extract" / "3.jinja").read_text()
    assert text.count("Tuned from") == 1 and text.count("without(") == 1 and "Tuned from extract@2" in text


def test_a_part_that_is_left_out_stays_out(labels, root, tmp_path):
    """The scripted engine reads attribute names off the prompt; a description of several lines confuses it."""
    source = SOURCE.replace(
        "{%- if a.description %}: {{ a.description }}", "{%- if a.description %}\n- {{ a.description }}"
    )
    (root / "extract" / "1.jinja").write_text(source)
    schema = PROMPTS / "schemas" / "shoes.yaml"
    command = ["prompts", "tune", "extract@1", "--data", str(labels), "--schema", str(schema), "--engine", "scripted"]
    done = run_cli(*command, "--templates", str(root), "--out", str(tmp_path / "runs"), "--minutes", "5")
    assert "extract@2 is written" in done.stdout, done.stdout + done.stderr
    offer = load_dataset(labels).offers[0]
    plain = load_schema(schema)
    dropped = plain.model_copy(
        update={"attributes": tuple(a.model_copy(update={"description": None}) for a in plain.attributes)}
    )
    made, parent = load_template("extract@2", root), load_template(str(root / "extract" / "1.jinja"))
    assert made.render(plain, offer) == parent.render(dropped, offer) != parent.render(plain, offer)


def test_no_better_variant_writes_nothing(labels, root, tmp_path):
    command = ["prompts", "tune", "extract@1", str(root / "extract" / "1.jinja"), "extract-zh"]
    (root / "extract-zh").mkdir()
    (root / "extract-zh" / "1.jinja").write_text(SOURCE.replace("as JSON", "in JSON"))
    done = run_cli(
        *(*command, "--data", str(labels), "--engine", "scripted"),
        *("--templates", str(root), "--out", str(tmp_path / "runs")),
    )
    assert done.returncode == 0 and "no variant is better than the baseline" in done.stdout
    assert "nothing is written" in done.stdout and not list(root.glob("*/2.jinja"))


def test_a_search_that_cannot_be_made(labels, root, tmp_path):
    dataset, settings = load_dataset(labels), load_settings(engine="scripted")
    for plan, message in (
        (Plan(runs=9), "there is nothing to search"),
        (Plan(runs=9, held_out=0.95), "a tuning part of 10 and a held-out part of 190"),
    ):
        with pytest.raises(InputError, match=message):
            tune(Search({"extract@1": load_template("extract@1")}, dataset, settings, [], plan, tmp_path))
    for wrong in ("some", "", "1,-1"):
        with pytest.raises(InputError, match="write numbers with commas"):
            numbers_of(wrong)
    with pytest.raises(InputError, match="give one of them"):
        budget_of(3, 1)
    where = ("--data", str(labels), "--templates", str(root), "--out", str(tmp_path / "runs"), "--engine", "scripted")
    done = run_cli("prompts", "tune", "extract@1", "worse@1", *where, "--demonstrations", str(labels))
    assert done.returncode == 2 and "is the evaluated offer" in done.stderr.replace("\n", " ")
