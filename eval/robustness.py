"""The same offers perturbed, and what each perturbation does to F1, false values and validity."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from eval import metrics
from eval.datasets import Dataset
from eval.page import Section
from eval.perturb import INJECTIONS, injected_value, perturb, perturbations
from eval.plots import changes
from eval.run import Predictor, Run, run
from extractor.errors import InputError
from extractor.records import LabelledOffer

CLEAN = "clean"


@dataclass(frozen=True)
class Arm:
    """A run over the offers as they are (CLEAN) or under one perturbation; `samples` are bootstrap F1 of the published
    protocol."""

    name: str
    dataset: Dataset
    run: Run
    samples: metrics.Floats

    @property
    def f1(self) -> float:
        return float(self.run.scores["published"]["f1"])


def chosen(names: Sequence[str]) -> list[str]:
    """The perturbations of these names, all without any. Raises InputError for one that does not exist."""
    known = list(perturbations(()))
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"unknown perturbation {unknown[0]!r}; there are {', '.join(known)}")
    return list(dict.fromkeys(names)) or known


def robustness(
    open_predictor: Callable[[], AbstractContextManager[Predictor]],
    dataset: Dataset,
    inputs_of: Callable[[Dataset], dict[str, Any]],
    out: Path,
    *,
    names: Sequence[str] = (),
    seed: int = 0,
    training: Sequence[LabelledOffer] = (),
    progress: Callable[[str, int], None] = lambda name, done: None,
) -> list[Arm]:
    """Run a predictor over the offers as they are and under each perturbation (all without `names`), clean first.

    The predictor is opened for each run that is not in `out` yet; `inputs_of` gives what a run over a data set depends on, its
    fingerprint among it. A perturbation that changes nothing shares the clean run.
    """
    arms = []
    for name in (CLEAN, *chosen(names)):
        offers = dataset if name == CLEAN else perturb(dataset, name, seed)
        offers = replace(offers, split=dataset.split) if offers.offers == dataset.offers else offers
        made = run(open_predictor, offers, inputs_of(offers), out, training=training, progress=partial(progress, name))
        cells = metrics.tabulate(offers.offers, made.predictions, offers.asked)
        arms.append(Arm(name, offers, made, metrics.bootstrap(cells)["published"]))
    return arms


def summary(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """The clean run, then each perturbation against it, what costs most F1 first. Rates, `changed` (offers whose text
    differs) and `obeyed` (offers in which an injected value was answered; None without injection) are in per cent."""
    clean = arms[0]
    rows = []
    for arm in arms:
        low, high, p = metrics.paired(clean.samples, arm.samples)
        rows.append(
            {
                "perturbation": arm.name,
                "offers": len(arm.dataset.offers),
                "changed": _changed(clean.dataset, arm.dataset),
                "f1": arm.f1,
                "interval": metrics.interval(arm.samples),
                "difference": {"f1": arm.f1 - clean.f1, "interval": (low, high), "p": p} if arm is not clean else None,
                "rates": arm.run.scores["rates"],
                "absent_cells": sum(arm.run.scores["outcomes"][kind] for kind in ("NN", "NV")),
                "failures": arm.run.scores["failures"],
                "obeyed": obeyed(arm, clean.dataset) if arm.name in INJECTIONS else None,
                "example": _example(clean.dataset, arm.dataset),
                "folder": str(arm.run.folder),
            }
        )
    return rows[:1] + sorted(rows[1:], key=lambda row: row["difference"]["f1"])


def _changed(clean: Dataset, other: Dataset) -> float:
    differ = sum(a.texts() != b.texts() for a, b in zip(clean.offers, other.offers, strict=True))
    return 100 * differ / len(clean.offers)


def obeyed(arm: Arm, clean: Dataset) -> float:
    """Per cent of offers in which a value that holds the injected one was answered for an attribute whose gold is another."""
    count = 0
    for offer, prediction in zip(clean.offers, arm.run.predictions, strict=True):
        bait = injected_value(offer)
        count += any(
            bait in value and value not in offer.attributes.get(name, ())
            for name in clean.asked[offer.category or ""]
            for value in prediction.values.get(name, ())
        )
    return 100 * count / len(clean.offers)


def _example(clean: Dataset, other: Dataset) -> dict[str, Any] | None:
    """The shortest offer whose text a perturbation changed, before and after."""
    pairs = [(a, b) for a, b in zip(clean.offers, other.offers, strict=True) if a.texts() != b.texts()]
    if not pairs:
        return None
    before, after = min(pairs, key=lambda pair: sum(map(len, pair[0].texts().values())))
    return {"offer_id": before.id, "before": before.texts(), "after": after.texts()}


# --- the report -------------------------------------------------------------------------------------------------------


def sections(rows: Sequence[dict[str, Any]], examples: bool = False) -> list[Section]:
    """Tables of `summary`, the first with a figure, and (`examples`) a changed offer of each perturbation."""
    changed = [(r["perturbation"], r["difference"]) for r in rows if r["difference"]]
    figure = changes([(name, d["f1"], *d["interval"]) for name, d in changed], "change of F1, with its 95 % interval")
    out = [
        Section(
            "F1 under each perturbation",
            "Of the published protocol, with 95 % intervals by bootstrap over offers; a change is of the same offers against the "
            "clean ones, each p-value for its comparison alone. Where only a part of the offers had something to perturb, the "
            "others hold the change down.",
            ("perturbation", "perturbed", "F1", "95 %", "change", "95 %", "p"),
            [_f1_cells(row) for row in rows],
            figure,
        ),
        Section(
            "False values and validity",
            f"False: absent cells answered with a value, of {rows[0]['absent_cells']}. Invented: predicted values that stand "
            "nowhere in the offer. Failed: offers without a record. Obeyed: offers in which the value that an injected "
            "instruction asks for was answered.",
            ("perturbation", "false %", "invented %", "failed %", "obeyed %"),
            [_rate_cells(row) for row in rows],
        ),
    ]
    shown = [(r["perturbation"], r["example"]) for r in rows if r["example"]]
    if examples and shown:
        cells = [(name, _quoted(e["before"]), _quoted(e["after"])) for name, e in shown]
        out.append(
            Section(
                "Examples",
                "Of each perturbation, the shortest offer that it changed.",
                ("perturbation", "before", "after"),
                cells,
            )
        )
    return out


def _f1_cells(row: dict[str, Any]) -> tuple[str | float, ...]:
    low, high = row["interval"]
    cells = row["perturbation"], f"{row['changed']:.0f} %", row["f1"], f"{low:.1f} to {high:.1f}"
    if not (d := row["difference"]):
        return *cells, "", "", ""
    return *cells, f"{d['f1']:+.1f}", "{:+.1f} to {:+.1f}".format(*d["interval"]), f"{d['p']:.3f}"


def _rate_cells(row: dict[str, Any]) -> tuple[str | float, ...]:
    rates = row["rates"]
    asked = "" if row["obeyed"] is None else row["obeyed"]
    return row["perturbation"], rates["false_value"], rates["hallucination"], rates["failure"], asked


def _quoted(texts: dict[str, str], length: int = 600) -> str:
    """Title and description in quotation marks, of long ones the middle left out."""
    text = "\n".join(texts.values())
    return f"“{text}”" if len(text) <= length else f"“{text[: length // 2]} … {text[-length // 2 :]}”"
