"""The page of one run: every score with its interval, the breakdowns, how far confidence can be trusted, and the attributes on
which most goes wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval import plots
from eval.confidence import correct, judged, reliability, risk_coverage
from eval.datasets import Dataset
from eval.metrics import NV, VN, VW, Cells, Prediction
from eval.page import Cell, Section
from eval.predictions import MAKERS
from eval.report import WAYS

OUTCOMES = {
    "NN": "no value, and none given",
    "NV": "no value, but one given",
    "VN": "a value, but none given",
    "VC": "a value, and a right one given",
    "VW": "a value, and a wrong one given",
}
PARTS = {
    "attribute": "By attribute",
    "category": "By category",
    "frequency": "By labels of the attribute in training",
    "value": "By whether a gold value stands in the training labels",
    "title length": "By characters of the title",
}
WORST, EXAMPLES, FEWEST = 10, 3, 5  # attributes shown, offers of each, and gold values that an attribute needs


def title_of(scores: Mapping[str, Any]) -> str:
    name, split = scores["data"]["name"], scores["data"]["split"]
    return str(name) if name == split else f"{name} {split}"


def lead_of(scores: Mapping[str, Any], makers: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many offers, made by what (see `eval.predictions.makers`), and what was left out."""
    parts = [f"{scores['data']['offers']} offers"]
    for key in MAKERS:
        named = dict.fromkeys(made[key] for made in makers if made[key])
        parts += [f"{key} {' and '.join(named)}"] if named else []
    left_out = dict(scores["data"]["left_out"]) | dict(scores.get("left_out", {}))
    return ", ".join(parts) + "".join(f"; left out: {n} {reason}" for reason, n in left_out.items()) + "."


def sections(
    scores: Mapping[str, Any], cells: Cells, dataset: Dataset, predictions: Sequence[Prediction]
) -> list[Section]:
    """`scores` are those of `eval.report.summarize` over these cells, perhaps with `cost`."""
    return [
        _scores(scores),
        _outcomes(scores),
        *_cost(scores),
        *_confidence(scores, cells),
        *(_part(name, scores["by"][name]) for name in PARTS if len(scores["by"][name]) > 1),
        *_worst(scores, cells, dataset, predictions),
    ]


def _scores(scores: Mapping[str, Any]) -> Section:
    rows: list[Sequence[Cell]] = [
        (title, scores[way]["precision"], scores[way]["recall"], scores[way]["f1"], _range(scores[way]["interval"]))
        for way, title in WAYS.items()
    ]
    macro = scores["macro"]
    rows.append(("macro F1, by attribute of a category", "–", "–", macro["f1"], _range(macro["interval"])))
    note = "In per cent; intervals by bootstrap over offers."
    return Section("Scores", note, ("score", "precision", "recall", "F1", "95 % interval"), rows)


def _outcomes(scores: Mapping[str, Any]) -> Section:
    rates = scores["rates"]
    failures = ", ".join(f"{n} {reason}" for reason, n in scores["failures"].items())
    note = (
        f"Values that stand nowhere in the offer {rates['hallucination']:.1f} %, absent cells with a value "
        f"{rates['false_value']:.1f} %, offers that failed {rates['failure']:.1f} %{f' ({failures})' if failures else ''}."
    )
    rows = [(name, OUTCOMES[name], n) for name, n in scores["outcomes"].items()]
    return Section("Outcomes and rates", note, ("outcome", "gold has", "cells"), rows)


def _cost(scores: Mapping[str, Any]) -> list[Section]:
    if not (spent := scores.get("cost")):
        return []
    names = {
        "prompt_tokens": "prompt tokens",
        "cached_tokens": "of these cached",
        "output_tokens": "output tokens",
        "seconds": "seconds",
        "records_per_second": "records/s",
    }
    rows: list[Sequence[Cell]] = [(title, spent[key]) for key, title in names.items()]
    if "money_per_1000" in spent:
        rows.append(("money for 1,000 offers", f"{spent['money_per_1000']:.4f}"))
    return [Section("Cost", "", ("what", "figure"), rows)]


def _confidence(scores: Mapping[str, Any], cells: Cells) -> list[Section]:
    values, found = judged(cells), scores["confidence"]
    if not len(values.confidence):
        return []
    confidence, right = values.confidence, correct(values)
    note = (
        f"{found['values']} values. Expected calibration error {found['calibration_error']:.3f}: the mean distance from the "
        "diagonal. A point is a tenth of the values; bars are 95 % intervals."
    )
    accepted = (
        f"Errors among the values that a threshold accepts. {100 * found['coverage_at_95']:.0f} % of the values can be "
        f"accepted at 95 % precision, {100 * found['coverage_at_98']:.0f} % at 98 %."
    )
    return [
        Section("Reliability", note, figure=plots.reliability({"values": reliability(confidence, right)})),
        Section(
            "Risk and coverage", accepted, figure=plots.risk_coverage({"values": risk_coverage(confidence, right)})
        ),
    ]


def _part(name: str, parts: Mapping[str, Mapping[str, Any]]) -> Section:
    rows = [(label or "(none)", s["f1"], s["precision"], s["recall"], s["expected"]) for label, s in parts.items()]
    if name == "attribute":
        rows.sort(key=lambda row: -row[-1])
    return Section(PARTS[name], "", (name, "F1", "precision", "recall", "gold"), rows)


def worst(scores: Mapping[str, Any]) -> list[str]:
    """The attributes of least F1, of those that have enough gold values to tell."""
    parts = scores["by"]["attribute"]
    enough = [name for name, s in parts.items() if s["expected"] >= FEWEST]
    return sorted(enough, key=lambda name: (parts[name]["f1"], -parts[name]["expected"]))[:WORST]


def _worst(
    scores: Mapping[str, Any], cells: Cells, dataset: Dataset, predictions: Sequence[Prediction]
) -> list[Section]:
    names = np.array([attribute for _, attribute in cells.groups] or [""])[cells.group]
    rows: list[Sequence[Cell]] = []
    for name in worst(scores):
        wrong = cells.where((names == name) & cells.listed & np.isin(cells.outcome, (NV, VN, VW)))
        # The errors that the model was surest of, then those where it said nothing.
        for i in np.argsort(-np.nan_to_num(wrong.confidence, nan=-1.0), kind="stable")[:EXAMPLES]:
            place = int(wrong.offer[i])
            offer, said = dataset.offers[place], predictions[place]
            sure = "–" if np.isnan(wrong.confidence[i]) else f"{wrong.confidence[i]:.2f}"
            gold, given = (" | ".join(v.get(name, ())) or "none" for v in (offer.attributes, said.values))
            answer = f"failed: {said.failure}" if said.failure else given
            rows.append((name, scores["by"]["attribute"][name]["f1"], offer.title or "–", gold, answer, sure, offer.id))
    columns = ("attribute", "F1", "title", "gold", "predicted", "confidence", "offer")
    note = (
        f"The lowest F1 among attributes with at least {FEWEST} gold values, and errors that the model was surest of."
    )
    texts = ("title", "gold", "predicted", "offer")
    return [Section("Worst attributes", note, columns, rows, texts=texts)] if rows else []


def _range(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:.1f} to {bounds[1]:.1f}"
