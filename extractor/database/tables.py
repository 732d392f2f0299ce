"""The tables of a store. Times are ISO 8601 texts in UTC, which sort as they read, in SQLite as in PostgreSQL."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    and_,
    tuple_,
)
from sqlalchemy.types import TypeDecorator


class Escaped(TypeDecorator[str]):
    """Text of sellers, with NUL, which PostgreSQL refuses, as `\\0` and `\\` as `\\\\`: in both databases, so that they hold the
    same."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return value.replace("\\", "\\\\").replace("\0", "\\0") if value else value

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        if not value or "\\" not in value:
            return value
        return "\\".join(part.replace("\\0", "\0") for part in value.split("\\\\"))


metadata = MetaData()
Serial = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up in INTEGER only

offers = Table(
    "offers",
    metadata,
    Column("id", Escaped, primary_key=True),
    Column("category", Escaped, nullable=False),  # "" for none
    Column("title", Escaped, nullable=False),
    Column("description", Escaped),
    Column("first_seen", Text, nullable=False),
    Column("extracted", Text, nullable=False),  # when the newest extraction was made: "" before the first
)

extractions = Table(
    "extractions",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("offer", Escaped, ForeignKey("offers.id"), nullable=False),
    Column("digest", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("record", Text, nullable=False),  # JSON
    Index("extraction_once", "offer", "digest", unique=True),
    Index("extraction_newest", "offer", "created", "id"),
)

# What the newest extraction says of an attribute of an offer, which review holds above it, and who looks at it now.
cells = Table(
    "cells",
    metadata,
    Column("offer", Escaped, ForeignKey("offers.id"), primary_key=True),
    Column("attribute", Escaped, primary_key=True),
    Column("category", Escaped, nullable=False),
    Column("predicted", Text, nullable=False),  # JSON, a list of values
    Column("confidence", Float),  # the lowest of the values', 0 where it is not known; NULL where there is no value
    Column("alike", BigInteger, nullable=False),  # hash of category, attribute and values
    Column("extracted", Text, nullable=False),
    Column("review", BigInteger),
    Column("claimed_by", Escaped),
    Column("claimed_until", Text),
)
_waiting = and_(cells.c.review.is_(None), cells.c.confidence.is_not(None))
for _name, _columns in {
    "queue": ("confidence", "offer", "attribute"),
    "queue_of": ("category", "attribute", "confidence", "offer"),
    "queue_in": ("category", "confidence", "offer", "attribute"),
    "queue_alike": ("alike", "confidence", "offer", "attribute"),
}.items():
    Index(_name, *(cells.c[c] for c in _columns), sqlite_where=_waiting, postgresql_where=_waiting)
_claimed = cells.c.claimed_by.is_not(None)
Index("claims", cells.c.claimed_by, sqlite_where=_claimed, postgresql_where=_claimed)

# Rows are only ever added, and marked as undone.
reviews = Table(
    "reviews",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("act", Text, nullable=False),  # one for all the values that were decided at once
    Column("offer", Escaped, ForeignKey("offers.id"), nullable=False),
    Column("attribute", Escaped, nullable=False),
    Column("category", Escaped, nullable=False),
    Column("who", Escaped, nullable=False),
    Column("at", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("before", Text, nullable=False),  # JSON: what the model said
    Column("after", Text, nullable=False),  # JSON: what is right
    Column("undone", Text),
    Index("review_of", "offer", "attribute", "id"),
    Index("review_by", "who", "id"),
    Index("review_at", "at"),
    Index("review_act", "act"),
    sqlite_autoincrement=True,
)

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("name", Escaped, nullable=False),
    Column("role", Text, nullable=False),
    Column("created", Text, nullable=False),
    Column("expires", Text),
    Column("revoked", Text),
    Column("used", Text),
)

# People who came with a key: a cookie's hash stands for the key.
sessions = Table(
    "sessions",
    metadata,
    Column("hash", Text, primary_key=True),
    Column("key", Text, ForeignKey("keys.id"), nullable=False),
    Column("created", Text, nullable=False),
    Column("expires", Text, nullable=False),
)

# Schemas and templates that were written in the service. Rows are only ever added.
versions = Table(
    "versions",
    metadata,
    Column("kind", Text, primary_key=True),  # schema, template
    Column("name", Escaped, primary_key=True),  # of the category, of the template
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("text", Escaped, nullable=False),  # JSON of a schema, Jinja of a template
    Column("sha256", Text, nullable=False),
    Column("who", Escaped, nullable=False),
    Column("at", Text, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),  # extract, train
    Column("asked", Escaped, nullable=False),  # JSON
    Column("problem", Escaped),
    Column("name", Escaped, nullable=False),
    Column("state", Text, nullable=False),
    Column("who", Escaped, nullable=False),
    Column("created", Text, nullable=False),
    Column("finished", Text),
    Column("counts", Text, nullable=False),  # JSON
)

audit = Table(
    "audit",
    metadata,
    Column("id", Serial, primary_key=True),
    Column("at", Text, nullable=False),
    Column("who", Escaped, nullable=False),
    Column("what", Text, nullable=False),
    Column("about", Escaped, nullable=False),
    Index("audit_at", "at"),
)

Cell = tuple[str, str]  # offer, attribute
T = TypeVar("T")


def among(part: Sequence[Cell]) -> ColumnElement[bool]:
    """Condition: the cell is one of these; see `parts`."""
    # SQLite finds no index for pairs, and reads the whole table.
    return and_(cells.c.offer.in_([o for o, _ in part]), tuple_(cells.c.offer, cells.c.attribute).in_(part))


def parts(rows: Sequence[T], size: int = 500) -> Iterator[Sequence[T]]:
    """As many as one statement may name."""
    return (rows[i : i + size] for i in range(0, len(rows), size))
