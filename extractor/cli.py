"""The command `shelfwise`: options in, calls into the library, exit status out. No logic of its own.

Exit status: 0, all went well; 1, a run with failures; 2, the caller's mistake, or an engine that cannot start; 130, interrupted.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from typer.core import TyperGroup

from extractor.adapters_cli import app as adapters_app
from extractor.batch_cli import app as batch_app
from extractor.config import open_extractor, schemas_of, settings_of
from extractor.demonstrations import check_demonstrations
from extractor.errors import EngineError, InputError, ShelfwiseError
from extractor.extract import Extractor
from extractor.feedback_cli import app as feedback_app
from extractor.feedback_cli import keys_app
from extractor.io import Columns, OfferReader, read_labelled
from extractor.options import (
    Adapter,
    Adapters,
    BaseUrl,
    Calibration,
    Choice,
    Demonstrations,
    Engine,
    Grounding,
    K,
    Known,
    MaskPii,
    Model,
    Order,
    Template,
)
from extractor.prompts import PROMPTS
from extractor.prompts_cli import app as prompts_app
from extractor.records import Extraction, Failure, ProductOffer
from extractor.schema import load_schema, load_schemas
from extractor.serve_cli import serve
from extractor.writers import open_writer

errors = Console(stderr=True, highlight=False, soft_wrap=True)


class _Group(TyperGroup):
    """Turns errors made on purpose into one line and an exit status; programming errors keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ShelfwiseError as error:
            errors.print(f"[red]error:[/red] {escape(str(error))}")
            raise typer.Exit(2) from error
        except BrokenPipeError:
            sys.stderr.close()  # `shelfwise … | head` is no error
            raise typer.Exit(0) from None


app = typer.Typer(cls=_Group, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
schema_app = typer.Typer(no_args_is_help=True, help="Check schemas, export them as JSON Schema.")
app.add_typer(schema_app, name="schema")
app.add_typer(prompts_app, name="prompts")
app.add_typer(adapters_app, name="adapters")
app.add_typer(batch_app, name="batch")
app.add_typer(feedback_app, name="feedback")
app.add_typer(keys_app, name="keys")
app.command()(serve)


@app.callback()
def main() -> None:
    """Untidy product offers in, clean attribute records out."""


@app.command()
def extract(
    context: typer.Context,
    offers: Annotated[str, typer.Argument(help="JSONL, CSV, XLSX or Parquet; `-` reads JSONL from standard input.")],
    schema: Annotated[Path | None, typer.Option(help="A schema, or a folder of schemas.")] = None,
    attributes: Annotated[str | None, typer.Option(help="Zero-shot: attribute names, with commas between.")] = None,
    out: Annotated[str, typer.Option(help="*.jsonl, *.csv, *.xlsx or *.parquet; `-` is standard output.")] = "-",
    html: Annotated[Path | None, typer.Option(help="Also write the records as an HTML page.")] = None,
    demonstrations: Demonstrations = None,
    k: K = None,
    choice: Choice = None,
    order: Order = None,
    known: Known = None,
    template: Template = None,
    grounding: Grounding = None,
    mask_pii: MaskPii = None,
    truncate: Annotated[bool | None, typer.Option("--truncate", help="Cut offers that overflow the context.")] = None,
    calibration: Calibration = None,
    engine: Engine = None,
    model: Model = None,
    adapter: Adapter = None,
    adapters: Adapters = None,
    base_url: BaseUrl = None,
    api_key: Annotated[str | None, typer.Option(help="For that server; better in SHELFWISE_API_KEY.")] = None,
    concurrency: Annotated[int | None, typer.Option(help="Requests under way at a server. (default: 64)")] = None,
    id_column: Annotated[str, typer.Option(help="Column or key of the id.")] = "id",
    title_column: Annotated[str, typer.Option(help="… of the title.")] = "title",
    description_column: Annotated[str, typer.Option(help="… of the description.")] = "description",
    category_column: Annotated[str, typer.Option(help="… of the category.")] = "category",
) -> None:
    """Extract attribute records from product offers."""
    settings = settings_of(context.params)
    if schema is None and attributes is None:
        errors.print(f"no --schema and no --attributes: the schemas of {PROMPTS / 'schemas'} are used")
    schemas = schemas_of(schema, attributes)
    columns = Columns(id_column, title_column, description_column, category_column)
    reader = OfferReader(offers, columns, mask_pii=settings.mask_pii)
    labelled = read_labelled(demonstrations) if demonstrations else []
    check_demonstrations(labelled, schemas)
    names = list(dict.fromkeys(a.name for s in schemas for a in s.attributes))
    with ExitStack() as stack:
        extractor = stack.enter_context(open_extractor(settings, schemas, labelled))
        writer = stack.enter_context(open_writer(out, names))
        copy = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8")) if html else None
        status = _run(reader, extractor, writer, copy, settings.chunk)
        if html and copy:
            _write_page(copy, html)
    raise typer.Exit(status)


def _run(reader: OfferReader, extractor: Extractor, writer: Any, copy: IO[str] | None, chunk: int) -> int:
    """Chunk by chunk: read, extract, write. What is finished is on disk whatever happens next."""
    counts: Counter[str] = Counter()
    status = 0
    with progress_bar() as progress:
        task = progress.add_task("", total=None, speed=0.0, failures=0)
        started = time.monotonic()
        rows = iter(reader)
        try:
            while batch := list(islice(rows, chunk)):
                records = extract_rows(extractor, batch)
                writer.write(records)
                if copy:
                    copy.writelines(r.model_dump_json(by_alias=True) + "\n" for r in records)
                counts.update(r.failure.reason if isinstance(r, Failure) else "" for r in records)
                done = sum(counts.values())
                progress.update(
                    task,
                    completed=done,
                    total=round(done / reader.fraction) if reader.fraction else None,
                    speed=done / (time.monotonic() - started),
                    failures=done - counts[""],
                )
        except KeyboardInterrupt:
            errors.print("interrupted; what was finished is written")
            status = 130
        except EngineError as error:
            if not counts:
                raise
            errors.print(
                f"[red]error:[/red] {escape(str(error))}\nthe records before it are written; run the rest again"
            )
            status = 1
    failed = _summary(counts, extractor.engine.retried)
    return status or failed


def extract_rows(extractor: Extractor, rows: list[ProductOffer | Failure]) -> list[Extraction | Failure]:
    """Records for the offers among `rows`, with the failures in their places."""
    records = iter(extractor.extract([row for row in rows if isinstance(row, ProductOffer)]))
    return [row if isinstance(row, Failure) else next(records) for row in rows]


def progress_bar() -> Progress:
    """On standard error, and only where that is a terminal."""
    return Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]:.1f} records/s"),
        TextColumn("{task.fields[failures]} failures"),
        TimeRemainingColumn(),
        console=errors,
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def _summary(counts: Counter[str], retried: int) -> int:
    failed = {reason: n for reason, n in counts.items() if reason}
    total = sum(counts.values())
    detail = ": " + ", ".join(f"{n} {reason}" for reason, n in sorted(failed.items())) if failed else ""
    errors.print(
        f"{total} offers, {counts['']} records, {sum(failed.values())} failures{detail}"
        + (f", {retried} retries" if retried else "")
    )
    return 1 if failed else 0


