"""What a service remembers beside reviews: who did what, and the jobs that were begun."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from extractor.database import Database
from extractor.database.tables import audit, jobs

_JSON = ("counts", "asked")


@dataclass(frozen=True)
class Entry:
    """Of the audit log."""

    at: str
    who: str
    what: str
    about: str


@dataclass(frozen=True)
class JobEntry:
    """A job as the service knows it, or a file that none has taken yet; its files are in the folder of its id."""

    id: str
    name: str
    state: str
    who: str
    created: str
    kind: str = "extract"
    asked: dict[str, Any] = field(default_factory=dict)
    finished: str | None = None
    counts: dict[str, Any] = field(default_factory=dict)
    problem: str | None = None


class Journal:
    def __init__(self, database: Database) -> None:
        self.database = database

    def note(self, who: str, what: str, about: str) -> None:
        with self.database.writing() as connection:
            note(self.database, connection, who, what, about)

    def entries(self, n: int = 100) -> list[Entry]:
        """The last ones, newest first."""
        query = select(audit.c.at, audit.c.who, audit.c.what, audit.c.about).order_by(audit.c.id.desc()).limit(n)
        with self.database.reading() as connection:
            return [Entry(*row) for row in connection.execute(query)]

    def enter(self, job: JobEntry) -> None:
        """Keep a job, or how it stands now."""
        row = vars(job) | {"counts": json.dumps(job.counts), "asked": json.dumps(job.asked)}
        with self.database.writing() as connection:
            statement = self.database.upsert(jobs).values(row)
            connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))

    def move(self, identity: str, states: Sequence[str], said: tuple[str, str] | None = None, **news: Any) -> bool:
        """Whether the job was in one of these states: only then what is new of it is kept and, for the audit log, `said`: who,
        and what. So of two who move it at once one does."""
        row = {name: json.dumps(new) if name in _JSON else new for name, new in news.items()}
        with self.database.writing() as connection:
            moved = update(jobs).where(jobs.c.id == identity, jobs.c.state.in_(states)).values(row)
            if connection.execute(moved.returning(jobs.c.id)).one_or_none() is None:
                return False
            if said:
                note(self.database, connection, *said, identity)
            return True

    def forget(self, identity: str, states: Sequence[str], said: tuple[str, str] | None = None) -> bool:
        """Whether it was in one of these states, and is forgotten now; `said` as for `move`."""
        with self.database.writing() as connection:
            gone = delete(jobs).where(jobs.c.id == identity, jobs.c.state.in_(states))
            if connection.execute(gone.returning(jobs.c.id)).one_or_none() is None:
                return False
            if said:
                note(self.database, connection, *said, identity)
            return True

    def jobs(
        self,
        states: Sequence[str] | None = None,
        who: Sequence[str] | None = None,
        kind: str | None = None,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[JobEntry]:
        """Newest first."""
        asked = {"state": states, "who": who, "kind": kind and [kind]}
        wanted = [jobs.c[name].in_(values) for name, values in asked.items() if values is not None]
        query = select(jobs).where(*wanted).order_by(jobs.c.created.desc(), jobs.c.id).limit(limit).offset(offset)
        with self.database.reading() as connection:
            return [_entry(dict(row)) for row in connection.execute(query).mappings()]

    def tally(self, kind: str) -> dict[str, int]:
        """state -> how many jobs of this kind are in it."""
        query = select(jobs.c.state, func.count()).where(jobs.c.kind == kind).group_by(jobs.c.state)
        with self.database.reading() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def job(self, identity: str) -> JobEntry | None:
        with self.database.reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == identity)).mappings().one_or_none()
        return None if row is None else _entry(dict(row))


def _entry(row: dict[str, Any]) -> JobEntry:
    return JobEntry(**row | {name: json.loads(row[name]) for name in _JSON})


def note(database: Database, connection: Connection, who: str, what: str, about: str) -> None:
    """Into the audit log, in the transaction of what is noted."""
    connection.execute(insert(audit).values(at=database.now(), who=who, what=what, about=about))
