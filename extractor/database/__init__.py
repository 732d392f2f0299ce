"""The database under corrections, keys and jobs: SQLite or PostgreSQL, brought up to date as it is opened.

    sqlite:////home/me/.local/share/shelfwise/store.sqlite
    postgresql+psycopg://user:password@host/database

Every way in is one transaction. Exceptions of the databases become errors of this project here, and nowhere else.
"""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as AllTaken

from extractor.errors import InputError, MissingExtraError, StorageError

VERSION = "shelfwise_version"  # the table that says which migrations have run
MIGRATIONS = Path(__file__).parent / "migrations"
PATIENCE = 30.0  # seconds for another process to finish writing
_LOCK = 0x5348454C  # of PostgreSQL's advisory locks: who migrates


def default_file(data_dir: Path | None = None) -> Path:
    """SQLite in `data_dir`, or where XDG keeps a user's data."""
    shared = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return (data_dir or shared / "shelfwise") / "store.sqlite"


def utc_now() -> datetime:
    return datetime.now(UTC)


class Database:
    """`address` is one of the above, or a file of SQLite; `clock` tells the time in UTC. Threads may share it. Raises InputError
    for an address that leads to no store, or to one of a newer program; StorageError where it cannot be reached or written."""

    def __init__(self, address: str | Path, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._engine = _engine(address)
        self.name = self._engine.url.render_as_string(hide_password=True)
        # SQLite lets one write at a time, and whoever it sends away sleeps for up to a tenth of a second before the next try.
        self._turn = Lock() if self._engine.dialect.name == "sqlite" else nullcontext()
        try:
            with _translated(self.name):
                self._migrate()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._engine.dispose()

    def now(self, later: float = 0.0) -> str:
        """The time, or that in some seconds."""
        return (self._clock() + timedelta(seconds=later)).astimezone(UTC).isoformat(timespec="milliseconds")

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with _translated(self.name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Commits at the end, or leaves no trace."""
        with _translated(self.name), self._turn, self._engine.execution_options(writes=True).begin() as connection:
            yield connection

    def upsert(self, table: Any) -> Any:
        """An INSERT that knows ON CONFLICT."""
        if self._engine.dialect.name == "sqlite":
            from sqlalchemy.dialects.sqlite import insert

            return insert(table)
        from sqlalchemy.dialects.postgresql import insert as insert_there

        return insert_there(table)

    def _migrate(self) -> None:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        scripts = ScriptDirectory.from_config(config)
        with self.reading() as connection:
            if _version(connection) == scripts.get_current_head():
                return
        with self.writing() as connection:
            if self._engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            version = _version(connection)  # another process may have been first
            if version is None and (tables := inspect(connection).get_table_names()):
                raise InputError(
                    f"{self.name}: no store of shelfwise, for it holds {', '.join(sorted(tables)[:3])}; name another, or one "
                    "that does not exist yet"
                )
            if version and version not in {s.revision for s in scripts.walk_revisions()}:
                raise InputError(
                    f"{self.name}: written by a newer shelfwise (its version {version}, this program knows "
                    f"{scripts.get_current_head()}); update this one: pip install --upgrade shelfwise"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _engine(address: str | Path) -> Engine:
    try:
        url = URL.create("sqlite", database=str(address)) if isinstance(address, Path) else make_url(address)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        match url.get_backend_name():
            case "sqlite" if url.database:
                _make_folder(Path(url.database).parent)
                engine = create_engine(url, connect_args={"timeout": PATIENCE})
                event.listen(engine, "connect", _prepare)
                event.listen(engine, "begin", _begin)
                return engine
            case "postgresql":
                return create_engine(url, pool_pre_ping=True, connect_args={"connect_timeout": 10})
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "psycopg", "service") from error
    except (ArgumentError, NoSuchModuleError, ValueError):
        pass  # an address in which make_url finds nothing may hold a password: it is not shown
    raise InputError(
        "no address of a store: they are sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE"
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot be made: {error.strerror}; name another with --data-dir") from error


def _prepare(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # `_begin` begins, for the driver would begin too late
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    # Who means to write waits for its turn at once: a reader that becomes a writer is refused where another has written.
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION):
        return None
    version: str | None = connection.execute(select(text("version_num")).select_from(text(VERSION))).scalar()
    return version


@contextmanager
def _translated(name: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, sqlite3.Error, AllTaken) as error:  # of SQLite itself, from `_prepare`
        reason = " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())
        if "not a database" in reason or "malformed" in reason:
            raise InputError(f"{name}: {reason}; name another store, or take it from a backup") from error
        if isinstance(error, DBAPIError) and not (isinstance(error, OperationalError) or error.connection_invalidated):
            raise
        raise StorageError(f"{name}: {reason}; {_advice(reason)}. What was acknowledged is safe") from error


def _advice(reason: str) -> str:
    for sign, advice in {
        "locked": "another process has been writing for long; try again",
        "QueuePool limit": "all connections have been busy for long; try again",
        "full": "make room on the disk",
        "No space": "make room on the disk",
        "readonly": "make the file and its folder writable",
        "unable to open": "look at the path and its permissions",
        "authentication": "look at user and password",
        "does not exist": "create it first: createdb",
    }.items():
        if sign in reason:
            return advice
    return "look whether the database runs and the address is right; then try again"
