"""Batch jobs that go on wherever they were stopped: every row of the input ends in a record or in a dead letter, once.

    shelfwise batch run offers.parquet --schema prompts/schemas --out results/
    shelfwise batch resume results/

The input is read ahead, part by part; what the job or another one knows already is taken from there, the rest is extracted, and
the part entered in the job (`extractor.job`).
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from glob import glob
from itertools import islice
from pathlib import Path
from typing import TypeVar

from extractor.adapters import fingerprint
from extractor.config import LOCAL, Settings, adapters_of, find_calibration
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import InputError
from extractor.extract import Extractor
from extractor.io import FORMATS, Columns, OfferReader, format_of
from extractor.job import RETRIES, TOTAL, Counts, DeadLetter, Job, Part
from extractor.prompts import load_template
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema
from extractor.stores import files_at, local, name_of, version_of
from extractor.workshop import Opened, Outcome, Workshop

Row = ProductOffer | Failure
Report = Callable[[Counts, float], None]
T = TypeVar("T")
NEVER = ("invalid_offer", "duplicate_id")  # dead letters that are no offers
ASKED = ("engine", "grounding", "k", "choice", "order", "known", "truncate")  # settings that a record depends on


def files_of(sources: Sequence[str]) -> list[str]:
    """The paths from the root, or addresses, of files, folders and globs, each once, in order. Raises InputError for a source
    without any."""
    found: dict[str, None] = {}
    for source in sources:
        path = local(source)
        if path is None:
            files = files_at(source, tuple(FORMATS))
        elif path.is_dir():
            files = [str(p.resolve()) for p in sorted(path.iterdir()) if format_of(p)]
        else:
            paths = [str(path)] if path.is_file() else sorted(glob(str(path), recursive=True))  # noqa: PTH207
            files = [str(Path(p).resolve()) for p in paths]
        if not files:
            raise InputError(f"{source}: no such file, and no folder or glob with {', '.join(FORMATS)} in it")
        found |= dict.fromkeys(files)
    return list(found)


class Input:
    """The rows of several files, one behind the other; an id counts over all of them."""

    def __init__(self, files: Sequence[str], columns: Columns) -> None:
        seen: set[int] = set()
        several = len(files) > 1
        self._readers = [OfferReader(f, columns, seen=seen, prefix=f"{name_of(f)}:" if several else "") for f in files]
        self._sizes = [reader.size for reader in self._readers]
        self._at = 0

    def __iter__(self) -> Iterator[Row]:
        for self._at, reader in enumerate(self._readers):  # noqa: B020
            yield from reader
        self._at += 1

    @property
    def fraction(self) -> float:
        """Share that has been read, by bytes."""
        read = float(sum(self._sizes[: self._at]))
        if self._at < len(self._readers):
            read += (self._readers[self._at].fraction or 0.0) * self._sizes[self._at]
        return read / sum(self._sizes)


def prints(
    files: Sequence[str],
    settings: Settings,
    schemas: Sequence[AttributeSchema],
    demonstrations: Sequence[LabelledOffer],
) -> dict[str, str]:
    """What a job depends on, by name: with another value its records would be others."""
    template, calibration = load_template(settings.template), find_calibration(settings)
    model = f"{settings.model} at {settings.base_url}" if settings.engine == "server" else settings.engine
    if settings.engine in LOCAL:
        name = settings.model or "base"
        model = f"{model_reference(name)} {fingerprint(resolve_model(name))}"
    shown = "".join(d.model_dump_json() for d in demonstrations)
    return {
        **{f"input {file}": _hash(file) for file in files},
        **{f"schema {s.category or ''}".strip(): s.reference for s in schemas},
        **{f"adapter {a.reference}": a.card.labels_sha256 if a.card else str(a.folder) for a in adapters_of(settings)},
        "template": f"{template.reference} {template.sha256}",
        "model": model,
        "calibration": calibration.reference if calibration else "none",
        "demonstrations": hashlib.sha256(shown.encode()).hexdigest()[:16] if demonstrations else "none",
    }


def _hash(file: str) -> str:
    """Of the content; an object elsewhere is not fetched for that, and known by its size and when it was written."""
    path = local(file)
    if path is None:
        return version_of(file)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


def work(
    job: Job,
    opened: Opened,
    *,
    reuse: Sequence[Job] = (),
    retries: int = 10_000,
    patience: float = 600.0,
    report: Report = lambda counts, fraction: None,
    say: Callable[[str], None] = lambda message: None,
) -> Counts:
    """Go on with the input where the job stands. Records of `reuse`, and the job's own, are not made twice. `retries` is what the
    job may spend in all, `patience` how many seconds a server may stay away; `report` hears of each part, with the share of
    the input that was read. Raises InputError, EngineError and StorageError; the job can go on later."""
    with job.locked():
        before = job.counts()
        if before.finished:
            return before
        rows = Input(files_of(job.manifest.sources), Columns(**job.manifest.columns))
        chunks = _chunks(islice(rows, before.rows, None), job.manifest.part)
        first = before.rows
        with _workshop(job, opened, retries, patience, say) as shop, ThreadPoolExecutor(1) as ahead:
            following: Future[list[Row]] = ahead.submit(next, chunks, [])
            while chunk := following.result():
                following = ahead.submit(next, chunks, [])  # is read while this one is extracted
                job.enter(_part(chunk, first, [job, *reuse], shop, _key_maker(job, shop.extractor)))
                first += len(chunk)
                report(job.counts(), rows.fraction)
        job.note(TOTAL, first)
        return job.counts()


def retry(
    job: Job,
    opened: Opened,
    *,
    retries: int = 10_000,
    patience: float = 600.0,
    report: Report = lambda counts, fraction: None,
    say: Callable[[str], None] = lambda message: None,
) -> Counts:
    """Extract the dead letters that are offers once more. Parameters and errors are those of `work`."""
    with job.locked():
        letters = [letter for letter in job.letters() if letter.failure.failure.reason not in NEVER]
        with _workshop(job, opened, retries, patience, say) as shop:
            for begin, chunk in enumerate(_chunks(iter(letters), job.manifest.part)):
                job.enter(_again(chunk, shop, _key_maker(job, shop.extractor)))
                report(job.counts(), (begin * job.manifest.part + len(chunk)) / len(letters))
        return job.counts()


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _workshop(job: Job, opened: Opened, retries: int, patience: float, say: Callable[[str], None]) -> Workshop:
    def spend(reason: str) -> None:
        spent = (job.noted(RETRIES) or 0) + 1
        if spent > retries:
            raise InputError(
                f"{job.folder}: all {retries} retries are spent, the last on: {reason}. Once that is put right: "
                f"shelfwise batch resume {job.folder} --retries {2 * retries}"
            )
        job.note(RETRIES, spent)

    return Workshop(opened, spend, say, patience)


KeyOf = Callable[[ProductOffer], bytes | None]


def _key_maker(job: Job, extractor: Extractor) -> KeyOf:
    """A record's key is of all that it depends on; without a schema there is none."""
    about = {n: p for n, p in job.manifest.prints.items() if not n.startswith(("input ", "schema"))}
    asked = {name: job.manifest.settings.get(name) for name in ASKED}
    start = hashlib.blake2b(json.dumps([about, asked], sort_keys=True).encode(), digest_size=16)

    def key(offer: ProductOffer) -> bytes | None:
        schema = extractor.schema_for(offer)
        if schema is None:
            return None
        content = start.copy()
        content.update(json.dumps([schema.reference, offer.category, offer.title, offer.description]).encode())
        return content.digest()

    return key


