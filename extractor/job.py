"""A batch job on disk: what it is, which parts of it are finished, and which offers are dead letters.

    job/manifest.json        what was asked for, and fingerprints of all that records depend on
        parts/00000.jsonl    the records of a part; from then on its bytes never change
        dead/00000.jsonl     its dead letters
        ledger.sqlite        the parts that count, and where every offer's record stands
        lock                 held by the process that works on the job

A part is written aside, synced and renamed, and only then entered in the ledger: after a crash at any instruction it counts or it
is not there. Every row of the input stands exactly once, in the records or in the dead letters.
"""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import BinaryIO, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from extractor.errors import ConflictError, InputError, StorageError, explain
from extractor.manifest import Manifest, differences, now
from extractor.records import Extraction, Failure, Usage

MANIFEST, LEDGER, LOCK, PARTS, DEAD = "manifest.json", "ledger.sqlite", "lock", "parts", "dead"
TOTAL, RETRIES, READ = "total", "retries", "read"  # READ: millionths of the input
_TABLES = """
CREATE TABLE IF NOT EXISTS parts (number INTEGER PRIMARY KEY, rows INTEGER, records INTEGER, reused INTEGER, sha256 TEXT,
    seconds REAL, prompt_tokens INTEGER, cached_tokens INTEGER, output_tokens INTEGER, finished TEXT);
CREATE TABLE IF NOT EXISTS dead (row INTEGER PRIMARY KEY, part INTEGER, line INTEGER, reason TEXT);
CREATE TABLE IF NOT EXISTS records (key BLOB PRIMARY KEY, part INTEGER, offset INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value INTEGER);
"""


