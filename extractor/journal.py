"""What a service remembers beside reviews: who did what, and the jobs that were begun."""

import json
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select

from extractor.database import Database
from extractor.database.tables import audit, jobs


@dataclass(frozen=True)
class Entry:
    """Of the audit log."""

    at: str
    who: str
    what: str
    about: str


@dataclass(frozen=True)
class JobEntry:
    """A batch job as the service knows it; the job itself, with what counts, is in `folder` (`extractor.job`)."""

    id: str
    folder: str
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

    def jobs(self) -> list[JobEntry]:
        """All, newest first."""
        with self.database.reading() as connection:
            rows = connection.execute(select(jobs).order_by(jobs.c.created.desc(), jobs.c.id)).mappings()
            return [_entry(dict(row)) for row in rows]

    def job(self, identity: str) -> JobEntry | None:
        with self.database.reading() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == identity)).mappings().one_or_none()
        return None if row is None else _entry(dict(row))


def _entry(row: dict[str, Any]) -> JobEntry:
    return JobEntry(**row | {name: json.loads(row[name]) for name in ("counts", "asked")})


def note(database: Database, connection: Connection, who: str, what: str, about: str) -> None:
    """Into the audit log, in the transaction of what is noted."""
    connection.execute(insert(audit).values(at=database.now(), who=who, what=what, about=about))