def _part(rows: Sequence[Row], first: int, known: Sequence[Job], shop: Workshop, key_of: KeyOf) -> Part:
    """What comes of some rows, the first of which is row `first` of the input. Offers that are the same are extracted once."""
    made: dict[int, Outcome] = {}
    keys: dict[int, bytes | None] = {}
    same: dict[bytes, list[int]] = {}
    fresh: list[tuple[int, ProductOffer]] = []
    for place, row in enumerate(rows):
        if isinstance(row, Failure):
            made[place] = row, 1
            continue
        key = keys[place] = key_of(row)
        if key is not None and key in same:
            same[key].append(place)
        elif key is not None and (found := next(filter(None, (job.find(key) for job in known)), None)):
            made[place] = _renamed(found, row), 0
        else:
            fresh.append((place, row))
            if key is not None:
                same[key] = []
    started = time.perf_counter()
    outcomes = shop.extract([offer for _, offer in fresh])
    part = Part(rows=len(rows), seconds=time.perf_counter() - started)
    for (place, _), (record, attempts) in zip(fresh, outcomes, strict=True):
        made[place] = record, attempts
        part.usage += [record.usage] if isinstance(record, Extraction) else []
        for twin in same.get(keys[place] or b"", ()):
            made[twin] = _renamed(record, rows[twin]), attempts
    for place in range(len(rows)):
        _sort(part, *made[place], first + place, rows[place], keys.get(place), shop)
    part.reused = len(part.records) - len(part.usage)
    return part


def _renamed(record: Extraction | Failure, row: Row) -> Extraction | Failure:
    return record.model_copy(update={"offer_id": row.id if isinstance(row, ProductOffer) else row.offer_id})


def _again(letters: Sequence[DeadLetter], shop: Workshop, key_of: KeyOf) -> Part:
    failures = [letter.failure for letter in letters]
    offers = [
        ProductOffer(id=f.offer_id, title=f.title or "", description=f.description, category=f.category)
        for f in failures
    ]
    started = time.perf_counter()
    outcomes = shop.extract(offers)
    part = Part(seconds=time.perf_counter() - started)
    for letter, offer, (record, attempts) in zip(letters, offers, outcomes, strict=True):
        _sort(part, record, letter.attempts + attempts, letter.row, offer, key_of(offer), shop)
        if isinstance(record, Extraction):
            part.usage.append(record.usage)
            part.answered.append(letter.row)
    return part


def _sort(
    part: Part, record: Extraction | Failure, attempts: int, place: int, row: Row, key: bytes | None, shop: Workshop
) -> None:
    """Into the part: a record, or a dead letter with what was asked."""
    if isinstance(record, Extraction):
        part.records.append(record)
        part.keys.append(key)
    else:
        prompt = shop.prompt(row) if isinstance(row, ProductOffer) else None
        part.dead.append(DeadLetter(row=place, attempts=attempts, failure=record, prompt=prompt))
