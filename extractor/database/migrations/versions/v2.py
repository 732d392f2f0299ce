"""Sessions; versions of schemas and templates; what a job was asked for, and what stopped it."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "2", "1"


def upgrade() -> None:
    op.create_table(
        "sessions",
        sa.Column("hash", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("created", sa.Text, nullable=False),
        sa.Column("expires", sa.Text, nullable=False),
    )
    op.create_table(
        "versions",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        *(sa.Column(name, sa.Text, nullable=False) for name in ("text", "sha256", "who", "at")),
    )
    op.add_column("jobs", sa.Column("kind", sa.Text, nullable=False, server_default="extract"))
    op.add_column("jobs", sa.Column("asked", sa.Text, nullable=False, server_default="{}"))
    op.add_column("jobs", sa.Column("problem", sa.Text))
    op.drop_column("jobs", "folder")
