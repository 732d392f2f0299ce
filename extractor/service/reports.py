"""What becomes of each part of a job: the store has its records, and the journal says how far the job is."""

import time
from collections.abc import Callable
from threading import Event
from typing import Any

from extractor.errors import InputError
from extractor.feedback import Store
from extractor.job import Counts, Job
from extractor.journal import JobEntry, Journal
from extractor.progress import facts

STORED, APART = "stored", "apart"  # notes of a job: parts that are in the store, records that it does not take
WAITING, RUNNING, CANCELLED, FAILED, FINISHED = STATES = ("waiting", "running", "cancelled", "failed", "finished")


class Report:
    """Of a job that goes on now, and is locked while this is made; `stop` is set once the journal says that it is not to.
    `counted` hears of new rows."""

    def __init__(
        self, journal: Journal, store: Store, entry: JobEntry, job: Job, stop: Event, counted: Callable[[int], None]
    ) -> None:
        self._journal, self._store, self._identity = journal, store, entry.id
        self._job, self._stop, self._counted = job, stop, counted
        self._begun, self._started = job.counts(), time.monotonic()
        self._rows, self._fraction = self._begun.rows, float(entry.counts.get("fraction") or 0.0)
        self.keep()

    def part(self, counts: Counts, fraction: float) -> None:
        self.keep()
        self._counted(counts.rows - self._rows)
        self._rows, self._fraction = counts.rows, round(fraction, 4)
        found = facts(counts, fraction, self._begun, time.monotonic() - self._started)
        self._tell(counts=self._whole(found), problem=None)

    def say(self, message: str) -> None:
        self._tell(problem=f"{message}. The job goes on by itself")

    def keep(self) -> None:
        """Parts that are in the job and not in the store yet."""
        for number, records in self._job.parts(self._job.noted(STORED) or 0):
            apart = 0
            try:
                self._store.add(records)
            except InputError:  # for one that no index takes, all are refused
                for record in records:
                    try:
                        self._store.add([record])
                    except InputError:
                        apart += 1
            if apart:
                self._job.note(APART, (self._job.noted(APART) or 0) + apart)
            self._job.note(STORED, number + 1)

    def close(self) -> None:
        """How far it came, whatever has ended it."""
        self._journal.move(self._identity, STATES, counts=self._whole(facts(self._job.counts())))

    def _whole(self, found: dict[str, Any]) -> dict[str, Any]:
        return found | {"fraction": self._fraction, "not_reviewable": self._job.noted(APART) or 0}

    def _tell(self, **news: Any) -> None:
        if not self._journal.move(self._identity, [RUNNING], **news):
            self._stop.set()  # cancelled, perhaps through another service
