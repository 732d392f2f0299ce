"""`shelfwise batch`: durable jobs."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live

from extractor.batch_options import Cpus, Engines, Folder, Gpus, Patience, Port, Ray, Retries, Shown, extract_by
from extractor.errors import InputError
from extractor.job import READ, Counts, Job, create, open_job
from extractor.manifest import Manifest, differences
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
    Price,
    Template,
)
from extractor.prices import prices_of
from extractor.progress import SPEED, facts, line, reporting, table
from extractor.stores import local, reaching
from extractor.writers import open_writer

if TYPE_CHECKING:
    from extractor.schema import AttributeSchema

app = typer.Typer(no_args_is_help=True, help="Jobs that survive anything: each offer ends in a record or dead letter.")
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@app.command()
def run(
    context: typer.Context,
    offers: Annotated[
        list[str],
        typer.Argument(help="JSONL, CSV, XLSX, Parquet: files, folders, globs, here or at s3://, gs://, hdfs://."),
    ],
    out: Annotated[str, typer.Option(help="The job's folder.")],
    schema: Annotated[Path | None, typer.Option(help="A schema, or a folder of schemas.")] = None,
    attributes: Annotated[str | None, typer.Option(help="Zero-shot: attribute names, with commas between.")] = None,
    demonstrations: Demonstrations = None,
    reuse: Annotated[
        list[Path] | None, typer.Option(help="An earlier job: what it knows is not extracted again. Several times.")
    ] = None,
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
    concurrency: Annotated[int | None, typer.Option(help="Requests under way at a server. (default: 64)")] = None,
    chunk: Annotated[int | None, typer.Option(min=1, help="Offers of a part. (default: 512)")] = None,
    id_column: Annotated[str, typer.Option(help="Column or key of the id.")] = "id",
    title_column: Annotated[str, typer.Option(help="… of the title.")] = "title",
    description_column: Annotated[str, typer.Option(help="… of the description.")] = "description",
    category_column: Annotated[str, typer.Option(help="… of the category.")] = "category",
    retries: Retries = 10_000,
    patience: Patience = 600.0,
    ray: Ray = None,
    engines: Engines = "1",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    progress: Shown = "live",
    metrics_port: Port = None,
    price: Price = None,
) -> None:
    """Begin a job and work on it."""
    from extractor.batch import files_of, work
    from extractor.config import kept, settings_of

    folder = local(out)
    if folder is None:
        raise InputError(f"{out}: a job keeps a ledger, which takes a disk of this machine; give a folder here")
    settings = settings_of(context.params)
    prices_of(settings.price)  # a mistake in them shows now
    columns = {"id": id_column, "title": title_column, "description": description_column, "category": category_column}
    manifest = Manifest(
        sources=files_of(offers),
        columns=columns,
        schema_path=str(schema.resolve()) if schema else None,
        attributes=attributes,
        demonstrations=str(demonstrations.resolve()) if demonstrations else None,
        settings=kept(settings),
        part=settings.chunk,
    )
    extract = extract_by(ray, engines, cpus, gpus)
    opened, prints = _ready(manifest)
    with create(folder, manifest.model_copy(update={"prints": prints})) as job, _opened(reuse) as others:
        act = partial(work, job, opened, reuse=others, extract=extract, retries=retries, patience=patience)
        _work(job, act, progress, metrics_port, price)


@app.command()
def resume(
    job: Folder,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on though something has changed, and remember what.")
    ] = False,
    reuse: Annotated[list[Path] | None, typer.Option(help="As of run.")] = None,
    retries: Retries = 10_000,
    patience: Patience = 600.0,
    ray: Ray = None,
    engines: Engines = "1",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    progress: Shown = "live",
    metrics_port: Port = None,
    price: Price = None,
) -> None:
    """Go on with a job where it was stopped."""
    from extractor.batch import work

    extract = extract_by(ray, engines, cpus, gpus)
    with open_job(job) as opened, _opened(reuse) as others:
        extractor = _unchanged(opened, accept_changes)
        act = partial(work, opened, extractor, reuse=others, extract=extract, retries=retries, patience=patience)
        _work(opened, act, progress, metrics_port, price)


@app.command()
def retry(
    job: Folder,
    retries: Retries = 10_000,
    patience: Patience = 600.0,
    ray: Ray = None,
    engines: Engines = "1",
    cpus: Cpus = 1,
    gpus: Gpus = 0,
    progress: Shown = "live",
    metrics_port: Port = None,
    price: Price = None,
) -> None:
    """Extract the dead letters that are offers once more."""
    from extractor.batch import retry as again

    extract = extract_by(ray, engines, cpus, gpus)
    with open_job(job) as opened:
        extractor = _unchanged(opened, False)
        act = partial(again, opened, extractor, extract=extract, retries=retries, patience=patience)
        _work(opened, act, progress, metrics_port, price)


@app.command()
def status(
    job: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Until the job is finished.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As one line of JSON.")] = False,
    price: Price = None,
) -> None:
    """Where a job stands."""
    with open_job(job) as opened:
        prices = _prices(opened, price)

        def found() -> dict[str, Any]:
            return facts(opened.counts(), (opened.noted(READ) or 0) / 1e6, prices=prices)

        if as_json:
            print(json.dumps(found()))
            return
        with Live(table(found()), console=Console(), auto_refresh=False) as live:
            while watch and not opened.counts().finished:
                time.sleep(1)
                live.update(table(found()), refresh=True)
            live.update(table(found()), refresh=True)


@app.command()
def export(
    job: Folder,
    out: Annotated[str, typer.Option(help="*.jsonl, *.csv, *.xlsx, *.parquet, here or in a store; or `-`.")] = "-",
    dead: Annotated[bool, typer.Option("--dead/--no-dead", help="With the dead letters, as failures.")] = True,
) -> None:
    """Write a job's records, and its dead letters, to one file."""
    with open_job(job) as opened:
        manifest = opened.manifest
        names = list(dict.fromkeys(a.name for s in _schemas(manifest) for a in s.attributes))
        with reaching(out), open_writer(out, names) as writer:
            for record in opened.records():
                writer.write([record])
            if dead:
                for letter in opened.letters():
                    writer.write([letter.failure])
        counts = opened.counts()
    if not counts.finished:
        errors.print(f"the job is not finished: {counts.rows} rows so far; shelfwise batch resume {job}")


