"""Files of offers that people send: on the disk, whole and synced, before they count; bounded for each key; gone after a day
unless a job takes them.

An upload is an entry of the journal, and a folder `jobs/ID` with the file in it. The job that takes it is the same entry from
then on, and works in the same folder.
"""

import asyncio
import hashlib
import os
import re
import secrets
import shutil
import time
import unicodedata
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from starlette.concurrency import run_in_threadpool

from extractor.columns import sample
from extractor.errors import InputError, StorageError
from extractor.io import FORMATS
from extractor.journal import JobEntry, Journal

UPLOAD, UPLOADED = "upload", "uploaded"  # kind and state
KINDS = {
    "application/octet-stream": "",  # its name says it
    "text/csv": ".csv",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
    "application/vnd.apache.parquet": ".parquet",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": ".xlsx",
}
TEXT = {".txt": ".tsv"}  # what spreadsheets call Unicode text
OFFERS = "offers"  # the name of every file that was sent
DAY, HOUR = 86_400.0, 3_600.0
BLOCK = 1 << 20
LONGEST_LINE = 16 << 20  # bytes; a reader has a line in memory
SLOWEST = 20_000  # bytes a second, from when the first bytes should have come


class TooMuch(InputError):
    """More than may be taken; `pending` says whether it is for what was sent before."""

    def __init__(self, message: str, pending: bool) -> None:
        super().__init__(message)
        self.pending = pending


class Bounds(NamedTuple):
    """In bytes: of a file, of a key's files that no job has taken. `files`: how many of the latter; `reading`: seconds."""

    size: int
    pending: int
    files: int
    reading: float


