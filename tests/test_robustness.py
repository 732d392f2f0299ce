"""What perturbations do to a predictor: through the command line with the scripted engine, and for any other predictor."""

import json
import re
from contextlib import nullcontext
from pathlib import Path

import pytest
from conftest import labelled, run_cli

from eval.baselines.lookup import Lookup
from eval.baselines.spans import Span, record, span_values
from eval.datasets import Dataset
from eval.perturb import INJECTIONS, perturbations
from eval.robustness import chosen, robustness, sections, summary
from extractor import AttributeSchema
from extractor.errors import InputError

BRANDS = ("Velmora", "Ostrin", "Karu", "Fenno")
SCHEMA = AttributeSchema.from_names(["Brand", "Color"], "Shoes")


def shoes(n: int = 40) -> Dataset:
    """Titles that begin with their brand; no colours."""
    offers = [labelled(f"{BRANDS[i % 4]} Loafer No {i}", Brand=BRANDS[i % 4]) for i in range(n)]
    offers = [o.model_copy(update={"absent": ["Color"]}) for o in offers]
    return Dataset("shoes", "all", tuple(offers), (SCHEMA,), {})


BAITS = ("Zentrixa", "泽创思")


class Obedient:
    """Answers an injected value for every attribute where it reads one, else the first word as the brand."""

    def extract(self, offers):
        return [record(o, SCHEMA, span_values(o, self._spans(o)), "obedient@1") for o in offers]

    def _spans(self, offer):
        baits = [(offer.title.find(b), offer.title.find(b) + len(b) + 1) for b in BAITS if b in offer.title]
        for begin, end in baits:  # with the sign after it
            yield from (Span(name, "title", begin, end) for name in ("Brand", "Color"))
        if not baits:
            yield Span("Brand", "title", 0, len(offer.title.split()[0]))


def measured(predictor, dataset: Dataset, out: Path, *names: str):
    arms = robustness(
        lambda: nullcontext(predictor), dataset, lambda d: {"data": d.fingerprint, "model": "x"}, out, names=names
    )
    return arms, {row["perturbation"]: row for row in summary(arms)}


def test_what_each_perturbation_costs(tmp_path):
    names = ("upper", "boilerplate", "injected-order", "formats", "added-words")
    _, rows = measured(Obedient(), shoes(), tmp_path, *names)
    assert next(iter(rows)) == "clean" and rows["clean"]["difference"] is None
    changes = [row["difference"]["f1"] for name, row in rows.items() if name != "clean"]
    assert changes == sorted(changes) and len(changes) == len(names)
    for name, f1, changed, false_value in (
        ("clean", 100.0, 0.0, 0.0),
        ("upper", 100.0, 100.0, 0.0),  # gold follows the text
        ("boilerplate", 0.0, 100.0, 0.0),
        ("injected-order", 0.0, 100.0, 100.0),
        ("formats", 100.0, 0.0, 0.0),  # nothing to perturb
    ):
        row = rows[name]
        assert (row["f1"], row["changed"], row["rates"]["false_value"]) == (f1, changed, false_value), name
    assert rows["boilerplate"]["difference"]["p"] < 0.01
    assert rows["upper"]["difference"] == {"f1": 0.0, "interval": (0.0, 0.0), "p": 1.0}
    assert 0 < rows["added-words"]["f1"] < 100 and rows["added-words"]["difference"]["interval"][0] > -100
    assert [rows[n]["obeyed"] for n in ("injected-order", "boilerplate")] == [100.0, None]


@pytest.mark.parametrize("kind", INJECTIONS)
def test_obeyed_is_of_the_value_in_the_offers_language(kind, tmp_path):
    offers = [labelled(title, Brand=title[:2]) for title in ("红木家具", "黑色运动鞋男", "Velmora Loafer")]
    _, rows = measured(Obedient(), Dataset("mixed", "all", tuple(offers), (SCHEMA,), {}), tmp_path, kind)
    assert rows[kind]["obeyed"] == 100.0


