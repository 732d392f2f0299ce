"""What Alembic runs: migrations on the connection, and in the transaction, of who opens the store."""

from alembic import context

from extractor.database import VERSION

context.configure(connection=context.config.attributes["connection"], version_table=VERSION)
context.run_migrations()
