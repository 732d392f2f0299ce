"""Which template, which of its parts and which demonstrations serve best, searched on labelled offers within a budget.

Successive halving (Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943): every variant answers a small sample, the
best third of them a larger one, and so on up to the whole tuning part; the baseline goes all the way, and each variant is
compared with it on the same offers. Who wins a search has been lucky too: the winner and the baseline answer a held-out
part that nothing was chosen on. All answers are kept as runs (see `eval.run`), so a killed search goes on where it stopped.
"""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from eval import metrics
from eval.datasets import Dataset
from eval.run import Run, content_hash, inputs_of, shared_engine
from eval.variants import Ask, Variant, asker, removable, space
from extractor.config import Settings
from extractor.errors import InputError
from extractor.prompts import Template
from extractor.records import LabelledOffer

KEEP = 3  # one of so many goes on to the next sample
LEAST = 20  # offers of the smallest sample
LEVEL = 0.05  # of the paired test, divided by the number of variants that it is made for


def divided(dataset: Dataset, held_out: float, seed: int) -> tuple[Dataset, Dataset]:
    """The tuning part and the held-out part, each in an order by chance. Raises InputError where one is too small."""
    offers = list(dataset.offers)
    Random(seed).shuffle(offers)
    cut = len(offers) - round(len(offers) * held_out)
    if cut < LEAST or cut == len(offers):
        raise InputError(
            f"{len(offers)} offers give a tuning part of {cut} and a held-out part of {len(offers) - cut};"
            f" tuning needs {LEAST} or more, and some held out"
        )
    return replace(dataset, offers=tuple(offers[:cut])), replace(dataset, offers=tuple(offers[cut:]))


# --- budget -----------------------------------------------------------------------------------------------------------