def _write_page(lines: IO[str], target: Path) -> None:
    from extractor.view import write_html

    lines.seek(0)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_html((json.loads(line) for line in lines), target)
    errors.print(f"wrote {target}")


@app.command()
def view(
    records: Annotated[Path, typer.Argument(help="Records as JSONL.")],
    html: Annotated[Path | None, typer.Option(help="Write an HTML page instead of printing a table.")] = None,
    limit: Annotated[int, typer.Option(help="Rows of the table.")] = 100,
) -> None:
    """Show records: as a table here, or as an HTML page that opens offline."""
    if not records.is_file():
        raise InputError(f"{records}: no such file")
    with records.open(encoding="utf-8") as lines:
        if html:
            _write_page(lines, html)
        else:
            _print_table(_loaded(records, lines), limit)


def _loaded(path: Path, lines: IO[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            record["offer_id"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path}:{number}: not a record: {error}") from error
        yield record


def _print_table(records: Iterator[dict[str, Any]], limit: int) -> None:
    table = Table("offer", "title", "attributes", show_lines=False, row_styles=["", "dim"], expand=True)
    for record in islice(records, limit):
        if "failure" in record:
            shown = f"[red]{record['failure']['reason']}[/red] {escape(record['failure']['message'])}"
        else:
            shown = "  ".join(
                f"[cyan]{escape(name)}[/cyan] {escape(' | '.join(v['normalized_value'] or v['value'] for v in values))}"
                for name, values in record["attributes"].items()
                if values
            )
        title = (record.get("title") or "").replace("\n", " ")
        table.add_row(escape(record["offer_id"]), escape(title[:70] + ("…" if len(title) > 70 else "")), shown)
    Console().print(table)


@schema_app.command("check")
def schema_check(path: Annotated[Path, typer.Argument(help="A schema, or a folder of schemas.")]) -> None:
    """Check schemas and print what they hold."""
    for schema in load_schemas(path):
        names = ", ".join(a.name for a in schema.attributes)
        print(f"{schema.reference}: {len(schema.attributes)} attributes: {names}")


@schema_app.command("export")
def schema_export(path: Annotated[Path, typer.Argument(help="A schema.")]) -> None:
    """Print the JSON Schema of a schema's answers."""
    from extractor.answer import json_schema

    print(json.dumps(json_schema(load_schema(path)), ensure_ascii=False, indent=2))
