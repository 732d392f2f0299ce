"""`shelfwise feedback` and `shelfwise keys`: the store from the command line."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Column, Table

from extractor.errors import InputError, explain
from extractor.options import DataDir, StoreAddress, opened_database
from extractor.records import Extraction, Failure
from extractor.stores import created, reaching

if TYPE_CHECKING:
    from extractor.feedback import Store

app = typer.Typer(no_args_is_help=True, help="Records into the store, corrections out of it.")
keys_app = typer.Typer(no_args_is_help=True, help="API keys of the service.")
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Limits = Annotated[
    str | None, typer.Option("--thresholds", help="What `eval thresholds` wrote, or one number. (default: 0.9)")
]


@app.command()
def add(
    records: Annotated[list[Path], typer.Argument(help="Records as JSONL, of `extract` or `batch export`.")],
    store: StoreAddress = None,
    data_dir: DataDir = None,
) -> None:
    """Add records to the store; what it has already is not added twice."""
    new = known = failed = 0
    with _opened(store, data_dir) as opened:
        for path in records:
            for batch in _batches(path):
                extractions = [r for r in batch if isinstance(r, Extraction)]
                count = opened.add(extractions)
                new, known = new + count, known + len(extractions) - count
                failed += len(batch) - len(extractions)
    errors.print(f"{new} records added, {known} known already, {failed} failures left out")


@app.command()
def export(
    out: Annotated[str, typer.Option(help="Labelled offers as JSONL; `-` is standard output.")] = "-",
    category: Annotated[str | None, typer.Option(help="Of this category alone.")] = None,
    thresholds: Limits = None,
    store: StoreAddress = None,
    data_dir: DataDir = None,
) -> None:
    """Write the offers that people are done with as labelled offers: for demonstrations, training and evaluation."""
    with _opened(store, data_dir, thresholds) as opened:
        from extractor.quality import labelled

        count = 0
        with reaching(out), nullcontext(sys.stdout.buffer) if out == "-" else created(out) as file:
            for offer in labelled(opened, category):
                file.write(offer.model_dump_json().encode() + b"\n")
                count += 1
    errors.print(f"{count} labelled offers" + ("" if count else "; none has all its doubtful values decided yet"))


@app.command()
def status(thresholds: Limits = None, store: StoreAddress = None, data_dir: DataDir = None) -> None:
    """What waits, what is reviewed, and how often people agreed with the model."""
    with _opened(store, data_dir, thresholds) as opened:
        from extractor.quality import pace, quality, waiting

        rows, wait, today = quality(opened), waiting(opened), pace(opened).today
    table = Table()
    for heading in ("category", "attribute", "offers", "with a value", "waiting", "reviewed", "agreement"):
        table.add_column(heading, justify="left" if heading in ("category", "attribute") else "right")
    for q in rows:
        numbers = (q.offers, q.valued, q.waiting, q.reviewed)
        agreement = "" if q.agreement is None else f"{100 * q.agreement:.0f} %"
        table.add_row(q.category, q.attribute, *map(str, numbers), agreement)
    Console().print(table)
    print(f"{wait} values wait, {today} decided today")


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose, or what for.")],
    role: Annotated[str, typer.Option(help="extract, review, admin: each may do what those before it may.")],
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires. (default: never)")] = None,
    store: StoreAddress = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key, and print its secret, which nobody can read again."""
    with opened_database(store, data_dir) as database:
        from extractor.keys import Keys

        key, secret = Keys(database).create(name, role, days, _who())
    print(secret)
    errors.print(f"key {key.id} for {name} may {role}; keep the secret, it is not shown again")


@keys_app.command("list")
def list_keys(store: StoreAddress = None, data_dir: DataDir = None) -> None:
    """All keys, without their secrets."""
    with opened_database(store, data_dir) as database:
        from extractor.keys import Keys

        table = Table(Column("key", no_wrap=True), "name", "role", "created", "expires", "revoked", "last used")
        for key in Keys(database).all():
            times = ((time or "")[:16].replace("T", " ") for time in (key.created, key.expires, key.revoked, key.used))
            table.add_row(key.id, key.name, key.role, *times)
    Console().print(table)


@keys_app.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="Its id, as `list` shows it.")],
    store: StoreAddress = None,
    data_dir: DataDir = None,
) -> None:
    """Refuse a key from now on."""
    with opened_database(store, data_dir) as database:
        from extractor.keys import Keys

        Keys(database).revoke(key, _who())


@contextmanager
def _opened(address: str | None, data_dir: Path | None, thresholds: str | None = None) -> "Iterator[Store]":
    with opened_database(address, data_dir) as database:
        from extractor.feedback import Store, thresholds_of

        yield Store(database, thresholds_of(thresholds))


def _batches(path: Path, size: int = 500) -> Iterator[list[Extraction | Failure]]:
    try:
        with path.open("rb") as lines:
            batch: list[Extraction | Failure] = []
            for number, line in enumerate(lines, 1):
                if line.strip():
                    batch.append(_record(f"{path}:{number}", line))
                if len(batch) == size:
                    yield batch
                    batch = []
            yield batch
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def _record(where: str, line: bytes) -> Extraction | Failure:
    try:
        row = json.loads(line)
        return (Failure if "failure" in row else Extraction).model_validate(row)
    except (ValueError, TypeError) as error:
        reason = explain(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{where}: not a record: {reason}; `shelfwise extract` writes records") from error


def _who() -> str:
    return os.environ.get("USER") or f"uid {os.getuid()}"
