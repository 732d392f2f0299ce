"""How far confidences can be trusted: pure functions of confidences (0..1) and of which values are right."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eval.metrics import VC, Cells, Floats

Bools = NDArray[np.bool_]


def judged(cells: Cells, strict: bool = False) -> Cells:
    """The cells that have a predicted value with a confidence and that gold speaks of. `strict`: also those that it does not
    list, whose values then are wrong."""
    return cells.where((cells.listed | strict) & (cells.predicted > 0) & ~np.isnan(cells.confidence))


def correct(cells: Cells) -> Bools:
    right: Bools = cells.outcome == VC
    return right


# --- bounds -----------------------------------------------------------------------------------------------------------


def lower_bound(right: ArrayLike, n: ArrayLike, level: float) -> Floats:
    """The one-sided lower bound of a share by Clopper and Pearson (1934, https://doi.org/10.1093/biomet/26.4.404): the smallest
    share under which at least `right` of `n` have a probability of 1 - `level`."""
    from scipy.stats import beta

    k, m = np.asarray(right, dtype=np.float64), np.asarray(n, dtype=np.float64)
    bound: Floats = np.where(k > 0, beta.ppf(1 - level, np.maximum(k, 1), m - k + 1), 0.0)
    return bound


def upper_bound(right: ArrayLike, n: ArrayLike, level: float) -> Floats:
    """The one-sided upper bound of a share, likewise."""
    k, m = np.asarray(right), np.asarray(n)
    return 1 - lower_bound(m - k, m, level)


# --- calibration ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bin:
    """Values of like confidence: their number, mean confidence, and the share that is right with its 95 % interval."""

    n: int
    confidence: float
    right: float
    low: float
    high: float


def reliability(confidence: Floats, correct: Bools, bins: int = 10) -> list[Bin]:
    """The points of a reliability diagram: at most `bins`, of about equally many values (bins of equal width would hold one or
    two values where a model is rarely so sure). Equal confidences are in one bin."""
    if not len(confidence):
        return []
    edges = np.unique(np.quantile(confidence, np.arange(1, bins) / bins))
    place = np.searchsorted(edges, confidence, side="right")
    found = []
    for i in np.unique(place):
        inside = place == i
        n, k = int(inside.sum()), int(correct[inside].sum())
        bounds = float(lower_bound(k, n, 0.975)), float(upper_bound(k, n, 0.975))
        found.append(Bin(n, float(confidence[inside].mean()), k / n, *bounds))
    return found


def calibration_error(confidence: Floats, correct: Bools, bins: int = 15) -> float:
    """Expected calibration error in 0..1, over bins of equal width (Guo et al. 2017, https://arxiv.org/abs/1706.04599)."""
    if not len(confidence):
        return 0.0
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(place, weights=confidence - correct, minlength=bins))
    return float(gaps.sum() / len(confidence))


# --- selection --------------------------------------------------------------------------------------------------------


def thresholds(confidence: Floats, correct: Bools) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Every threshold that can be set, from the highest down, with the number of values that it accepts and of those that are
    right. Equal confidences are accepted together."""
    order = np.argsort(-confidence, kind="stable")
    accepted, right = np.arange(1, len(order) + 1), np.cumsum(correct[order])
    last = np.append(np.diff(confidence[order]) != 0, True)[: len(order)]
    return confidence[order][last], accepted[last], right[last]


def risk_coverage(confidence: Floats, correct: Bools) -> tuple[Floats, Floats]:
    """Coverage (share of answered cells accepted) and risk (share of those that are wrong), as the threshold falls."""
    _, accepted, right = thresholds(confidence, correct)
    return accepted / max(len(confidence), 1), 1 - right / accepted


def coverage_at(precision: float, confidence: Floats, correct: Bools) -> float:
    """The largest share of answered cells that a threshold accepts with at least this precision (0..1)."""
    coverage, risk = risk_coverage(confidence, correct)
    return float(coverage[risk <= 1 - precision + 1e-12].max(initial=0.0))