class DeadLetter(BaseModel):
    """An offer without a record: `row` is its place in the input, from 0; `prompt` what was rendered for it, if anything was."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    row: int
    attempts: int
    failure: Failure
    prompt: list[dict[str, str]] | None = None


@dataclass
class Part:
    """What came of the next `rows` rows of the input or, where `rows` is 0, of dead letters that were tried again: `answered` are
    the rows of those that have a record now. `keys`: what `Job.find` finds the records by, None for none. `reused` of the records
    were not extracted for this part, the others took `seconds` and the tokens of `usage`."""

    rows: int = 0
    records: list[Extraction] = field(default_factory=list)
    keys: list[bytes | None] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    reused: int = 0
    seconds: float = 0.0
    usage: list[Usage] = field(default_factory=list)


@dataclass(frozen=True)
class Counts:
    """Of a job so far. Each of its `rows` is one of `records` or one of `dead`; `total` are all rows of the input, once that is
    known."""

    rows: int
    records: int
    reused: int
    dead: int
    seconds: float
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    reasons: dict[str, int]
    total: int | None

    @property
    def finished(self) -> bool:
        return self.rows == self.total


class Job:
    """A job's folder, by `create` or `open_job`. Reading it disturbs nobody; who changes it holds `locked`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        with _storing(folder):
            # Threads that extract note what they try again; one at a time changes the ledger.
            self._ledger, self._lock = sqlite3.connect(folder / LEDGER, check_same_thread=False), Lock()
            self._ledger.execute("PRAGMA journal_mode = WAL")
            self._ledger.execute("PRAGMA synchronous = FULL")
            self._ledger.executescript(_TABLES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ledger.close()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Alone with the job, and without what a crash left of an unfinished part. Raises ConflictError where another process
        works on it."""
        with _storing(self.folder):
            lock = (self.folder / LOCK).open("a+")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.seek(0)
                raise ConflictError(f"{self.folder}: process {lock.read().strip()} is at work on this job") from error
            with _storing(self.folder):
                lock.truncate(0)
                lock.write(str(os.getpid()))
                lock.flush()
                entered = {f"{number:05d}.jsonl" for (number,) in self._ledger.execute("SELECT number FROM parts")}
                for kind in (PARTS, DEAD):
                    (self.folder / kind).mkdir(exist_ok=True)
                    for path in (self.folder / kind).iterdir():
                        if path.name not in entered:
                            path.unlink()
            yield

    def enter(self, part: Part) -> None:
        """Write a part, then count it. Raises StorageError where it cannot be written; then it does not count."""
        (number,) = self._ledger.execute("SELECT coalesce(max(number) + 1, 0) FROM parts").fetchone()
        lines = [record.model_dump_json(by_alias=True).encode() + b"\n" for record in part.records]
        letters = [letter.model_dump_json(by_alias=True).encode() + b"\n" for letter in part.dead]
        offsets = [0, *accumulate(map(len, lines))][: len(lines)]
        row = (
            *(number, part.rows, len(lines), part.reused, hashlib.sha256(b"".join(lines)).hexdigest(), part.seconds),
            *(sum(getattr(u, name) for u in part.usage) for name in Usage.model_fields),
            now(),
        )
        dead = [(d.row, number, i, d.failure.failure.reason) for i, d in enumerate(part.dead)]
        found = [(key, number, at) for key, at in zip(part.keys, offsets, strict=True) if key is not None]
        with _storing(self.folder):
            _write(self.folder / PARTS / f"{number:05d}.jsonl", lines)
            _write(self.folder / DEAD / f"{number:05d}.jsonl", letters)
            with self._lock, self._ledger:
                self._ledger.execute("INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
                self._ledger.executemany("DELETE FROM dead WHERE row = ?", [(r,) for r in part.answered])
                self._ledger.executemany("INSERT OR REPLACE INTO dead VALUES (?, ?, ?, ?)", dead)
                self._ledger.executemany("INSERT OR IGNORE INTO records VALUES (?, ?, ?)", found)

    def note(self, name: str, value: int) -> None:
        """A number that outlives the process."""
        with _storing(self.folder), self._lock, self._ledger:
            self._ledger.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> int | None:
        row = self._ledger.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else int(row[0])

    def counts(self) -> Counts:
        summed = ("rows", "records", "reused", "seconds", *Usage.model_fields)
        sums = self._ledger.execute(f"SELECT {', '.join(f'coalesce(sum({c}), 0)' for c in summed)} FROM parts")
        rows, records, reused, seconds, prompt, cached, output = sums.fetchone()
        reasons = dict(self._ledger.execute("SELECT reason, count(*) FROM dead GROUP BY reason ORDER BY 2 DESC"))
        dead, total = sum(reasons.values()), self.noted(TOTAL)
        return Counts(rows, records, reused, dead, seconds, prompt, cached, output, reasons, total)

    def find(self, key: bytes) -> Extraction | None:
        """The record that was extracted for this key."""
        at = self._ledger.execute("SELECT part, offset FROM records WHERE key = ?", (key,)).fetchone()
        if at is None:
            return None
        with self._opened(PARTS, at[0]) as file:
            file.seek(at[1])
            return Extraction.model_validate_json(file.readline())

    def letters(self, offset: int = 0, limit: int = -1) -> Iterator[DeadLetter]:
        """The dead letters that nothing has answered since, part by part; `limit` -1 for all."""
        places: dict[int, set[int]] = {}
        query = "SELECT part, line FROM dead ORDER BY part, line LIMIT ? OFFSET ?"
        for number, line in self._ledger.execute(query, (limit, offset)):
            places.setdefault(number, set()).add(line)
        for number in sorted(places):
            with self._opened(DEAD, number) as file:
                for place, line in enumerate(file):
                    if place in places[number]:
                        yield DeadLetter.model_validate_json(line)

    def records(self) -> Iterator[Extraction]:
        """All records, part by part. Errors are those of `parts`."""
        for _, records in self.parts():
            yield from records

    def parts(self, begin: int = 0) -> Iterator[tuple[int, list[Extraction]]]:
        """The records of the parts from this number on. Raises InputError for a part that is not as it was written."""
        query = "SELECT number, sha256 FROM parts WHERE number >= ? ORDER BY number"
        for number, sha256 in self._ledger.execute(query, (begin,)).fetchall():
            with self._opened(PARTS, number) as file:
                content = file.read()
            if hashlib.sha256(content).hexdigest() != sha256:
                raise InputError(f"{file.name}: changed since it was written; take it from a backup")
            yield number, [Extraction.model_validate_json(line) for line in content.splitlines()]

    def _opened(self, kind: str, number: int) -> BinaryIO:
        try:
            return (self.folder / kind / f"{number:05d}.jsonl").open("rb")
        except OSError as error:
            raise InputError(
                f"{error.filename}: {error.strerror}; the ledger names it, so take it from a backup"
            ) from error

    def accept(self, prints: dict[str, str]) -> None:
        """Go on with what has changed, and remember it."""
        old, at = self.manifest.prints, now()
        changed = [
            {"at": at, "what": name, "was": old.get(name, ""), "is": prints.get(name, "")}
            for name in differences(old, prints)
        ]
        self.manifest = self.manifest.model_copy(
            update={"prints": prints, "changes": [*self.manifest.changes, *changed]}
        )
        _save(self.folder, self.manifest)


def create(folder: Path, manifest: Manifest) -> Job:
    """Raises InputError where there is a job already, StorageError where none can be written."""
    if (folder / MANIFEST).exists():
        raise InputError(f"{folder}: there is a job in it; go on with it: shelfwise batch resume {folder}")
    with _storing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        # A job whose making was killed has no more than these.
        if any(path.suffix != ".tmp" and not path.name.startswith(LEDGER) for path in folder.iterdir()):
            raise InputError(f"{folder}: is not empty; a job takes a folder of its own")
    job = Job(folder, manifest)  # before the manifest: who sees that may look into the ledger at once
    try:
        _save(folder, manifest)
    except BaseException:
        job.__exit__()
        raise
    return job


def open_job(folder: Path) -> Job:
    """Raises InputError where there is no job, or a broken one."""
    file = folder / MANIFEST
    if not file.is_file():
        raise InputError(f"{folder}: no {MANIFEST}, so there is no job; begin one with: shelfwise batch run")
    try:
        manifest = Manifest.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise InputError(f"{file}: broken: {explain(error)}") from error
    return Job(folder, manifest)


def _save(folder: Path, manifest: Manifest) -> None:
    with _storing(folder):
        _write(folder / MANIFEST, [manifest.model_dump_json(indent=1).encode() + b"\n"])


def _write(path: Path, lines: Iterable[bytes]) -> None:
    """Whole or not at all, and on the disk when this returns."""
    aside = path.with_suffix(".tmp")
    try:
        with aside.open("wb") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        aside.rename(path)
    except OSError:
        with suppress(OSError):
            aside.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _storing(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StorageError(
            f"{folder}: cannot be written: {reason}. What is finished is safe; then: shelfwise batch resume {folder}"
        ) from error
