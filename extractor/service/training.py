"""Adapters trained in the service: from what people decided to scores, as durable jobs, one at a time.

A job is an entry of the journal, and a folder `jobs/ID`:

    train.jsonl held_out.jsonl schema.yaml    what is learned from, what is compared on, and by which schema
    NAME.jinja                                how it is asked, where the template is of the store
    log printed lock process                  of the commands that are run (`extractor.service.commands`)
    runs                                      of the comparison (`eval.run`)

A training that is stopped, with the service or without, goes on from its last checkpoint.
"""

import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Condition, Event, Lock, Thread
from typing import TextIO

from extractor.adapters import CARD
from extractor.config import Settings
from extractor.demonstrations import contradictions
from extractor.errors import ConflictError, InputError, StorageError
from extractor.feedback import Store
from extractor.io import read_labelled
from extractor.journal import JobEntry, Journal
from extractor.quality import LEAST, labelled, likeness, sides
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key
from extractor.service.commands import PRINTED, Killed, alone, environment, run
from extractor.service.engine import Stopped
from extractor.service.jobs import PAUSE, Asks, write_schema
from extractor.service.observe import log
from extractor.service.reports import CANCELLED, FAILED, FINISHED, RUNNING, WAITING

KIND = "train"
LEARNED, HELD_OUT, SCHEMA = "train.jsonl", "held_out.jsonl", "schema.yaml"
TRAINING, COMPARING = "training", "comparing"


class TooFew(InputError):
    """Labelled offers; so many are `missing`."""

    def __init__(self, missing: int) -> None:
        super().__init__(f"{missing} more labelled offers are needed: {LEAST} to learn from, and {LEAST} to compare on")