def _schemas(manifest: Manifest) -> "list[AttributeSchema]":
    from extractor.config import schemas_of

    return schemas_of(Path(manifest.schema_path) if manifest.schema_path else None, manifest.attributes)


def _ready(manifest: Manifest) -> tuple[Callable[[], Any], dict[str, str]]:
    """What opens the job's extractor, and what its records depend on today."""
    from extractor.batch import files_of, prints
    from extractor.config import load_settings, open_extractor
    from extractor.demonstrations import check_demonstrations
    from extractor.io import read_labelled

    settings, schemas = load_settings(**manifest.settings), _schemas(manifest)
    shown = read_labelled(Path(manifest.demonstrations)) if manifest.demonstrations else []
    check_demonstrations(shown, schemas)
    return partial(open_extractor, settings, schemas, shown), prints(
        files_of(manifest.sources), settings, schemas, shown
    )


@contextmanager
def _opened(folders: list[Path] | None) -> Iterator[list[Job]]:
    with ExitStack() as stack:
        yield [stack.enter_context(open_job(folder)) for folder in folders or []]


def _unchanged(job: Job, accept: bool) -> Callable[[], Any]:
    from extractor.config import same_masking

    same_masking(job.manifest.masks_pii)
    opened, prints = _ready(job.manifest)
    changed = differences(job.manifest.prints, prints)
    if any(name.startswith("input ") for name in changed):
        files = ", ".join(n.removeprefix("input ") for n in changed if n.startswith("input "))
        raise InputError(
            f"{job.folder}: the input has changed: {files}; begin a new job, which takes from this one what it knows: "
            f"shelfwise batch run … --reuse {job.folder}"
        )
    if changed and not accept:
        raise InputError(
            f"{job.folder}: changed since the job was made: {', '.join(changed)}; put it back, or go on with --accept-changes"
        )
    if changed:
        with job.locked():
            job.accept(prints)
    return opened


def _prices(job: Job, given: str | None) -> dict[str, float] | None:
    return prices_of(given or job.manifest.settings.get("price"))


def _work(job: Job, act: Callable[..., Counts], progress: str, port: int | None, price: str | None) -> None:
    """Act on the job, show how it goes, and how it ended."""
    begun, started, prices = job.counts(), time.monotonic(), _prices(job, price)
    with reporting(progress, begun, errors, port, prices) as show:

        def report(counts: Counts, fraction: float) -> None:
            if counts.rows == begun.rows:  # dead letters are tried again
                fraction = 0.0
            else:
                job.note(READ, round(1e6 * fraction))  # for `status`
            show(counts, fraction)

        try:
            counts = act(report=report, say=errors.print)
        except KeyboardInterrupt:
            errors.print(f"interrupted; go on with: shelfwise batch resume {job.folder}")
            raise typer.Exit(130) from None
    if counts != begun:
        errors.print(line(facts(counts, 1.0, begun, time.monotonic() - started, prices), SPEED))
    _finish(job.folder, counts)


def _finish(folder: Path, counts: Counts) -> None:
    from extractor.batch import NEVER

    reasons = ", ".join(f"{n} {reason}" for reason, n in counts.reasons.items())
    errors.print(
        f"{counts.rows} rows: {counts.records} records ({counts.reused} known already), {counts.dead} dead letters"
        + (f": {reasons}" if reasons else "")
    )
    again = f"; shelfwise batch retry {folder}" if set(counts.reasons) - set(NEVER) else ""
    errors.print(f"next: shelfwise batch export {folder} --out records.jsonl{again}")
    raise typer.Exit(1 if counts.dead else 0)
