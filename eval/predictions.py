"""Predictions of any system, matched with the gold offers that they answer."""

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.datasets import Dataset
from eval.metrics import Prediction
from extractor.errors import InputError

NONE = ("n/a", "None", "", "null")  # how the papers' systems write that there is no value


@dataclass(frozen=True)
class Matched:
    """A prediction for every gold offer, in their order, and what was left out by reason."""

    predictions: list[Prediction]
    left_out: dict[str, int]


def from_record(record: dict[str, Any]) -> Prediction:
    """A line that Shelfwise wrote: a record or a failure. Values count as answered, which is how labels are written: a
    number without its unit."""
    if "failure" in record:
        return Prediction(failure=record["failure"]["reason"])
    attributes = record["attributes"]
    return Prediction(
        {name: [v["value"] for v in values] for name, values in attributes.items() if values},
        {name: [v["confidence"] for v in values] for name, values in attributes.items() if values},
    )


def from_answer(answer: str) -> Prediction:
    """A line of the papers: `{"pred": "{\\"Brand\\": \\"Velmora\\", \\"Color\\": \\"n/a\\"}"}`. What does not parse failed."""
    try:
        found = json.loads(answer)
    except ValueError:
        return Prediction(failure="invalid_output")
    if not isinstance(found, dict):
        return Prediction(failure="invalid_output")
    lists = {k: v if isinstance(v, list) else [v] for k, v in found.items()}
    values = {k: [str(x) for x in v if x is not None and str(x) not in NONE] for k, v in lists.items()}
    return Prediction({k: v for k, v in values.items() if v})


def read_predictions(path: Path, dataset: Dataset) -> Matched:
    """Read records of Shelfwise (by `offer_id`), or lines with `pred` (by `id`, else by their order).

    Raises InputError where a gold offer has no prediction or two, where lines and offers do not belong together, or where no
    predicted attribute is asked for. Predictions of other offers and attributes are counted as left out.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    rows = list(_rows(path))
    if not rows:
        raise InputError(f"{path}: there are no predictions in it")
    if all("offer_id" not in row and "id" not in row for row in rows):
        by_id = _by_order(path, rows, dataset)
    else:
        by_id = {}
        for number, row in enumerate(rows, 1):
            identity = str(row.get("offer_id", row.get("id")))
            if identity in by_id:
                raise InputError(f"{path}:{number}: a second prediction for offer {identity!r}")
            by_id[identity] = _prediction(path, number, row)
    return match(by_id, dataset, str(path))


MAKERS = ("model", "adapter", "engine", "template", "calibration")


def makers(path: Path) -> list[dict[str, Any]]:
    """What made the records of a file, by the MAKERS: one entry for each system; empty where no line says."""
    found: list[dict[str, Any]] = []
    for row in _rows(path):
        if given := row.get("provenance"):
            made = {key: given.get(key) for key in MAKERS}
            if made not in found:
                found.append(made)
    return found


def maker_of(path: Path) -> dict[str, Any]:
    """What made all records of a file; empty where no line says. Raises InputError where they differ."""
    first, *others = makers(path) or [{}]
    for other in others:
        key = next(k for k in MAKERS if first[k] != other[k])
        raise InputError(f"{path}: records of two systems: {key} is {first[key]} and {other[key]}; give those of one")
    return first


def match(by_id: dict[str, Prediction], dataset: Dataset, source: str) -> Matched:
    """Put predictions into the order of the gold offers. Raises InputError; see `read_predictions`."""
    missing = [o.id for o in dataset.offers if o.id not in by_id]
    if missing:
        shown = ", ".join(missing[:3])
        raise InputError(
            f"{source}: {len(missing)} of {len(dataset.offers)} gold offers have no prediction (first: {shown}); "
            "an offer that failed needs a line too"
        )
    left_out: Counter[str] = Counter()
    known = {o.id for o in dataset.offers}
    if others := len(by_id.keys() - known):
        left_out["predictions of offers that gold does not have"] = others
    asked = {name for names in dataset.asked.values() for name in names}
    predictions = [by_id[o.id] for o in dataset.offers]
    named = Counter(name for p in predictions for name in p.values)
    if named and not named.keys() & asked:
        raise InputError(
            f"{source}: no predicted attribute is asked for: it names {', '.join(sorted(named)[:5])}; "
            f"gold has {', '.join(sorted(asked)[:5])}"
        )
    for name in sorted(named.keys() - asked):
        left_out[f"values of attribute {name!r}, which is not asked for"] = named[name]
    return Matched(predictions, dict(left_out))


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{path}:{number}: not JSON: {error}") from error
            if not isinstance(row, dict):
                raise InputError(f"{path}:{number}: a JSON {type(row).__name__}, not an object")
            yield row


def _prediction(path: Path, number: int, row: dict[str, Any]) -> Prediction:
    if "pred" in row:
        return from_answer(row["pred"])
    try:
        return from_record(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}:{number}: neither a record of Shelfwise nor a line with `pred`") from error


def _by_order(path: Path, rows: list[dict[str, Any]], dataset: Dataset) -> dict[str, Prediction]:
    """Lines without ids belong to the offers in their order; where they repeat the title, it must be the same."""
    if len(rows) != len(dataset.offers):
        raise InputError(
            f"{path}: {len(rows)} predictions without ids for {len(dataset.offers)} gold offers; "
            "give them ids, or one line for each offer in gold's order"
        )
    by_id = {}
    for number, (row, offer) in enumerate(zip(rows, dataset.offers, strict=True), 1):
        if "input" in row and row["input"] != offer.title:
            raise InputError(f"{path}:{number}: the title is not that of gold's offer {offer.id!r}; the orders differ")
        by_id[offer.id] = _prediction(path, number, row)
    return by_id
