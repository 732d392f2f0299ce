"""What is under the store: opening, migrations, keys, jobs; and what a database can do to a user."""

import shutil
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, text
from test_feedback import record
from test_feedback_processes import run_python, shelfwise

import extractor.database
from extractor.database import MIGRATIONS, VERSION, Database
from extractor.database.tables import metadata
from extractor.errors import InputError, StorageError
from extractor.feedback import Store
from extractor.journal import JobEntry, Journal
from extractor.keys import Keys


def test_the_life_of_a_key(address, clock):
    database = Database(address, clock)
    keys = Keys(database)
    key, secret = keys.create("Ann's laptop", "review", 30, "root")
    forever, other = keys.create("importer\0", "extract", None, "root")
    assert keys.check(secret) == key and key.allows("extract") and not key.allows("admin")
    assert keys.check(other).name == "importer\0" and secret.startswith(f"sw_{key.id}_")
    wrong = (
        secret[:-1],
        secret + "x",
        secret.replace(key.id, forever.id),
        "",
        "sw_",
        "sw__",
        f"sw_{key.id}_",
        "\0",
        "sw_\ud800_x",
    )
    assert [keys.check(s) for s in wrong] == [None] * len(wrong)
    with database.reading() as connection:
        assert secret.split("_", 2)[2] not in str(connection.execute(text("SELECT * FROM keys")).all())
    assert keys.all()[0].used == "2026-11-26T12:00:00.000+00:00"
    clock.pass_by(30 * 86_400)
    assert keys.check(secret) is None and keys.check(other)
    keys.revoke(forever.id, "root")
    keys.revoke(forever.id, "root")
    assert keys.check(other) is None and [bool(k.revoked) for k in keys.all()].count(True) == 1
    with pytest.raises(InputError, match="no key 'x'"):
        keys.revoke("x", "root")
    with pytest.raises(InputError, match="roles are extract, review, admin"):
        keys.create("x", "owner", None, "root")
    assert [e.what for e in Journal(database).entries()] == ["keys revoke", "keys create", "keys create"]
    database.close()


def test_a_key_is_good_where_its_use_cannot_be_noted(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(extractor.database, "PATIENCE", 0.1)
    with (
        closing(Database(tmp_path / "store.sqlite", clock)) as database,
        closing(sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)) as other,
    ):
        keys = Keys(database)
        key, secret = keys.create("a", "extract", None, "root")
        other.execute("BEGIN IMMEDIATE")
        assert keys.check(secret) == key
        with monkeypatch.context() as patched:  # nor does every check wait for it
            patched.setattr(database, "writing", None)
            assert keys.check(secret) == key
        other.execute("ROLLBACK")
        clock.pass_by(60)
        assert keys.check(secret) and keys.all()[0].used == "2026-11-26T12:01:00.000+00:00"


def test_keys_from_the_command_line(tmp_path, monkeypatch):
    place = ("--data-dir", tmp_path)
    secret = shelfwise("keys", "create", "Ann", "--role", "admin", "--days", 7, *place).split("\n")[0]
    database = Database(tmp_path / "store.sqlite")
    key = Keys(database).check(secret)
    shelfwise("keys", "revoke", key.id, *place)
    assert Keys(database).check(secret) is None
    database.close()
    monkeypatch.setenv("COLUMNS", "200")
    assert key.id in (shown := shelfwise("keys", "list", *place)) and secret not in shown


def test_jobs_are_remembered_as_they_stand(address):
    database = Database(address)
    journal = Journal(database)
    job = JobEntry("1", "Mon\0day", "running", "ann", "2026-11-26", counts={"rows": 3})
    journal.enter(job)
    journal.enter(done := replace(job, state="finished", finished="2026-11-27"))
    journal.note("ann", "jobs begin", "1")
    assert journal.jobs() == [done] and journal.entries()[0].about == "1"
    database.close()


def test_of_two_who_move_a_job_one_does(address):
    database = Database(address)
    journal = Journal(database)
    for n, who in enumerate(("ann", "bob", "ann")):
        journal.enter(JobEntry(str(n), "Monday", "waiting", who, f"2026-11-2{n}", asked={"a": 1}))
    with ThreadPoolExecutor(4) as pool:
        moved = list(
            pool.map(lambda n: journal.move("1", ["waiting"], ("bob", f"move {n}"), state="running"), range(4))
        )
    assert sorted(moved) == [False, False, False, True] and len(journal.entries()) == 1
    assert journal.move("1", ["running"], counts={"rows": 5}, problem="\0") and not journal.move(
        "9", ["running"], name="x"
    )
    assert (journal.job("1").counts, journal.job("1").problem, journal.job("1").asked) == ({"rows": 5}, "\0", {"a": 1})
    assert [j.id for j in journal.jobs()] == ["2", "1", "0"] and [j.id for j in journal.jobs(limit=1, offset=1)] == [
        "1"
    ]
    assert [j.id for j in journal.jobs(["waiting"], ["ann"], "extract")] == ["2", "0"] and not journal.jobs(
        kind="train"
    )
    assert journal.tally("extract") == {"waiting": 2, "running": 1}
    assert not journal.forget("1", ["waiting"]) and journal.forget("2", ["waiting"]) and not journal.job("2")
    database.close()