def test_what_changes_nothing_is_not_run_and_nothing_is_run_twice(tmp_path):
    arms, _ = measured(Obedient(), shoes(), tmp_path, "formats", "upper")
    assert arms[1].run.folder == arms[0].run.folder != arms[2].run.folder
    assert len(list(tmp_path.iterdir())) == 2

    class Closed:
        def extract(self, offers):
            raise AssertionError("it was run already")

    again, _ = measured(Closed(), shoes(), tmp_path, "formats", "upper")
    assert [a.f1 for a in again] == [a.f1 for a in arms]


def test_a_baseline_is_put_through_it_as_well(tmp_path):
    dataset = shoes()
    lookup = Lookup.train(dataset.offers, [SCHEMA], tmp_path / "lookup")
    _, rows = measured(lookup, dataset, tmp_path, "lower", "word-order", "typos-in-values")
    assert rows["word-order"]["f1"] == rows["clean"]["f1"] == 100.0
    assert rows["lower"]["f1"] == rows["typos-in-values"]["f1"] == 0.0


def test_names():
    assert chosen(()) == list(perturbations(())) and chosen(("upper", "typos", "upper")) == ["upper", "typos"]
    with pytest.raises(InputError, match="unknown perturbation 'tyops'; there are typos, typos-in-values, upper"):
        chosen(("tyops",))


def test_tables_and_figure(tmp_path):
    _, rows = measured(Obedient(), shoes(8), tmp_path, "upper", "boilerplate", "formats")
    first, second, third = sections(list(rows.values()), examples=True)
    assert [row[0] for row in first.rows] == ["clean", "boilerplate", "upper", "formats"]
    assert first.rows[1][4:6] == ("-100.0", "-100.0 to -100.0") and second.rows[0][1:] == (0.0, 0.0, 0.0, "")
    assert [row[0] for row in third.rows] == ["boilerplate", "upper"]  # formats perturbed nothing
    assert third.rows[1][1:] == ("“Karu Loafer No 2”", "“KARU LOAFER NO 2”")
    labels = re.findall(r">(boilerplate|upper|formats)</text>", first.figure)
    assert sorted(labels) == ["boilerplate", "formats", "upper"] and "var(--c0)" in first.figure


def test_the_command(write, tmp_path):
    data = write("labels.jsonl", "\n".join(o.model_dump_json() for o in shoes().offers))
    page, out, runs = tmp_path / "r.html", tmp_path / "r.json", tmp_path / "runs"
    command = ["eval", "robustness", "--data", str(data), "--engine", "scripted", "--out", str(runs), "--n", "30"]
    command += ["--perturbations", "upper, boilerplate,injected-tag", "--html", str(page), "--json", str(out)]
    done = run_cli(*command)
    assert done.returncode == 0, done.stderr
    assert "30 offers, drawn and perturbed by seed 0; scripted base, extract@2." in done.stdout
    assert re.search(r"boilerplate +100 % +0\.0 +0\.0 to 0\.0 +-100\.0 +-100\.0 to -100\.0 +0\.002", done.stdout)
    found = json.loads(out.read_text())
    assert [r["perturbation"] for r in found["perturbations"]][:2] == ["clean", "boilerplate"]
    by_name = {r["perturbation"]: r for r in found["perturbations"]}
    assert by_name["injected-tag"]["obeyed"] == 0.0 and by_name["upper"]["f1"] == 100.0
    html = page.read_text()
    assert "<svg" in html and "&lt;/title&gt;" in html and "</title>\n" in html and html.count("</title>") == 1
    written = {p: p.stat().st_mtime_ns for p in runs.glob("*/predictions.jsonl")}
    assert len(written) == 4
    assert run_cli(*command).stdout == done.stdout
    assert {p: p.stat().st_mtime_ns for p in runs.glob("*/predictions.jsonl")} == written


def test_a_perturbation_that_does_not_exist_is_refused(write):
    data = write("labels.jsonl", shoes().offers[0].model_dump_json())
    done = run_cli("eval", "robustness", "--data", str(data), "--engine", "scripted", "--perturbations", "tyops")
    assert done.returncode == 2 and "unknown perturbation 'tyops'" in done.stderr
