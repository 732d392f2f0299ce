"""From which confidence on a value can be accepted without review.

shelfwise eval thresholds --run runs/eval/labels-validation-… --precision 0.98 --out thresholds.json
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from eval.confidence import Bools, correct, lower_bound, thresholds, upper_bound
from eval.metrics import Cells, Floats
from eval.page import Section


@dataclass(frozen=True)
class Threshold:
    """Values of at least `threshold` are accepted; None accepts nothing. `basis` says whose values it rests on: the
    attribute's own, or those of all attributes where its own are too few. `accepted` of its own `values` reach it, `right` of
    these are right, and `at_least` is the lower bound of their precision."""

    threshold: float | None
    basis: Literal["own", "all"]
    values: int
    accepted: int
    right: int
    at_least: float

    @property
    def coverage(self) -> float:
        return self.accepted / self.values if self.values else 0.0


def fewest(precision: float, level: float) -> int:
    """How many values, all of them right, show a precision (0..1, exclusive) at a confidence level."""
    return int(np.ceil(np.log(1 - level) / np.log(precision) - 1e-9))


def lowest(confidence: Floats, right: Bools, precision: float, level: float = 0.9) -> Threshold:
    """The lowest threshold whose accepted values have at least `precision` with one-sided confidence `level`.

    The bound is that of Clopper and Pearson (1934), which keeps its level for any number of values; Wilson's does not for
    shares near 1 (Cai 2005, One-sided confidence intervals in discrete distributions): 81 of 81 right would pass for 98 %,
    where 114 are needed. It holds for one threshold. Choosing the lowest of many costs little where confidence tells right
    from wrong (in simulations with a level of 0.9, the true precision was below the wanted one in up to 12 of 100 choices),
    and more where it does not.
    """
    limits, accepted, correct_ones = thresholds(confidence, right)
    enough = np.flatnonzero(lower_bound(correct_ones, accepted, level) >= precision)
    if not len(enough):
        return Threshold(None, "own", len(confidence), 0, 0, 0.0)
    return at(float(limits[enough[-1]]), confidence, right, level)


def at(
    threshold: float, confidence: Floats, right: Bools, level: float, basis: Literal["own", "all"] = "own"
) -> Threshold:
    """What a given threshold accepts."""
    passing = confidence >= threshold
    n, k = int(passing.sum()), int(right[passing].sum())
    return Threshold(threshold, basis, len(confidence), n, k, float(lower_bound(k, n, level)) if n else 0.0)


def pooled(confidence: Floats, right: Bools, precision: float, level: float, of_all: float | None) -> Threshold:
    """For an attribute of few values: the threshold of all attributes, unless its own values speak against it (the upper
    bound of their precision under it is below the wanted one)."""
    nothing = Threshold(None, "all", len(confidence), 0, 0, 0.0)
    if of_all is None:
        return nothing
    found = at(of_all, confidence, right, level, "all")
    against = found.accepted and upper_bound(found.right, found.accepted, level) < precision
    return nothing if against else found


def by_attribute(values: Cells, precision: float, level: float = 0.9) -> tuple[Threshold, dict[str, Threshold]]:
    """The threshold of all judged values, and one for each attribute over all categories."""
    names = np.array([attribute for _, attribute in values.groups] or [""])[values.group]
    right = correct(values)
    of_all = replace(lowest(values.confidence, right, precision, level), basis="all")
    found = {}
    for name in map(str, np.unique(names)):
        confidence, right_ones = values.confidence[names == name], right[names == name]
        if len(confidence) < fewest(precision, level):
            found[name] = pooled(confidence, right_ones, precision, level, of_all.threshold)
        else:
            found[name] = lowest(confidence, right_ones, precision, level)
    return of_all, found


def as_json(
    of_all: Threshold, found: Mapping[str, Threshold], precision: float, level: float, about: Mapping[str, Any]
) -> dict[str, Any]:
    """What a service reads: `attributes` by name, `all` for others. It belongs to the model, template and calibration in
    `about`, whose confidences it speaks of."""

    def row(t: Threshold) -> dict[str, Any]:
        return asdict(t) | {"coverage": t.coverage}

    return {
        "precision": precision,
        "confidence": level,
        "bound": "Clopper-Pearson, one-sided",
        **about,
        "all": row(of_all),
        "attributes": {name: row(t) for name, t in found.items()},
    }


def sections(of_all: Threshold, found: Mapping[str, Threshold], precision: float, level: float) -> list[Section]:
    """The thresholds as a table, the attributes with most values first."""
    ordered = sorted(found.items(), key=lambda pair: -pair[1].values)
    note = (
        f"Accepted values are right in at least {100 * precision:g} % with confidence {100 * level:g} %. An attribute with fewer "
        f"than {fewest(precision, level)} values takes the threshold of all, unless its own values speak against it."
    )
    columns = ("attribute", "threshold", "accepted", "coverage, %", "right, %", "at least, %", "basis")
    return [Section("Thresholds", note, columns, [_row(name, t) for name, t in (("all", of_all), *ordered)])]


def _row(name: str, t: Threshold) -> tuple[str | int | float, ...]:
    limit = "none" if t.threshold is None else f"{t.threshold:.4f}"
    accepted = f"{t.accepted} of {t.values}"
    if not t.accepted:
        return name, limit, accepted, 0.0, "–", "–", t.basis
    return name, limit, accepted, 100 * t.coverage, 100 * t.right / t.accepted, 100 * t.at_least, t.basis