class Uploads:
    def __init__(self, journal: Journal, folder: Path, bounds: Bounds) -> None:
        self.journal, self.folder, self.bounds = journal, folder, bounds
        self._swept = time.monotonic()
        self._coming: defaultdict[str, list[int]] = defaultdict(list)  # who -> bytes of what is being sent

    def place(self, identity: str) -> Path:
        return self.folder / identity

    def file(self, entry: JobEntry) -> Path:
        return self.place(entry.id) / f"{OFFERS}{entry.asked['ending']}"

    def pending(self, who: str) -> list[JobEntry]:
        return self.journal.jobs([UPLOADED], [who], UPLOAD)

    def upload(self, identity: str) -> JobEntry | None:
        entry = self.journal.job(identity)
        return entry if entry and entry.kind == UPLOAD else None

    async def take(self, who: str, name: str, kind: str, length: int | None, body: AsyncIterator[bytes]) -> JobEntry:
        """`length` is what the sender declares. Raises InputError for a file of no known format or that cannot be read, TooMuch,
        StorageError, and TimeoutError where it comes too slowly; then nothing is left of it."""
        if time.monotonic() - self._swept > HOUR:
            self._swept = time.monotonic()
            await run_in_threadpool(self.sweep)
        name = cleaned(name)
        ending = PurePosixPath(name).suffix.lower()
        ending = ending if ending in FORMATS else KINDS[kind] or TEXT.get(ending, "")
        if ending not in FORMATS:
            raise InputError(f"{name!r}: files end in {', '.join(FORMATS)}; name it so, or say so in Content-Type")
        if length is not None and length > self.bounds.size:
            raise self._too_large()
        with self._place(who, await run_in_threadpool(self.pending, who), length or self.bounds.size):
            identity = secrets.token_hex(8)
            place = self.place(identity)
            try:
                asked = await self._write(
                    place / f"{OFFERS}{ending}", body, by_lines=FORMATS[ending] in ("csv", "jsonl")
                )
                now = self.journal.database.now()
                entry = JobEntry(identity, name, UPLOADED, who, now, UPLOAD, asked | {"ending": ending})
                await run_in_threadpool(self._enter, entry)
            except BaseException:
                await run_in_threadpool(shutil.rmtree, place, ignore_errors=True)
                raise
        return entry

    def delete(self, identity: str) -> bool:
        """Whether there was such an upload, and no job had taken it."""
        if found := self.journal.forget(identity, [UPLOADED]):
            shutil.rmtree(self.place(identity), ignore_errors=True)
        return found

    def sweep(self) -> None:
        """Delete what no job has taken for a day, and what a crash left."""
        old = self.journal.database.now(-DAY)
        for entry in self.journal.jobs([UPLOADED], kind=UPLOAD):
            if entry.created < old:
                self.delete(entry.id)
        for place in self.folder.iterdir() if self.folder.is_dir() else ():
            # A younger one may be on its way, to this process or to another.
            if time.time() - place.stat().st_mtime > DAY and self.journal.job(place.name) is None:
                shutil.rmtree(place, ignore_errors=True)

    def _enter(self, entry: JobEntry) -> None:
        try:
            sample(self.file(entry))
        except InputError as error:
            raise InputError(str(error).replace(str(self.file(entry)), entry.name)) from error
        self.journal.enter(entry)

    @contextmanager
    def _place(self, who: str, pending: list[JobEntry], length: int) -> Iterator[None]:
        sizes = [*(entry.asked["size"] for entry in pending), *self._coming[who]]
        if len(sizes) >= self.bounds.files or sum(sizes) + length > self.bounds.pending:
            raise TooMuch(
                f"{len(sizes)} files with {sum(sizes):,} bytes wait for jobs, and at most {self.bounds.files} with "
                f"{self.bounds.pending:,} may; begin jobs with them, or delete some: DELETE /v1/uploads/ID",
                pending=True,
            )
        self._coming[who].append(length)
        try:
            yield
        finally:
            self._coming[who].remove(length)

    async def _write(self, path: Path, body: AsyncIterator[bytes], by_lines: bool) -> dict[str, str | int]:
        clock = asyncio.get_running_loop().time
        begun, size, line, digest, held = clock(), 0, 0, hashlib.sha256(), bytearray()
        with _storing():
            await run_in_threadpool(path.parent.mkdir, mode=0o700, parents=True)
            file = await run_in_threadpool(path.open, "xb")
        try:
            while True:
                async with asyncio.timeout_at(begun + self.bounds.reading + size / SLOWEST):
                    chunk = await anext(body, b"")
                    while not chunk and (following := await anext(body, None)) is not None:
                        chunk = following
                size, held = size + len(chunk), held + chunk
                if size > self.bounds.size:
                    raise self._too_large()
                if held and (len(held) >= BLOCK or not chunk):
                    at = held.rfind(b"\n")
                    line = line + len(held) if at < 0 else len(held) - at - 1
                    if by_lines and line > LONGEST_LINE:
                        raise InputError(
                            f"a line of more than {LONGEST_LINE >> 20} MiB; look whether it is what its ending says"
                        )
                    digest.update(held)
                    with _storing():
                        await run_in_threadpool(file.write, bytes(held))
                    held.clear()
                if not chunk:
                    break
            with _storing():
                await run_in_threadpool(_sync, file)
        finally:
            file.close()
        return {"size": size, "sha256": digest.hexdigest()}

    def _too_large(self) -> TooMuch:
        return TooMuch(f"at most {self.bounds.size:,} bytes are taken of a file; send it in parts", pending=False)


def cleaned(name: str) -> str:
    """A file's name to show: without folders and what cannot be seen. It is never part of a path."""
    last = re.split(r"[/\\]", name)[-1]
    shown = "".join(c for c in last if unicodedata.category(c)[0] != "C").strip()
    stem, dot, ending = shown.rpartition(".")
    return f"{stem[:120]}{dot}{ending[:20]}" if dot else shown[:120] or "offers"


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
    place = Path(file.name).parent
    for folder in (place, place.parent):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def _storing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the file cannot be kept: {error.strerror}") from error
