"""Scores of extractions against gold: pure functions over a table of cells.

A *cell* is one offer and one attribute. `tabulate` turns gold and predictions into `Cells`, arrays with a row per cell;
everything else counts, divides and resamples those arrays. The micro-F1 of the published protocol is that of ExtractGPT
(Brinkmann et al. 2023, https://arxiv.org/abs/2310.12537).
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from extractor.records import LabelledOffer

NN, NV, VN, VC, VW = range(5)  # gold none or value; prediction none, value, correct, wrong
OUTCOMES = ("NN", "NV", "VN", "VC", "VW")

Floats = NDArray[np.float64]
_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


@dataclass(frozen=True)
class Prediction:
    """What a system says of one offer. `failure` is the reason where it gave no record; `confidence` goes value by value
    and may lack attributes."""

    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    confidence: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    failure: str | None = None


@dataclass(frozen=True)
class Cells:
    """One row per cell, all arrays of one length.

    `offer` and `group` are indices (`groups` names them: category, attribute); `outcome` is NN..VW by the first predicted
    value; `listed`: gold speaks of the cell; `overlaps`: a wrong value that shares at least half its words with gold;
    `right`, `predicted`, `expected` count values as sets; `ungrounded` counts predicted values that stand nowhere in the
    offer; `confidence` of the first value, nan where there is none; `seen`: a gold value also stands in the training
    labels of the attribute; `frequency`: labels of the attribute in training; `length` of the title in characters.
    """

    groups: list[tuple[str, str]]
    offers: int
    offer: NDArray[np.int64]
    group: NDArray[np.int64]
    outcome: NDArray[np.int64]
    listed: NDArray[np.bool_]
    overlaps: NDArray[np.bool_]
    right: NDArray[np.int64]
    predicted: NDArray[np.int64]
    expected: NDArray[np.int64]
    ungrounded: NDArray[np.int64]
    confidence: Floats
    seen: NDArray[np.bool_]
    frequency: NDArray[np.int64]
    length: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> Self:
        """The same table with only the rows of `mask`."""
        rows = {f.name: getattr(self, f.name)[mask] for f in fields(self) if f.name not in ("groups", "offers")}
        return replace(self, **rows)


def tabulate(
    gold: Sequence[LabelledOffer],
    predictions: Sequence[Prediction],
    asked: Mapping[str, Sequence[str]],
    training: Iterable[LabelledOffer] = (),
) -> Cells:
    """One cell for each offer and attribute asked of its category. `asked` maps a category ("" for none) to attributes."""
    known = Counter((n, v) for o in training for n, values in o.attributes.items() for v in values)
    frequency: Counter[str] = Counter()
    for (name, _), n in known.items():
        frequency[name] += n
    groups: dict[tuple[str, str], int] = {}
    rows: list[tuple[Any, ...]] = []
    for place, (offer, prediction) in enumerate(zip(gold, predictions, strict=True)):
        category, texts = offer.category or "", list(offer.texts().values())
        absent, length = set(offer.absent), len(offer.title)
        for name in asked[category]:
            expected = [v.strip() for v in offer.attributes.get(name, ())]
            predicted = [v.strip() for v in prediction.values.get(name, ())]
            confidence = (prediction.confidence.get(name) or (None,))[0]
            right = 0
            if not predicted:
                outcome = VN if expected else NN
            elif not expected:
                outcome = NV
            else:
                outcome = VC if predicted[0] in expected else VW
                right = len(set(predicted) & set(expected))
            rows.append(
                (
                    place,
                    groups.setdefault((category, name), len(groups)),
                    outcome,
                    bool(expected) or name in absent,
                    outcome == VW and any(words_overlap(predicted[0], v) for v in expected),
                    right,
                    len(set(predicted)),
                    len(set(expected)),
                    sum(all(v not in text for text in texts) for v in predicted),
                    np.nan if confidence is None else confidence,
                    any((name, v) in known for v in expected),
                    frequency[name],
                    length,
                )
            )
    names = [f.name for f in fields(Cells)][2:]
    types = dict.fromkeys(names, np.int64) | {"listed": bool, "overlaps": bool, "seen": bool, "confidence": np.float64}
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    arrays = {n: np.array(c, dtype=types[n]) for n, c in zip(names, columns, strict=True)}
    return Cells(groups=list(groups), offers=len(gold), **arrays)


def words_overlap(a: str, b: str) -> bool:
    """Whether two values share at least half the words of the longer one (Han characters are words)."""
    words, others = Counter(_WORD.findall(a.casefold())), Counter(_WORD.findall(b.casefold()))
    return 2 * (words & others).total() >= max(words.total(), others.total(), 1)


# --- ratios: every score is right / predicted / expected, or a part of a whole ----------------------------------------


@dataclass(frozen=True)
class Score:
    """Precision, recall and F1 in per cent, 0 where a denominator is 0, and what they were made of."""

    precision: float
    recall: float
    f1: float
    right: int
    predicted: int
    expected: int


def tallies(cells: Cells) -> dict[str, NDArray[np.int64]]:
    """For each way of counting, an array cells x 3: right, predicted, expected."""
    value, gold, correct = cells.predicted > 0, cells.expected > 0, cells.outcome == VC
    strict = np.stack([correct, value, gold], axis=1).astype(np.int64)
    listed = cells.listed[:, None]
    relaxed = np.stack([correct | cells.overlaps, value, gold], axis=1)
    sets = np.stack([cells.right, cells.predicted, cells.expected], axis=1)
    return {"published": strict * listed, "strict": strict, "relaxed": relaxed * listed, "set": sets * listed}


def score(tally: NDArray[np.int64], *, rounded: bool = False) -> Score:
    """The score of an array n x 3 of right, predicted, expected. `rounded`: as the published scorer does, precision and
    recall to two decimals before F1."""
    right, predicted, expected = (int(n) for n in tally.sum(axis=0))
    precision = 100 * right / predicted if predicted else 0.0
    recall = 100 * right / expected if expected else 0.0
    if rounded:
        precision, recall = round(precision, 2), round(recall, 2)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return Score(precision, recall, round(f1, 2) if rounded else f1, right, predicted, expected)


def counts(cells: Cells) -> dict[str, int]:
    """How many listed cells have each outcome."""
    found = np.bincount(cells.outcome[cells.listed], minlength=5)
    return dict(zip(OUTCOMES, map(int, found), strict=True))


def macro_f1(cells: Cells) -> float:
    """Mean of F1 over the (category, attribute) pairs that have any outcome other than NN, in per cent."""
    return float(_macro(_by_group(tallies(cells)["published"], cells)[None])[0])


def _by_group(tally: NDArray[np.int64], cells: Cells) -> Floats:
    sums = [np.bincount(cells.group, weights=tally[:, i], minlength=len(cells.groups)) for i in range(3)]
    return np.stack(sums, axis=1)


def _f1(sums: Floats) -> Floats:
    """F1 in per cent over the last axis of right, predicted, expected."""
    total = sums[..., 1] + sums[..., 2]
    return 200 * np.divide(sums[..., 0], total, out=np.zeros_like(total), where=total > 0)


def _macro(sums: Floats) -> Floats:
    """... x groups x 3 -> ...: the mean over groups where anything was predicted or expected."""
    there = sums[..., 1] + sums[..., 2] > 0
    mean: Floats = (_f1(sums) * there).sum(axis=-1) / np.maximum(there.sum(axis=-1), 1)
    return mean


def rates(cells: Cells, failures: int = 0) -> dict[str, float]:
    """In per cent: `hallucination`, predicted values that stand nowhere in the offer; `false_value`, absent cells answered
    with a value; `failure`, offers without a record."""
    outcome = cells.outcome[cells.listed]
    parts = {
        "hallucination": (cells.ungrounded.sum(), cells.predicted.sum()),
        "false_value": ((outcome == NV).sum(), ((outcome == NV) | (outcome == NN)).sum()),
        "failure": (failures, cells.offers),
    }
    return {name: float(100 * part / whole) if whole else 0.0 for name, (part, whole) in parts.items()}


# --- uncertainty ------------------------------------------------------------------------------------------------------


def bootstrap(cells: Cells, rounds: int = 1000, seed: int = 0) -> dict[str, Floats]:
    """F1 of `rounds` resamples of the offers (Efron 1979), for every tally and for "macro". The same seed and number of
    offers draw the same offers, so that two systems can be compared pairwise."""
    ways = tallies(cells)
    per_offer = np.concatenate([_per_offer(t, cells) for t in ways.values()], axis=1)
    size = len(cells.groups)
    placed = [
        csr_matrix((ways["published"][:, i], (cells.group, cells.offer)), shape=(size, cells.offers)) for i in range(3)
    ]
    out: dict[str, list[Floats]] = {name: [] for name in (*ways, "macro")}
    for weights in _resamples(cells.offers, rounds, seed):
        sums = (weights @ per_offer).reshape(len(weights), len(ways), 3)
        for i, name in enumerate(ways):
            out[name].append(_f1(sums[:, i]))
        out["macro"].append(_macro(np.stack([(p @ weights.T).T for p in placed], axis=-1)))
    return {name: np.concatenate(parts) for name, parts in out.items()}


def _per_offer(tally: NDArray[np.int64], cells: Cells) -> Floats:
    sums = [np.bincount(cells.offer, weights=tally[:, i], minlength=cells.offers) for i in range(3)]
    return np.stack(sums, axis=1)


def _resamples(offers: int, rounds: int, seed: int, at_once: int = 10_000_000) -> Iterable[Floats]:
    """How often each offer is drawn: arrays of rounds x offers, a few rounds at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, at_once // max(offers, 1))
    for begin in range(0, rounds, step):
        n = min(step, rounds - begin)
        drawn = [np.bincount(rng.integers(0, offers, offers), minlength=offers) for _ in range(n)]
        yield np.array(drawn, dtype=np.float64)


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired(a: Floats, b: Floats) -> tuple[float, float, float]:
    """The 95 % interval of b - a over the same resamples, and the two-sided p-value of no difference."""
    difference = b - a
    low, high = interval(difference)
    tail = min((difference <= 0).sum(), (difference >= 0).sum())
    return low, high, float(min(1.0, 2 * (tail + 1) / (len(difference) + 1)))


