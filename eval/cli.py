"""Commands of the evaluation room, `shelfwise eval …`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from eval.options import Data, Form, Html, Json, Lenient, Runs, Schemas, Split, Training
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
    Model,
    Order,
    Price,
    Template,
)

if TYPE_CHECKING:
    from eval.datasets import Dataset
    from eval.metrics import Prediction
    from eval.run import Run
    from extractor.config import Settings
    from extractor.records import LabelledOffer


app = typer.Typer(help="Score extractions against labelled offers.", no_args_is_help=True)


@app.command()
def score(
    predictions: Annotated[Path, typer.Option(help="Records of Shelfwise, or lines with `pred`.")],
    gold: Data,
    split: Split = None,
    form: Form = None,
    schema: Schemas = None,
    training: Training = None,
    html: Html = None,
    protocol: Annotated[
        Literal["all", "published"], typer.Option(help="published: only micro precision, recall and F1.")
    ] = "all",
    json_file: Json = None,
    lenient: Lenient = False,
) -> None:
    """Score the predictions of any system."""
    from eval.datasets import load_dataset
    from eval.metrics import score as rounded
    from eval.metrics import tabulate, tallies
    from eval.predictions import read_predictions
    from eval.report import show, summarize

    dataset = load_dataset(gold, split, form, schema, strict=not lenient)
    matched = read_predictions(predictions, dataset)
    if protocol == "published":
        for reason, n in (dataset.left_out | matched.left_out).items():
            typer.echo(f"left out: {n} {reason}", err=True)
        cells = tabulate(dataset.offers, matched.predictions, dataset.asked)
        found = rounded(tallies(cells)["published"], rounded=True)
        print(f"{found.precision:.2f}\t{found.recall:.2f}\t{found.f1:.2f}")
        return
    labels = load_dataset(training).offers if training else ()
    scores = summarize(dataset, matched.predictions, labels) | {"left_out": matched.left_out}
    show(scores, Console())
    if html:
        _write_page(html, scores, dataset, matched.predictions, labels, predictions)
    if json_file:
        json_file.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def run(
    data: Data,
    split: Split = None,
    form: Form = None,
    schema: Schemas = None,
    out: Runs = Path("runs/eval"),
    engine: Engine = None,
    model: Model = None,
    adapter: Adapter = None,
    adapters: Adapters = None,
    base_url: BaseUrl = None,
    template: Template = None,
    demonstrations: Demonstrations = None,
    k: K = None,
    choice: Choice = None,
    order: Order = None,
    known: Known = None,
    grounding: Grounding = None,
    calibration: Calibration = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first offers.")] = None,
    training: Training = None,
    price: Price = None,
    html: Html = None,
    lenient: Lenient = False,
) -> None:
    """Extract from labelled offers and score what came out."""
    from dataclasses import replace

    from eval.datasets import load_dataset, load_demonstrations
    from eval.report import show
    from extractor.config import load_settings
    from extractor.prices import prices_of

    settings = load_settings(
        engine=engine,
        model=model,
        adapter=adapter,
        adapters=adapters,
        base_url=base_url,
        template=template,
        k=k,
        choice=choice,
        order=order,
        known=known,
        grounding=grounding,
        calibration=calibration,
        price=price,
    )
    dataset = load_dataset(data, split, form, schema, strict=not lenient)
    if limit:
        dataset = replace(dataset, offers=dataset.offers[:limit])
    shown = load_demonstrations(demonstrations)
    labels = list(load_dataset(training).offers) if training else shown
    done = extracted(settings, dataset, shown, out, labels, prices_of(settings.price))
    show(done.scores, Console())
    if html:
        _write_page(html, done.scores, dataset, done.predictions, labels, done.folder / "predictions.jsonl")
    print(done.folder)


def extracted(
    settings: "Settings",
    dataset: "Dataset",
    demonstrations: "Sequence[LabelledOffer]",
    out: Path,
    training: "Sequence[LabelledOffer]" = (),
    price: dict[str, float] | None = None,
) -> "Run":
    """The run of an extractor, with a progress bar; see `eval.run.run`."""
    from eval.run import inputs_of
    from eval.run import run as run_
    from extractor.cli import progress_bar
    from extractor.config import open_extractor
    from extractor.demonstrations import check_leaks

    check_leaks(demonstrations, dataset.offers)
    with progress_bar() as bar:
        task = bar.add_task("", total=len(dataset.offers), speed=0.0, failures=0)
        return run_(
            lambda: open_extractor(settings, dataset.schemas, demonstrations),
            dataset,
            inputs_of(settings, dataset, demonstrations),
            out,
            training=training,
            price=price,
            progress=lambda n: bar.update(task, completed=n),
        )


def _write_page(
    path: Path,
    scores: dict[str, Any],
    dataset: "Dataset",
    predictions: "Sequence[Prediction]",
    training: "Sequence[LabelledOffer]",
    records: Path,
) -> None:
    from eval.metrics import tabulate
    from eval.page import write_page
    from eval.predictions import makers
    from eval.run_page import lead_of, sections, title_of

    cells = tabulate(dataset.offers, predictions, dataset.asked, training)
    parts = sections(scores, cells, dataset, predictions)
    write_page(path, title_of(scores), lead_of(scores, makers(records)), parts)
