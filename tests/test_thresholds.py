"""Thresholds against brute force, and what the command writes."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from scipy.stats import binom

from eval import thresholds
from eval.confidence import Bools, judged
from eval.confidence_cli import thresholds as command
from eval.metrics import Floats, Prediction, tabulate
from extractor import LabelledOffer
from extractor.errors import InputError


def passes(right: int, n: int, precision: float, level: float) -> bool:
    """From the definition of Clopper and Pearson: under a share of `precision`, so many right ones are improbable."""
    return bool(binom.sf(right - 1, n, precision) <= 1 - level + 1e-12)


def brute_force(confidence: Floats, right: Bools, precision: float, level: float) -> float | None:
    good = [
        t
        for t in sorted(set(confidence.tolist()))
        if passes(int(right[confidence >= t].sum()), int((confidence >= t).sum()), precision, level)
    ]
    return good[0] if good else None


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("level", [0.6, 0.9])
def test_the_lowest_threshold_is_that_of_brute_force(precision, level):
    rng = np.random.default_rng(int(100 * precision + level * 10))
    found = []
    for i in range(30):
        n = int(rng.integers(1, 200))
        confidence = rng.beta(3, 1, n).round(2)
        right = rng.random(n) < (confidence**0.03 if i % 2 else 0.3)
        t = thresholds.lowest(confidence, right, precision, level)
        found.append(brute_force(confidence, right, precision, level))
        assert t.threshold == found[-1]
        if t.threshold is not None:
            accepted = confidence >= t.threshold
            assert (t.accepted, t.right) == (accepted.sum(), right[accepted].sum())
            assert t.at_least >= precision and t.coverage == accepted.mean()
        else:
            assert (t.accepted, t.coverage) == (0, 0.0)
    assert None in found and any(found)


@pytest.mark.parametrize(("precision", "level"), [(0.98, 0.9), (0.95, 0.9), (0.5, 0.5), (0.9, 0.99), (0.6, 0.6)])
def test_fewest_is_where_a_perfect_record_first_passes(precision, level):
    n = thresholds.fewest(precision, level)
    assert passes(n, n, precision, level) and (n == 1 or not passes(n - 1, n - 1, precision, level))


def cells(**attributes: tuple[list[float], list[bool]]):
    """Confidences of an attribute's values and which are right, one offer each, in two categories by turns."""
    gold, said = [], []
    for name, (confidences, right) in attributes.items():
        for i, (c, ok) in enumerate(zip(confidences, right, strict=True)):
            gold.append(
                LabelledOffer(id=f"{name}{i}", title="x", category="AB"[i % 2], attributes={name: ["x" if ok else "y"]})
            )
            said.append(Prediction({name: ["x"]}, {name: [c]}))
    return judged(tabulate(gold, said, {c: tuple(attributes) for c in "AB"}))


def test_attributes_of_few_values_take_the_threshold_of_all():
    table = cells(
        Good=([0.9] * 40 + [0.3] * 40, [True] * 40 + [False] * 40),
        Rare=([0.95, 0.5], [True, False]),
        Suspect=([0.95] * 3, [False] * 3),
        Bad=([0.5] * 60, [False] * 60),
    )
    of_all, found = thresholds.by_attribute(table, 0.8, 0.9)
    assert of_all.threshold == 0.9 and (of_all.accepted, of_all.right, of_all.values) == (44, 41, 145)
    assert (found["Good"].threshold, found["Good"].basis, found["Good"].coverage) == (0.9, "own", 0.5)
    assert (found["Rare"].threshold, found["Rare"].basis, found["Rare"].accepted) == (0.9, "all", 1)
    assert (found["Suspect"].threshold, found["Suspect"].basis) == (None, "all")  # its values speak against it
    assert (found["Bad"].threshold, found["Bad"].basis) == (None, "own")  # enough values to know better


def test_without_a_threshold_of_all_there_is_none_to_take():
    _, found = thresholds.by_attribute(cells(A=([0.9] * 3, [True, False, True])), 0.98)
    assert found["A"] == thresholds.Threshold(None, "all", 3, 0, 0, 0.0)


def records(n: int, calibration: str | None = None) -> tuple[str, str]:
    """Gold and records of `n` offers; a confidence is right as often as it says."""
    rng = random.Random(1)
    gold, said = [], []
    for i in range(n):
        c = rng.choice((0.3, 0.6, 1.0))
        value = {"value": "Velmora" if rng.random() < c else "Loafer", "confidence": c}
        gold.append(
            {"id": str(i), "category": "Shoes", "title": "Velmora Loafer", "attributes": {"Brand": ["Velmora"]}}
        )
        made = {
            "model": "base@2",
            "adapter": None,
            "engine": "vllm",
            "template": "extract@1",
            "calibration": calibration,
        }
        attributes = {"Brand": [value], "Color": [{"value": "x", "confidence": 0.9}]}
        said.append({"offer_id": str(i), "attributes": attributes, "provenance": made})
    return "\n".join(map(json.dumps, gold)), "\n".join(map(json.dumps, said))


def test_the_command_writes_what_a_service_reads(write, tmp_path):
    gold, said = records(600, "isotonic@0123456789ab")
    write("schema.json", json.dumps({"Shoes": ["Brand", "Color"]}))
    files = write("said.jsonl", said), write("gold.jsonl", gold)
    out = tmp_path / "new" / "thresholds.json"
    options = ("--predictions", str(files[0]), "--gold", str(files[1]), "--precision", "0.98", "--out", str(out))
    done = run_cli("eval", "thresholds", *options)
    assert done.returncode == 0, done.stderr
    assert "Brand" in done.stdout and "600 values of attributes that gold does not list" in done.stderr
    content = json.loads(out.read_text())
    assert (content["precision"], content["confidence"], content["model"]) == (0.98, 0.9, "base@2")
    assert content["calibration"] == "isotonic@0123456789ab"
    assert content["attributes"].keys() == {"Brand"} and content["all"]["basis"] == "all"
    brand = content["attributes"]["Brand"]
    assert brand["threshold"] == 1.0 and brand["right"] == brand["accepted"] > 114 and brand["at_least"] >= 0.98
    command(predictions=files[0], gold=files[1], strict=True, out=out)
    assert json.loads(out.read_text())["attributes"]["Color"]["threshold"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": 98}, "--precision 98: write a number between 0 and 1"),
        ({"confidence": 1}, "--confidence 1: write a number between 0 and 1"),
        ({"run": Path()}, "give --run with the folder of a finished run, or --predictions with --gold"),
        ({"gold": None}, "give --run with the folder of a finished run, or --predictions with --gold"),
        (
            {"gold": None, "predictions": None, "run": Path()},
            "no scores.json, so it is not the folder of a finished run",
        ),
    ],
)
def test_options_that_contradict(write, options, message):
    gold, said = records(5)
    files = {"predictions": write("said.jsonl", said), "gold": write("gold.jsonl", gold)}
    with pytest.raises(InputError, match=message):
        command(**(files | options))


def test_predictions_that_give_no_thresholds(write):
    gold, said = records(5)
    without = "\n".join(json.dumps({"pred": '{"Brand": "Velmora"}'}) for _ in range(5))
    mixed = said.replace('"base@2"', '"base@1"', 1)
    for content, message in (
        (without, "no value that gold can judge has a confidence"),
        (mixed, "said.jsonl: records of two systems: model is base@1 and base@2"),
    ):
        with pytest.raises(InputError, match=message):
            command(gold=write("gold.jsonl", gold), predictions=write("said.jsonl", content), out=write("t.json", ""))
