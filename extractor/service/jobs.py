"""The jobs of the service, worked on in the order in which they came, a few at a time, through the engine that requests share.

A job is an entry of the journal, and a folder `jobs/ID` with what was sent, the schemas it is asked by, and the job itself
(`extractor.job`) in `work`. What the entry says counts: every move from state to state goes through it, so that of two who move a
job, threads or services, one does. Records go into the store part by part; a part that is in the job and not yet in the store is
added when the job goes on, and what is added twice is there once.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import Any

import yaml

from extractor.batch import prints, work
from extractor.config import Settings, kept
from extractor.errors import ConflictError, EngineError, InputError, StorageError
from extractor.extract import Extractor
from extractor.feedback import Store
from extractor.job import MANIFEST, Job, create, open_job
from extractor.journal import JobEntry
from extractor.manifest import Manifest, differences
from extractor.prompts import Template
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, load_schemas
from extractor.service.batching import Batcher
from extractor.service.engine import Stopped, shared
from extractor.service.observe import log
from extractor.service.reports import CANCELLED, FAILED, FINISHED, RUNNING, WAITING, Report
from extractor.service.uploads import OFFERS, UPLOADED, TooMuch, Uploads
from extractor.workshop import Opened

Asks = tuple[Settings, Sequence[LabelledOffer], Template | None]
KIND = "extract"
WORK, SCHEMAS = "work", "schemas"
UNFINISHED = (WAITING, RUNNING, CANCELLED, FAILED)
PART = 64  # offers of a chunk, at most: between two of them others have their turn
TRIES, PAUSE, LONGEST = 8, 5.0, 60.0  # how often a failing disk or store is tried again, and the seconds in between
LONG = 600.0  # seconds of work after which a failure is the first one again


class Jobs:
    """`asking` are the settings, demonstrations and template (None: of the settings) that the service extracts with; `opened`
    starts its engine, `prompter` makes what writes its prompts; `counted` hears of new rows. `threads` jobs at a time; a key may
    have so many `unfinished` ones."""

    def __init__(
        self,
        uploads: Uploads,
        store: Store,
        batcher: Batcher,
        asking: Asks,
        opened: Opened,
        prompter: Callable[[], Extractor],
        counted: Callable[[int], None] = lambda rows: None,
        part: int = PART,
        threads: int = 3,
        unfinished: int = 100,
    ) -> None:
        self.uploads, self.journal, self.store = uploads, uploads.journal, store
        self._batcher, self._asking, self._opened, self._prompter = batcher, asking, opened, prompter
        self._counted, self._part, self.pause = counted, part, PAUSE
        self._unfinished, self._submitting = unfinished, Lock()
        self._changed = Condition()
        self._queue: list[str] = []
        self._running: dict[str, Event] = {}  # what stops them
        self.closing = Event()
        self._threads = [Thread(target=self._serve, name=f"shelfwise-job-{n}", daemon=True) for n in range(threads)]

    def start(self) -> None:
        """Go on with what was waiting or running when the service ended, and is on this disk."""
        with suppress(StorageError):  # then they go on at the next start
            self.uploads.sweep()
            left = self.journal.jobs([WAITING, RUNNING], kind=KIND)
            self._queue[:0] = [entry.id for entry in reversed(left) if self.here(entry)]
        for thread in self._threads:
            thread.start()

    def drain(self) -> None:
        """Begin no more, and stop between chunks."""
        with self._changed:
            self.closing.set()
            for stop in self._running.values():
                stop.set()
            self._changed.notify_all()

    def close(self) -> None:
        self.drain()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def job(self, identity: str) -> JobEntry | None:
        entry = self.journal.job(identity)
        return entry if entry and entry.kind == KIND else None

    def submit(
        self, who: str, upload: JobEntry, asked: dict[str, Any], schemas: Sequence[AttributeSchema]
    ) -> JobEntry | None:
        """The job that has taken the upload, None where it asks for something else: asking the same twice is asking once. Raises
        TooMuch."""
        wanted = upload.asked | asked | {"schemas": self._keep(upload.id, schemas)}
        now = self.journal.database.now()
        news = {"kind": KIND, "state": WAITING, "asked": wanted, "created": now}
        with self._submitting:
            self._refuse_more(who, upload.id)
            moved = self.journal.move(upload.id, [UPLOADED], (who, "job submit"), **news)
        if moved:
            self._enqueue(upload.id)
        entry = self.job(upload.id)
        return entry if entry and entry.asked == wanted else None

    def cancel(self, who: str, identity: str) -> bool:
        """Whether it was waiting or running; it ends after the chunks that the engine has begun with."""
        moved = self.journal.move(identity, [WAITING, RUNNING], (who, "job cancel"), state=CANCELLED, problem=None)
        with self._changed:
            if moved and identity in self._running:
                self._running[identity].set()
        return moved

    def resume(self, who: str, identity: str) -> bool:
        """Whether it was cancelled, or had failed."""
        moved = self.journal.move(identity, [CANCELLED, FAILED], (who, "job resume"), state=WAITING, problem=None)
        if moved:
            self._enqueue(identity)
        return moved

    def delete(self, who: str, identity: str) -> bool:
        """Whether it was over. Its files go; what the store has of it stays."""
        with self._changed:  # one that was cancelled ends after the chunks that the engine has begun with
            self._changed.wait_for(lambda: identity not in self._running, PAUSE)
            over = identity not in self._running
        if over := over and self.journal.forget(identity, [FINISHED, FAILED, CANCELLED], (who, "job delete")):
            shutil.rmtree(self.uploads.place(identity), ignore_errors=True)
        return over

    def places(self) -> dict[str, int]:
        """Of the jobs that are not finished: how many began earlier."""
        active = self.journal.jobs([WAITING, RUNNING], kind=KIND)
        return {entry.id: n for n, entry in enumerate(reversed(active))}

    def opened(self, entry: JobEntry) -> Job | None:
        """To read what there is of it, None where there is nothing yet."""
        folder = self.uploads.place(entry.id) / WORK
        return open_job(folder) if (folder / MANIFEST).is_file() else None

    def schemas(self, entry: JobEntry) -> list[AttributeSchema]:
        return load_schemas(self._schemas(entry))

    def here(self, entry: JobEntry) -> bool:
        """Whether its files are on this disk."""
        return self.uploads.file(entry).is_file()

    def _schemas(self, entry: JobEntry) -> Path:
        return self.uploads.place(entry.id) / SCHEMAS / str(entry.asked["schemas"])

    def _keep(self, identity: str, schemas: Sequence[AttributeSchema]) -> str:
        """The name of a folder with these schemas and no others, synced."""
        digest = hashlib.sha256(json.dumps([s.fingerprint for s in schemas]).encode()).hexdigest()[:16]
        folder = self.uploads.place(identity) / SCHEMAS
        aside = folder / f"{secrets.token_hex(4)}.tmp"
        try:
            if not (folder / digest).is_dir():
                aside.mkdir(parents=True)
                for n, schema in enumerate(schemas):
                    write_schema(aside / f"{n:04d}.yaml", schema)
                aside.rename(folder / digest)
        except OSError as error:
            if not (folder / digest).is_dir():  # or else another request was first
                raise StorageError(f"{folder}: cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return digest

    def _refuse_more(self, who: str, identity: str) -> None:
        if self.job(identity):  # asked twice
            return
        if len(self.journal.jobs(UNFINISHED, [who], KIND, self._unfinished)) == self._unfinished:
            raise TooMuch(
                f"{self._unfinished} jobs of this key are not finished, and no more may be; wait until some are, or delete "
                "those that were cancelled or have failed: DELETE /v1/jobs/ID",
                pending=True,
            )

    def _enqueue(self, identity: str) -> None:
        with self._changed:
            self._queue.append(identity)
            self._changed.notify()

    def _next(self) -> str | None:
        # One that was cancelled and resumed may not have stopped yet.
        return next((identity for identity in self._queue if identity not in self._running), None)

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self.closing.is_set() or self._next())
                if self.closing.is_set() or (identity := self._next()) is None:
                    return
                self._queue.remove(identity)
                stop = self._running[identity] = Event()
            try:
                self._work(identity, stop)
            finally:
                with self._changed:
                    del self._running[identity]
                    self._changed.notify_all()

    def _work(self, identity: str, stop: Event) -> None:
        """To the end, whatever that is, as far as the journal can be told of it."""
        tries, problem = 0, None
        while True:
            begun = time.monotonic()
            try:
                if not self.journal.move(identity, [WAITING, RUNNING], state=RUNNING, problem=problem):
                    return
                if entry := self.job(identity):
                    self._act(entry, stop)
                return
            except Stopped:  # for the journal it still runs, so that it goes on at the next start, or it was cancelled
                return
            except ConflictError:  # another service on the same disk is at it, perhaps only until it has drained
                self._again(identity, stop)
                return
            except StorageError as error:
                log.warning(f"job {identity}: {error}")
                tries = 1 if time.monotonic() - begun > LONG else tries + 1
                if tries <= TRIES and not stop.wait(min(self.pause * 2 ** (tries - 1), LONGEST)):
                    problem = "the disk or the store cannot be written now; the job goes on by itself when it can"
                    continue
                problem = "the disk or the store could not be written for long; once that is put right, resume the job"
            except (InputError, EngineError) as error:
                problem = f"{self._said(error, identity)}; once that is put right, resume the job"
            except Exception as error:  # noqa: BLE001  # whatever it is, other jobs go on
                log.exception(f"job {identity} broke")
                name = type(error).__name__
                problem = f"the service made a mistake ({name}); report job {identity} to whoever runs it"
            if self.closing.is_set():
                return
            try:
                self.journal.move(identity, [RUNNING], state=FAILED, problem=problem)
            except StorageError:
                self._again(identity, stop)
            return

    def _again(self, identity: str, stop: Event) -> None:
        if not stop.wait(self.pause):
            self._enqueue(identity)

    def _said(self, error: Exception, identity: str) -> str:
        place = re.escape(str(self.uploads.place(identity)))
        return re.sub(rf"{place}/{WORK}", "the job", re.sub(rf"{place}/{OFFERS}\.\w+", "the file", str(error)))

    def _act(self, entry: JobEntry, stop: Event) -> None:
        """Raises what `extractor.batch.work` does, and Stopped."""
        schemas, (settings, labelled, template) = self.schemas(entry), self._asking
        now = prints([str(self.uploads.file(entry))], settings, schemas, labelled, template)
        with self._job(entry, now) as job:
            with job.locked():
                if differences(job.manifest.prints, now):  # the service asks otherwise since: the manifest remembers it
                    job.accept(now)
                report = Report(self.journal, self.store, entry, job, stop, self._counted)
            try:
                extract = shared(self._batcher, schemas, self._prompter(), stop)
                work(job, self._opened, extract=extract, report=report.part, say=report.say)
            finally:
                with suppress(StorageError):
                    report.close()
        self.journal.move(entry.id, [RUNNING], state=FINISHED, problem=None, finished=self.journal.database.now())

    def _job(self, entry: JobEntry, now: dict[str, str]) -> Job:
        """As it stands, or begun."""
        if job := self.opened(entry):
            return job
        manifest = Manifest(
            sources=[str(self.uploads.file(entry))],
            part=self._part,
            columns=entry.asked["columns"],
            prefix=f"{entry.asked['sha256'][:8]}:",
            schema_path=str(self._schemas(entry)),
            settings=kept(self._asking[0]),
            prints=now,
        )
        return create(self.uploads.place(entry.id) / WORK, manifest)


def write_schema(path: Path, schema: AttributeSchema) -> None:
    """As `load_schema` reads it, synced."""
    with path.open("w", encoding="utf-8") as file:
        yaml.safe_dump(schema.written(), file, allow_unicode=True, sort_keys=False)
        file.flush()
        os.fsync(file.fileno())