@pytest.fixture
def tomorrow(tmp_path):
    """Migrations with one more, of which the program does not know yet."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder)
    (folder / "versions" / "v3.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = '3', '2'\n"
        "def upgrade(): op.add_column('offers', sa.Column('seller', sa.Text))\n"
    )
    return folder


OPENING = """
import sys
from pathlib import Path
import extractor.database
extractor.database.MIGRATIONS = Path(sys.argv[2])
print(extractor.database.Database(sys.argv[1]).name)
"""


def test_a_store_is_brought_up_to_date_by_whoever_opens_it_first(address, tomorrow):
    """From nothing, by two processes at once; then, with content, from the first version."""
    for folder in (MIGRATIONS, tomorrow):
        running = [run_python(OPENING, address, str(folder)) for _ in range(2)]
        for process in running:
            process.communicate(timeout=60)
        assert [process.returncode for process in running] == [0, 0]
        if folder == MIGRATIONS:
            database = Database(address)
            with database.reading() as connection:
                found = compare_metadata(
                    MigrationContext.configure(connection, opts={"version_table": VERSION}), metadata
                )
            assert found == []
            Store(database).add([record("a", Brand=("Diesel", 0.5))])
            database.close()
    with pytest.raises(InputError, match=r"newer shelfwise \(its version 3, this program knows 2\); update"):
        Database(address)
    engine = create_engine(address)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT id, seller FROM offers")).all() == [("a", None)]
    engine.dispose()


def test_a_failed_migration_leaves_no_trace(address, tomorrow, monkeypatch):
    Database(address).close()
    with (tomorrow / "versions" / "v3.py").open("a") as file:
        file.write("    raise KeyboardInterrupt\n".replace("    ", "\n_up = upgrade\ndef upgrade():\n    _up()\n    "))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("extractor.database.MIGRATIONS", tomorrow)
        Database(address)
    Database(address).close()


@pytest.mark.parametrize(
    ("place", "error", "message"),
    [
        ("sqlite:///{}/text", InputError, "not a database; name another store"),
        ("sqlite:///{}/other.sqlite", InputError, "no store of shelfwise, for it holds parts"),
        ("sqlite:////proc/none/store.sqlite", StorageError, "cannot be made"),
        ("sqlite:///{}", StorageError, "unable to open database file; look at the path"),
        ("sqlite:///{}/full.sqlite", StorageError, "full; make room on the disk. What was acknowledged is safe"),
        ("sqlite://", InputError, "no address of a store"),
        ("mysql://a:secret@b/c", InputError, "no address of a store"),
        ("postgresql://me:secret@/x?host=/nowhere", StorageError, r"me:\*\*\*@/x.*; look whether the database runs"),
        ("secret", InputError, "no address of a store"),
    ],
)
def test_what_is_no_store_says_so(tmp_path, monkeypatch, place, error, message):
    (tmp_path / "text").write_text("This is a text and no database. " * 100)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as other:
        other.execute("CREATE TABLE parts (number INTEGER)")
    if "full" in place:
        real = extractor.database._prepare

        def small(connection, entry):
            real(connection, entry)
            connection.execute("PRAGMA max_page_count = 10")

        monkeypatch.setattr("extractor.database._prepare", small)
    with pytest.raises(error, match=message) as caught:
        Database(place.format(tmp_path))
    assert "secret" not in str(caught.value)


def test_who_cannot_write_for_long_is_told_why(tmp_path, monkeypatch):
    monkeypatch.setattr("extractor.database.PATIENCE", 0.1)
    database = Database(tmp_path / "a folder?" / "st%re.sqlite")
    other = Database(tmp_path / "a folder?" / "st%re.sqlite")
    with database.writing(), pytest.raises(StorageError, match="locked; another process has been writing"):
        Store(other).add([record("a", Brand=None)])
    with other.reading(), database.writing():
        pass  # readers do not stand in the way
    assert Store(other).add([record("a", Brand=None)]) == 1
    database.close()
    other.close()


CUTTING = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL"


def test_a_server_that_goes_away_is_told_and_found_again(server):
    address = server()
    database, other = Database(address), create_engine(address, poolclass=NullPool)
    with pytest.raises(StorageError, match="look whether the database runs"), database.writing() as connection:
        with other.connect() as cutting:
            cutting.execute(text(CUTTING))
        connection.execute(text("SELECT 1"))
    with other.connect() as cutting:
        cutting.execute(text(CUTTING))
    assert Store(database).add([record("a", Brand=None)]) == 1
    database.close()


def test_a_missing_package_names_the_install_command():
    code = "import sys; sys.modules['sqlalchemy'] = None; from extractor.cli import app; app(['feedback', 'status'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and "sqlalchemy is not installed; install it with: pip install 'shelfwise[service]'" in done.stderr
    )


def test_more_readers_than_connections_are_told_to_come_again(address):
    with closing(Database(address)) as database, ExitStack() as taken:
        database._engine.pool._timeout = 0.1
        with pytest.raises(StorageError, match="all connections have been busy for long; try again"):
            for _ in range(100):
                taken.enter_context(database.reading())


def test_writers_take_turns(tmp_path):
    """Left to SQLite, the one that is sent away most often waits until all others are done."""
    with closing(Database(tmp_path / "store.sqlite")) as database, ThreadPoolExecutor(12) as pool:
        journal = Journal(database)

        def waited(number):
            begun = time.monotonic()
            journal.note("ann", "test", str(number))
            return time.monotonic() - begun

        begun = time.monotonic()
        longest = max(pool.map(waited, range(600)))
        assert longest < 0.6 * (time.monotonic() - begun)
