"""Offers, extractions, reviews, keys, jobs, audit log."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "1", None

WAITING = sa.text("review IS NULL AND confidence IS NOT NULL")
CLAIMED = sa.text("claimed_by IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "offers",
        sa.Column("id", sa.Text, primary_key=True),
        *_texts("category", "title"),
        sa.Column("description", sa.Text),
        *_texts("first_seen", "extracted"),
    )
    op.create_table("extractions", _serial(), _offer(), *_texts("digest", "created", "record"))
    op.create_index("extraction_once", "extractions", ["offer", "digest"], unique=True)
    op.create_index("extraction_newest", "extractions", ["offer", "created", "id"])
    op.create_table(
        "cells",
        _offer(primary_key=True),
        sa.Column("attribute", sa.Text, primary_key=True),
        *_texts("category", "predicted"),
        sa.Column("confidence", sa.Float),
        sa.Column("alike", sa.BigInteger, nullable=False),
        *_texts("extracted"),
        sa.Column("review", sa.BigInteger),
        *_texts("claimed_by", "claimed_until", nullable=True),
    )
    for name, columns in {
        "queue": ["confidence", "offer", "attribute"],
        "queue_of": ["category", "attribute", "confidence", "offer"],
        "queue_in": ["category", "confidence", "offer", "attribute"],
        "queue_alike": ["alike", "confidence", "offer", "attribute"],
    }.items():
        op.create_index(name, "cells", columns, sqlite_where=WAITING, postgresql_where=WAITING)
    op.create_index("claims", "cells", ["claimed_by"], sqlite_where=CLAIMED, postgresql_where=CLAIMED)
    op.create_table(
        "reviews",
        _serial(),
        *_texts("act"),
        _offer(),
        *_texts("attribute", "category", "who", "at", "decision", "before", "after"),
        *_texts("undone", nullable=True),
        sqlite_autoincrement=True,
    )
    for name, columns in {
        "of": ["offer", "attribute", "id"],
        "by": ["who", "id"],
        "at": ["at"],
        "act": ["act"],
    }.items():
        op.create_index(f"review_{name}", "reviews", columns)
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        *_texts("hash", "name", "role", "created"),
        *_texts("expires", "revoked", "used", nullable=True),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.Text, primary_key=True),
        *_texts("folder", "name", "state", "who", "created"),
        *_texts("finished", nullable=True),
        *_texts("counts"),
    )
    op.create_table("audit", _serial(), *_texts("at", "who", "what", "about"))
    op.create_index("audit_at", "audit", ["at"])


def _texts(*names: str, nullable: bool = False) -> list[sa.Column[str]]:
    return [sa.Column(name, sa.Text, nullable=nullable) for name in names]


def _serial() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)


def _offer(primary_key: bool = False) -> sa.Column[str]:
    return sa.Column("offer", sa.Text, sa.ForeignKey("offers.id"), nullable=False, primary_key=primary_key)