# --- breakdowns -------------------------------------------------------------------------------------------------------

FREQUENCIES = (0, 1, 10, 100)  # labels of an attribute in training: none, rare, some, head
LENGTHS = (0, 50, 100, 150)  # characters of a title


def breakdowns(cells: Cells) -> dict[str, dict[str, Score]]:
    """The published score by attribute, category, frequency of the attribute in training, whether a gold value was seen
    there (of cells that have one), and length of the title."""
    categories = np.array([c for c, _ in cells.groups] or [""])[cells.group]
    attributes = np.array([a for _, a in cells.groups] or [""])[cells.group]
    valued = cells.where(cells.expected > 0)
    return {
        "attribute": _split(cells, attributes),
        "category": _split(cells, categories),
        "frequency": _split(cells, _binned(cells.frequency, FREQUENCIES)),
        "value": _split(valued, np.where(valued.seen, "seen in training", "not seen")),
        "title length": _split(cells, _binned(cells.length, LENGTHS)),
    }


def _split(cells: Cells, labels: NDArray[Any]) -> dict[str, Score]:
    tally = tallies(cells)["published"]
    scores = {str(label): score(tally[labels == label]) for label in np.unique(labels)}
    return {label: s for label, s in scores.items() if s.predicted or s.expected}


def _binned(numbers: NDArray[np.int64], edges: tuple[int, ...]) -> NDArray[Any]:
    upper = [*(f"{e:03}..{n - 1:03}" for e, n in pairwise(edges)), f"{edges[-1]:03}.."]
    return np.array(upper)[np.searchsorted(edges, numbers, side="right") - 1]