class Training:
    """Of adapters in the folder `registry`, for what the service extracts with by `asking`. `program` runs the commands."""

    def __init__(self, journal: Journal, store: Store, folder: Path, registry: Path | None, asking: Asks) -> None:
        self.journal, self.store, self.folder = journal, store, folder
        self.registry, (self._settings, _, self._template) = registry and registry.resolve(), asking
        self.program: Sequence[str] = (sys.executable, "-m", "extractor")
        self._submitting, self._changed = Lock(), Condition()
        self._queue: list[str] = []
        self._running: tuple[str, Event] | None = None  # what stops it
        self._closing, self.pause = False, PAUSE
        self._thread = Thread(target=self._serve, name="shelfwise-training", daemon=True)

    def start(self) -> None:
        """Go on with what was waiting or running when the service ended, and is on this disk."""
        if self.registry:
            with suppress(StorageError):  # then they go on at the next start
                left = self.journal.jobs([WAITING, RUNNING], kind=KIND)
                self._queue[:0] = [e.id for e in reversed(left) if (self.folder / e.id / SCHEMA).is_file()]
        self._thread.start()

    def drain(self) -> None:
        """Begin no more, and stop the command that runs."""
        with self._changed:
            self._closing = True
            if self._running:
                self._running[1].set()
            self._changed.notify_all()

    def close(self) -> None:
        self.drain()
        if self._thread.ident is not None:
            self._thread.join()

    def jobs(self) -> list[JobEntry]:
        """Newest first."""
        return self.journal.jobs(kind=KIND)

    def job(self, identity: str) -> JobEntry | None:
        entry = self.journal.job(identity)
        return entry if entry and entry.kind == KIND else None

    def submit(self, who: str, schema: AttributeSchema, categories: Sequence[str]) -> JobEntry:
        """Learn from the labelled offers of these categories in the store. Raises TooFew; ConflictError where an adapter for this
        schema's category is being trained; StorageError."""
        if self.registry is None:
            raise InputError("there is no folder of adapters; start the service with --adapters FOLDER")
        key = category_key(schema.category)
        with self._submitting:
            earlier = [entry for entry in self.jobs() if entry.asked["key"] == key]
            if any(entry.state in (WAITING, RUNNING) for entry in earlier):
                raise ConflictError(f"an adapter for {schema.category} is being trained; wait for it, or cancel it")
            found = [_fitted(offer, schema) for c in categories for offer in labelled(self.store, c)]
            learned, held = sides(found, self._seen(earlier, LEARNED), self._seen(earlier, HELD_OUT))
            if missing := sum(max(0, LEAST - len(side)) for side in (learned, held)):
                raise TooFew(missing)
            identity, name = secrets.token_hex(8), folder_name(schema.category)
            place = self.folder / identity
            try:
                place.mkdir(mode=0o700, parents=True)
                write_schema(place / SCHEMA, schema)
                for file, offers in ((LEARNED, learned), (HELD_OUT, held)):
                    _write(place / file, offers)
            except OSError as error:
                shutil.rmtree(place, ignore_errors=True)
                raise StorageError(f"{place}: cannot be written: {error.strerror}") from error
            asked = {
                "category": schema.category,
                "key": key,
                "schema": schema.reference,
                "name": name,
                "learned": len(learned),
                "held_out": len(held),
            }
            now = self.journal.database.now()
            entry = JobEntry(identity, schema.category or "", WAITING, who, now, KIND, asked)
            self.journal.enter(entry)
        self.journal.note(who, "adapter train", identity)
        self._enqueue(identity)
        return entry

    def cancel(self, who: str, identity: str) -> bool:
        """Whether it was waiting or running."""
        moved = self.journal.move(identity, [WAITING, RUNNING], (who, "adapter cancel"), state=CANCELLED, problem=None)
        with self._changed:
            if moved and self._running and self._running[0] == identity:
                self._running[1].set()
        return moved

    def resume(self, who: str, entry: JobEntry) -> bool:
        """Whether it had stopped. Raises ConflictError where a later one of the category takes its place."""
        if entry.id != next(e.id for e in self.jobs() if e.asked["key"] == entry.asked["key"]):
            raise ConflictError(
                f"a later adapter for {entry.asked['category']} was begun; go on with that, or train anew"
            )
        moved = self.journal.move(entry.id, [CANCELLED, FAILED], (who, "adapter resume"), state=WAITING, problem=None)
        if moved:
            self._enqueue(entry.id)
        return moved

    def _seen(self, earlier: Sequence[JobEntry], name: str) -> set[str]:
        files = [self.folder / entry.id / name for entry in earlier]
        return {likeness(offer.title) for file in files if file.is_file() for offer in read_labelled(file)}

    def _enqueue(self, identity: str) -> None:
        with self._changed:
            self._queue.append(identity)
            self._changed.notify()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._queue)
                if self._closing:
                    return
                identity, stop = self._queue.pop(0), Event()
                self._running = identity, stop
            try:
                self._work(identity, stop)
            finally:
                with self._changed:
                    self._running = None

    def _again(self, identity: str, stop: Event) -> None:
        if not stop.wait(self.pause):
            self._enqueue(identity)

    def _work(self, identity: str, stop: Event) -> None:
        try:
            if not self.journal.move(identity, [WAITING, RUNNING], state=RUNNING, problem=None):
                return
            if entry := self.job(identity):
                with alone(self.folder / identity, stop) as held:
                    self._act(entry, held, stop)
            return
        except Stopped:
            return
        except ConflictError:  # another service on the same disk is at it, perhaps only until it has drained
            self._again(identity, stop)
            return
        except StorageError as error:  # of the journal, which can be told nothing
            log.warning(f"job {identity}: {error}")
            self._again(identity, stop)
            return
        except (InputError, OSError) as error:
            said = str(error).replace(str(self.folder / identity), "the job")
            problem = f"{said}; once that is put right, resume the job"
        except Exception as error:  # noqa: BLE001  # whatever it is, the next one is trained
            log.exception(f"job {identity} broke")
            problem = f"the service made a mistake ({type(error).__name__}); report job {identity} to whoever runs it"
        try:
            self.journal.move(identity, [RUNNING], state=FAILED, problem=problem)
        except StorageError:
            self._again(identity, stop)

    def _act(self, entry: JobEntry, held: TextIO, stop: Event) -> None:
        """Raises Stopped; InputError with what a command said."""
        assert self.registry is not None
        place, out = self.folder / entry.id, self.registry / entry.asked["name"]
        data, reference = ("--schema", SCHEMA, "--data"), self._made(entry, out)
        if reference is None:
            lora = ["finetune", "lora", *data, LEARNED, "--out", str(out), "--report", "none"]
            try:
                self._run(entry, TRAINING, [*lora, "--base", self._settings.model or "base"], held, stop)
            except InputError as error:
                if not isinstance(error, Killed):  # by a torn checkpoint, perhaps, which would stop it again
                    shutil.rmtree(out / "training", ignore_errors=True)
                raise
            if (reference := self._made(entry, out)) is None:
                raise InputError("the command that trains made no adapter")
        entry = replace(entry, counts=entry.counts | {"reference": reference})
        self.journal.move(entry.id, [RUNNING], counts=entry.counts)
        promote = ["adapters", "promote", reference, "--adapters", str(self.registry), *data, HELD_OUT]
        self._run(entry, COMPARING, [*promote, "--check", "--out", "runs"], held, stop)
        printed = (place / PRINTED).read_text(encoding="utf-8").splitlines()
        counts = entry.counts | {"scores": json.loads(printed[-1])}
        now = self.journal.database.now()
        self.journal.move(entry.id, [RUNNING], state=FINISHED, problem=None, counts=counts, finished=now)

    def _made(self, entry: JobEntry, out: Path) -> str | None:
        """name@version of the adapter that this job has made: others may put theirs beside it at any time."""
        printed = self.folder / entry.id / PRINTED
        said = printed.read_text(encoding="utf-8", errors="replace") if printed.is_file() else ""
        found = re.search(rf"^({re.escape(out.name)}@\d+) in ", said, re.MULTILINE)
        reference = str(found[1] if found else entry.counts.get("reference", ""))
        return reference if reference and (out / reference.rpartition("@")[2] / CARD).is_file() else None

    def _run(self, entry: JobEntry, phase: str, arguments: Sequence[str], held: TextIO, stop: Event) -> None:
        def progress(found: dict[str, int]) -> None:
            with suppress(StorageError):  # the next step says it
                if not self.journal.move(entry.id, [RUNNING], counts=entry.counts | {"phase": phase} | found):
                    stop.set()  # cancelled, perhaps through another service

        command = [*self.program, *arguments]
        place = self.folder / entry.id
        run(command, place, environment(self._asked(place)), held, stop, progress)

    def _asked(self, place: Path) -> Settings:
        """By what commands ask, which know templates of files alone."""
        if self._template is None or self._template.path.is_file():
            return self._settings
        file = place / f"{self._template.reference.partition('@')[0]}.jinja"
        file.write_text(self._template.source, encoding="utf-8")
        return self._settings.model_copy(update={"template": str(file)})


def folder_name(category: str | None) -> str:
    """Of the adapters of a category: it can be a file's name, and no two categories have the same."""
    key = category_key(category)
    name = re.sub(r"\W+", "-", key).strip("-")[:40] or "all"
    return name if name == key else f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:6]}"


def _fitted(offer: LabelledOffer, schema: AttributeSchema) -> LabelledOffer:
    """Labels of what the schema asks for; those that no extraction by it could give are left out."""
    wrong = {name for name, _ in contradictions(offer.model_copy(update={"category": schema.category}), [schema])}
    names = {a.name for a in schema.attributes} - wrong
    return offer.model_copy(
        update={
            "category": schema.category,
            "attributes": {name: found for name, found in offer.attributes.items() if name in names},
            "absent": [name for name in offer.absent if name in names],
        }
    )


def _write(path: Path, offers: Sequence[LabelledOffer]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(offer.model_dump_json() + "\n" for offer in offers)
        file.flush()
        os.fsync(file.fileno())
