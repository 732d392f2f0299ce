"""Batch jobs that go on wherever they were stopped: every row of the input ends in a record or in a dead letter, once.

    shelfwise batch run offers.parquet --schema prompts/schemas --out results/
    shelfwise batch resume results/

The input is read ahead in chunks; what the job or another one knows already is taken from there, the rest is extracted, in this
process, in several (`extractor.processes`) or on Ray (`extractor.cluster`), and each chunk enters the job (`extractor.job`).
"""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from glob import glob
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TypeVar

from extractor.adapters import fingerprint
from extractor.chunks import Chunk, Item, Row, key_maker, part_of, prepared
from extractor.config import LOCAL, Settings, adapters_of, find_calibration
from extractor.engines.models import model_reference, resolve_model
from extractor.errors import InputError
from extractor.io import FORMATS, Columns, OfferReader, format_of
from extractor.job import RETRIES, TOTAL, Counts, DeadLetter, Job
from extractor.manifest import MASKING
from extractor.prompts import Template, load_template
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema
from extractor.stores import files_at, local, name_of, path_of, version_of
from extractor.workshop import Opened, Workshop

Report = Callable[[Counts, float], None]
T = TypeVar("T")
NEVER = ("invalid_offer", "duplicate_id")  # dead letters that are no offers


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


def _places(files: Sequence[str]) -> list[str]:
    """What says which of the files it is: its name or, where several have that, its path below the folder of all."""
    names, paths = [name_of(file) for file in files], [path_of(file).split("/") for file in files]
    counts = Counter(names)
    shared = len(os.path.commonprefix([path[:-1] for path in paths]))  # noqa: RUF071  # of lists, part by part
    return [
        f"{name}:" if counts[name] == 1 else f"{'/'.join(path[shared:])}:"
        for name, path in zip(names, paths, strict=True)
    ]


class Input:
    """The rows of several files, one behind the other; an id counts over all of them, and `prefix` begins those that are made."""

    def __init__(self, files: Sequence[str], columns: Columns, prefix: str = "", mask_pii: bool = False) -> None:
        seen: set[int] = set()
        places = _places(files) if len(files) > 1 else [""]
        self._readers = [OfferReader(f, columns, seen, prefix, p, mask_pii) for f, p in zip(files, places, strict=True)]
        self._sizes = [reader.size for reader in self._readers]
        self._at = 0

    def __iter__(self) -> Iterator[Row]:
        for self._at, reader in enumerate(self._readers):  # noqa: B020
            yield from reader.one_of_many()
        self._at += 1
        if not any(reader.rows for reader in self._readers):
            others = ", nor in the others" * (len(self._readers) > 1)
            raise InputError(f"{reader.source}: there are no offers in it{others}")

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
    template: Template | None = None,
) -> dict[str, str]:
    """What a job depends on, by name: with another value its records would be others. `template` stands in for that of the
    settings."""
    template, calibration = template or load_template(settings.template), find_calibration(settings)
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
        **({MASKING: "on"} if settings.mask_pii else {}),
        "demonstrations": hashlib.sha256(shown.encode()).hexdigest()[:16] if demonstrations else "none",
    }


def _hash(file: str) -> str:
    """Of the content; an object elsewhere is not fetched for that, and known by its size and when it was written."""
    path = local(file)
    if path is None:
        return version_of(file)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]


class Budget:
    """What a job may try again, in all its life."""

    def __init__(self, job: Job, retries: int) -> None:
        self._job, self._retries, self._lock = job, retries, Lock()

    @property
    def left(self) -> int:
        return self._retries - (self._job.noted(RETRIES) or 0)

    def spend(self, reason: str) -> None:
        """From any thread. Raises InputError where nothing is left."""
        with self._lock:
            if self.left <= 0:
                folder = self._job.folder
                raise InputError(
                    f"{folder}: all {self._retries} retries are spent, the last on: {reason}. Once that is put right: "
                    f"shelfwise batch resume {folder} --retries {2 * self._retries}"
                )
            self._job.note(RETRIES, self._retries - self.left + 1)


Say = Callable[[str], None]
Extract = Callable[[Iterator[Chunk], Opened, Budget, Say, float], Generator[Chunk]]


def in_process(chunks: Iterator[Chunk], opened: Opened, budget: Budget, say: Say, patience: float) -> Generator[Chunk]:
    """The chunks, one after the other, extracted by an engine in this process."""
    with Workshop(opened, budget.spend, say, patience) as shop:
        for chunk in chunks:
            started = time.perf_counter()
            chunk.take(shop.extract(chunk.offers), time.perf_counter() - started)
            yield chunk


def work(
    job: Job,
    opened: Opened,
    *,
    reuse: Sequence[Job] = (),
    extract: Extract = in_process,
    retries: int = 10_000,
    patience: float = 600.0,
    report: Report = lambda counts, fraction: None,
    say: Say = lambda message: None,
) -> Counts:
    """Go on with the input where the job stands. Records of `reuse`, and the job's own, are not made twice. `retries` is what the
    job may spend in all, `patience` how many seconds a server may stay away; `report` hears of each part, with the share of
    the input that was read. Raises InputError, EngineError and StorageError; the job can go on later."""
    with job.locked():
        before = job.counts()
        if before.finished:
            return before
        m = job.manifest
        rows = Input(files_of(m.sources), Columns(**m.columns), m.prefix, m.masks_pii)
        items = (Item(n, row) for n, row in enumerate(islice(rows, before.rows, None), before.rows))
        chunks = _ahead(Chunk(chunk, rows.fraction) for chunk in _chunks(items, job.manifest.part))
        known = prepared(chunks, [job, *reuse], key_maker(job))
        _settle(job, extract(known, opened, Budget(job, retries), say, patience), report)
        job.note(TOTAL, job.counts().rows)
        return job.counts()


def retry(
    job: Job,
    opened: Opened,
    *,
    extract: Extract = in_process,
    retries: int = 10_000,
    patience: float = 600.0,
    report: Report = lambda counts, fraction: None,
    say: Say = lambda message: None,
) -> Counts:
    """Extract the dead letters that are offers once more. Parameters and errors are those of `work`."""
    with job.locked():
        items = [_item(letter) for letter in job.letters() if letter.failure.failure.reason not in NEVER]
        chunks = (
            Chunk(chunk, min(1.0, (n + 1) * job.manifest.part / len(items)))
            for n, chunk in enumerate(_chunks(iter(items), job.manifest.part))
        )
        known = prepared(chunks, [job], key_maker(job))
        _settle(job, extract(known, opened, Budget(job, retries), say, patience), report)
        return job.counts()


def _item(letter: DeadLetter) -> Item:
    f = letter.failure
    offer = ProductOffer(id=f.offer_id, title=f.title or "", description=f.description, category=f.category)
    return Item(letter.row, offer, letter.attempts)


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk


def _ahead(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The same; one is read while the one before it is extracted."""
    with ThreadPoolExecutor(1) as reader:
        following = reader.submit(next, chunks, None)
        while chunk := following.result():
            following = reader.submit(next, chunks, None)
            yield chunk


def _settle(job: Job, chunks: Generator[Chunk], report: Report) -> None:
    """Into the job, in the order of the input: who resumes passes over as many rows as are in it."""
    with closing(chunks):
        for chunk in chunks:
            job.enter(part_of(chunk))
            chunk.settled = True
            report(job.counts(), chunk.fraction)
