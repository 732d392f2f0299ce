"""What the commands do: train on a folder's `train` and score on its `validation`, and predict with what was trained."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from eval.baselines import Baseline, baseline_class, open_baseline, train_baseline
from eval.datasets import load_dataset
from eval.predictions import from_record
from eval.report import cost, summarize
from extractor.errors import InputError
from extractor.io import OfferReader
from extractor.records import Extraction, Failure, FailureDetail, ProductOffer
from extractor.schema import category_key
from extractor.writers import open_writer

CHUNK = 512


def train_and_score(
    name: str,
    data: Path,
    out: Path,
    form: str | None = None,
    schema: Path | None = None,
    encoder: str = "minilm",
    changes: dict[str, Any] | None = None,
    trials: int | None = None,
    minutes: float | None = None,
) -> dict[str, Any]:
    """Writes the baseline's folder with `predictions.jsonl` and `scores.json`, which is returned. `changes` are to the
    baseline's own recipe; with a budget, its other parameters are searched on a part of train."""
    if not data.is_dir():
        raise InputError(f"{data}: not a folder; a baseline needs one with train and validation")
    recipe = replace(baseline_class(name).RECIPE, **changes or {})
    if recipe.pooling not in ("mean", "max"):
        raise InputError(f"--pooling {recipe.pooling}: there are mean and max")
    training, validation = (load_dataset(data, split, form, schema) for split in ("train", "validation"))
    found = None
    if trials is not None or minutes is not None:
        from eval.baselines.search import search

        recipe = search(name, training.offers, training.schemas, out, encoder, recipe, trials, minutes)
        found = json.loads((out / "search.json").read_text(encoding="utf-8"))
    started = time.perf_counter()
    predictor = train_baseline(name, training.offers, training.schemas, out, encoder, recipe)
    trained = time.perf_counter()
    records = [r.to_dict() for r in predictor.extract(validation.offers)]
    seconds = time.perf_counter() - trained
    _write_lines(out / "predictions.jsonl", records)
    scores = summarize(validation, [from_record(r) for r in records], training.offers) | {
        "cost": cost(records, seconds),
        "baseline": name,
        "encoder": encoder,
        "recipe": asdict(recipe),
        "search": found,
        "training": {"offers": len(training.offers), "fingerprint": training.fingerprint, "seconds": trained - started},
    }
    (out / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return scores


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def predict(folder: Path, source: str, target: str) -> tuple[int, int]:
    """Extract from a file of offers, chunk by chunk; how many records and failures were written."""
    baseline, rows = open_baseline(folder), iter(OfferReader(source))
    names = list(dict.fromkeys(a.name for s in baseline.schemas for a in s.attributes))
    records = failures = 0
    with open_writer(target, names) as writer:
        while chunk := list(islice(rows, CHUNK)):
            made = _extracted(baseline, chunk)
            writer.write(made)
            failed = sum(isinstance(r, Failure) for r in made)
            records, failures = records + len(made) - failed, failures + failed
    return records, failures


def _extracted(baseline: Baseline, rows: list[ProductOffer | Failure]) -> list[Extraction | Failure]:
    """A record for each offer, with the failures in their places; an offer that no schema serves is one."""
    known = {category_key(s.category) for s in baseline.schemas}
    checked = [
        row
        if isinstance(row, Failure) or len(known) == 1 or category_key(row.category) in known
        else _unknown_category(row)
        for row in rows
    ]
    made = iter(baseline.extract([row for row in checked if isinstance(row, ProductOffer)]))
    return [row if isinstance(row, Failure) else next(made) for row in checked]


def _unknown_category(offer: ProductOffer) -> Failure:
    return Failure(
        offer_id=offer.id,
        category=offer.category,
        title=offer.title,
        description=offer.description,
        failure=FailureDetail(
            reason="unknown_category",
            message=f"the baseline was trained without a schema for category {offer.category!r}",
        ),
    )