def samples(offers: int) -> list[int]:
    """Sizes of the growing samples."""
    sizes = [offers]
    while sizes[0] // KEEP >= LEAST:
        sizes.insert(0, sizes[0] // KEEP)
    return sizes


def price(variants: int, sizes: Sequence[int]) -> int:
    """Offers that a search answers: those of the baseline, and of so many variants beside it."""
    total = sizes[-1]
    for before, size in pairwise((0, *sizes)):
        total += variants * (size - before)
        variants = math.ceil(variants / KEEP)
    return total


def affordable(runs: float, sizes: Sequence[int], most: int) -> int:
    """How many variants beside the baseline a budget pays for, in runs over the whole tuning part. Raises InputError."""
    count = sum(price(n, sizes) <= runs * sizes[-1] for n in range(1, most + 1))
    if not count and most:
        raise InputError(
            f"the budget is {runs:.1f} runs over the tuning part, and the baseline with one variant takes"
            f" {price(1, sizes) / sizes[-1]:.0f}; give more of it, or fewer offers with --n"
        )
    return count


# --- search -----------------------------------------------------------------------------------------------------------


@dataclass
class Trial:
    """A variant and its runs over consecutive parts of the data."""

    variant: Variant
    runs: list[Run] = field(default_factory=list)

    @property
    def predictions(self) -> list[metrics.Prediction]:
        return [p for r in self.runs for p in r.predictions]

    def cost(self, what: str) -> float:
        return sum(float(r.scores["cost"][what]) for r in self.runs)


def halve(
    variants: Sequence[Variant], tuning: Dataset, ask: Ask, expired: Callable[[], bool] = lambda: False
) -> list[Trial]:
    """Successive halving; the trials in the order of `variants`, of which the first is the baseline and always goes on.
    Stops between two runs where `expired` says so."""
    trials = [Trial(v) for v in variants]
    alive = trials[1:]
    sizes = (0, *samples(len(tuning.offers)))
    for begin, end in pairwise(sizes):
        part = replace(tuning, offers=tuning.offers[begin:end])
        for trial in (trials[0], *alive):
            if expired():
                return trials
            trial.runs.append(ask(trial.variant, part))
        alive.sort(key=partial(_f1, tuning), reverse=True)
        alive = alive[: math.ceil(len(alive) / KEEP)]
    return trials


def _f1(dataset: Dataset, trial: Trial) -> float:
    return metrics.score(metrics.tallies(_cells(dataset, trial))["published"]).f1


def _cells(dataset: Dataset, trial: Trial) -> metrics.Cells:
    predictions = trial.predictions
    return metrics.tabulate(dataset.offers[: len(predictions)], predictions, dataset.asked)


def compared(trial: Trial, baseline: Trial, dataset: Dataset) -> dict[str, Any]:
    """The trial's F1 by the published protocol, and its difference to the baseline on the same offers."""
    n = len(trial.predictions)
    same = Trial(baseline.variant, baseline.runs[: len(trial.runs)])
    mine, other = (metrics.bootstrap(_cells(dataset, t))["published"] for t in (trial, same))
    low, high, p = metrics.paired(other, mine)
    f1 = _f1(dataset, trial)
    return {
        "variant": str(trial.variant),
        "offers": n,
        "f1": f1,
        "interval": metrics.interval(mine),
        "difference": {"f1": f1 - _f1(dataset, same), "interval": (low, high), "p": p},
        "tokens": {k: trial.cost(f"{k}_tokens") / n for k in ("prompt", "output")},
        "folders": [str(r.folder) for r in trial.runs],
    }


@dataclass(frozen=True)
class Outcome:
    """What a search found. `rows` go with the trials that answered anything, the baseline's first, then those that came
    furthest; `chosen` is better than the baseline, if any is; `held_out` are the rows of the baseline and of `chosen`, or of
    what would have been chosen had the gain held; `reason` says why there is no `chosen`."""

    rows: list[dict[str, Any]]
    chosen: Variant | None
    held_out: list[dict[str, Any]]
    reason: str = ""


def choose(trials: Sequence[Trial], tuning: Dataset, held_out: Dataset, ask: Ask) -> Outcome:
    """Choose the variant with the highest F1 on the whole tuning part, if the paired test finds it better than the
    baseline at LEVEL, corrected for the number of variants that came so far (Bonferroni), and if it gains on the held-out
    part too, which corrects for the luck of having come so far."""
    begun = [t for t in trials[1:] if t.runs]
    rated = [(compared(t, trials[0], tuning), t) for t in begun if len(t.runs) <= len(trials[0].runs)]
    rated.sort(key=lambda pair: (-pair[0]["offers"], -pair[0]["f1"]))
    rows = [compared(t, t, tuning) for t in trials[:1] if t.runs] + [row for row, _ in rated]
    finalists = [(row, t) for row, t in rated if row["offers"] == len(tuning.offers)]
    if not finalists:
        return Outcome(rows, None, [], "the budget ended before a variant answered the whole tuning part")
    best, trial = finalists[0]
    change = best["difference"]
    if change["f1"] <= 0 or change["p"] * len(finalists) >= LEVEL:
        return Outcome(
            rows,
            None,
            [],
            f"no variant is better than the baseline: the best of {len(finalists)}, {best['variant']}, differs by"
            f" {change['f1']:+.1f} F1, p {change['p']:.3f}, which had to be below {LEVEL / len(finalists):.3f}",
        )
    asked = [Trial(v, [ask(v, held_out)]) for v in (trials[0].variant, trial.variant)]
    held = [compared(t, asked[0], held_out) for t in asked]
    if held[1]["difference"]["f1"] <= 0:
        gains = f"{change['f1']:+.1f} F1 on the tuning part and {held[1]['difference']['f1']:+.1f} on the held-out part"
        return Outcome(rows, None, held, f"the gain of {best['variant']} did not hold: {gains}")
    return Outcome(rows, trial.variant, held)


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What to search and for how long: `runs` over the whole tuning part, or `minutes`. `ks`: numbers of demonstrations;
    `seeds`: shuffles of the demonstrations; `held_out`: share of the offers; `seed` draws everything."""

    ks: tuple[int, ...] = (0, 1, 3, 5, 10)
    seeds: int = 2
    held_out: float = 0.3
    seed: int = 0
    runs: float | None = None
    minutes: float | None = None


@dataclass(frozen=True)
class Search:
    """What a search works on. The baseline is the first of `templates` (by name) with the demonstrations that `settings`
    say. `folder` is its own, named by the content of everything that went in but the budget; runs are kept in `out`."""

    templates: dict[str, Template]
    dataset: Dataset
    settings: Settings
    demonstrations: Sequence[LabelledOffer]
    plan: Plan
    out: Path

    @cached_property
    def baseline(self) -> Variant:
        k = self.settings.k if self.demonstrations else 0
        return Variant(next(iter(self.templates)), (), k, self.settings.choice, self.settings.order).plain()

    @cached_property
    def inputs(self) -> dict[str, Any]:
        plan = {k: v for k, v in asdict(self.plan).items() if k not in ("runs", "minutes")}
        templates = {name: t.sha256 for name, t in self.templates.items()}
        settings = self.settings.model_copy(update={"template": str(self.templates[self.baseline.template].path)})
        return inputs_of(settings, self.dataset, self.demonstrations) | {"templates": templates, "plan": plan}

    @cached_property
    def folder(self) -> Path:
        key = content_hash([json.dumps(self.inputs, sort_keys=True)])
        return self.out / f"tune-{self.dataset.name}-{self.dataset.split}-{key}"


def tune(search: Search, progress: Callable[[int, int], None] = lambda done, total: None) -> Outcome:
    """`progress` gets the offers answered, and how many there will be."""
    plan, shown = search.plan, search.demonstrations
    end = time.monotonic() + 60 * plan.minutes if plan.minutes else math.inf
    tuning, held_out = divided(search.dataset, plan.held_out, plan.seed)
    parts = {name: removable(template, search.dataset) for name, template in search.templates.items()}
    variants = space(search.baseline, parts, plan.ks if shown else (0,), plan.seeds, plan.seed)
    if len(variants) == 1:
        raise InputError("there is nothing to search: give more templates, or --demonstrations")
    sizes, total = samples(len(tuning.offers)), len(tuning.offers)

    def answered(done: int) -> None:
        progress(done, max(done, total))

    with shared_engine(search.settings) as extractor:
        folder = search.folder / "templates"
        ask = asker(search.templates, search.settings, shown, search.out, folder, extractor, answered)
        runs = plan.runs
        if runs is None:
            (first,) = halve([search.baseline], tuning, ask)
            runs = 60 * (plan.minutes or 0) / max(first.cost("seconds"), 1e-9)
        count = affordable(runs, sizes, len(variants) - 1)
        total = price(count, sizes) + 2 * len(held_out.offers)
        trials = halve(variants[: count + 1], tuning, ask, lambda: time.monotonic() > end)
        return choose(trials, tuning, held_out, ask)
