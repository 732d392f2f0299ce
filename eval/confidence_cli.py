"""Commands of the evaluation room about confidence: `shelfwise eval calibrate` and `thresholds`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from eval.cli import extracted
from eval.options import Form, Runs, Schemas
from extractor.options import Adapter, BaseUrl, Choice, Engine, K, Model, Template

if TYPE_CHECKING:
    from eval.datasets import Dataset
    from eval.metrics import Cells, Prediction

app = typer.Typer()

OptionalData = Annotated[Path | None, typer.Option(help="Labelled offers: a file, or a folder of splits.")]
FinishedRun = Annotated[Path | None, typer.Option("--run", help="The folder of a finished run.")]
Strict = Annotated[bool, typer.Option("--strict", help="A value of an attribute that gold does not list is wrong.")]


@app.command()
def calibrate(
    data: OptionalData = None,
    split: Annotated[str | None, typer.Option(help="Of a folder; not the one that you report scores of.")] = None,
    run: FinishedRun = None,
    method: Annotated[
        Literal["isotonic", "platt"], typer.Option(help="isotonic: any rising curve; platt: two numbers.")
    ] = "isotonic",
    out: Annotated[
        Path | None, typer.Option(help="The file; by default calibration.json in the model's or adapter's folder.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page with both figures.")] = None,
    strict: Strict = False,
    form: Form = None,
    schema: Schemas = None,
    runs: Runs = Path("runs/eval"),
    engine: Engine = None,
    model: Model = None,
    adapter: Adapter = None,
    base_url: BaseUrl = None,
    template: Template = None,
    demonstrations: Annotated[Path | None, typer.Option(help="Labelled offers that are not in the data.")] = None,
    k: K = None,
    choice: Choice = None,
    n: Annotated[int | None, typer.Option(min=1, help="Only so many offers, drawn by a seed.")] = None,
) -> None:
    """Fit the curve that makes confidences the share of values that are right, as labels show it."""
    from eval import calibrate as fitting
    from eval.datasets import load_dataset, load_demonstrations
    from eval.page import show, write_page
    from eval.run import read_run
    from eval.templates import sampled
    from extractor.config import load_settings
    from extractor.errors import InputError

    settings = load_settings(
        engine=engine,
        model=model,
        adapter=adapter,
        base_url=base_url,
        template=template,
        k=k,
        choice=choice,
        calibration="none",
    )
    if out is None:
        fitting.file_for(settings)
    if run and data is None:
        dataset, done = read_run(run)
    elif data and run is None:
        dataset = load_dataset(data, split, form, schema)
        # Drawn, as files are often sorted by category, and a curve of two categories misleads on others.
        dataset = sampled(dataset, n or len(dataset.offers))
        shown = load_demonstrations(demonstrations)
        done = extracted(settings, dataset, shown, runs)
    else:
        raise InputError("give --data with labelled offers, or --run with the folder of a finished run")
    values = _judged(dataset, done.predictions, strict)
    about = fitting.about_run(done, values)
    target = out or fitting.file_for(settings, about)
    fit = fitting.calibrate(values, method, about)
    parts = fitting.sections(fit)
    show(parts[:1], Console())
    fitting.write(fit.calibration, target)
    if html:
        write_page(html, "Calibration", f"{fit.calibration.fitted_on.model}: {target}", parts)
    print(f"{fit.calibration.reference}: {target}")


@app.command()
def thresholds(
    run: FinishedRun = None,
    predictions: Annotated[Path | None, typer.Option(help="Records of Shelfwise, with --gold.")] = None,
    gold: OptionalData = None,
    split: Annotated[str | None, typer.Option(help="Of a folder.")] = None,
    form: Form = None,
    schema: Schemas = None,
    precision: Annotated[float, typer.Option(help="Wanted of the accepted values, between 0 and 1.")] = 0.98,
    confidence: Annotated[float, typer.Option(help="That this precision holds, between 0 and 1.")] = 0.9,
    strict: Strict = False,
    out: Annotated[Path | None, typer.Option(help="Also write them as JSON.")] = None,
) -> None:
    """For each attribute the confidence from which on values can be accepted without review."""
    from eval import thresholds as limits
    from eval.datasets import load_dataset
    from eval.page import show
    from eval.predictions import maker_of, read_predictions
    from eval.run import read_run
    from extractor.errors import InputError

    for name, number in (("precision", precision), ("confidence", confidence)):
        if not 0 < number < 1:
            raise InputError(f"--{name} {number:g}: write a number between 0 and 1, such as 0.98")
    if run and predictions is None:
        dataset, done = read_run(run)
        said, records = done.predictions, run / "predictions.jsonl"
    elif predictions and gold and run is None:
        dataset, records = load_dataset(gold, split, form, schema), predictions
        said = read_predictions(predictions, dataset).predictions
    else:
        raise InputError("give --run with the folder of a finished run, or --predictions with --gold")
    values = _judged(dataset, said, strict)
    if not len(values.confidence):
        raise InputError(f"{records}: no value that gold can judge has a confidence")
    of_all, found = limits.by_attribute(values, precision, confidence)
    show(limits.sections(of_all, found, precision, confidence), Console())
    if out:
        about = {"data": f"{dataset.name} {dataset.split}", "strict": strict, **maker_of(records)}
        content = limits.as_json(of_all, found, precision, confidence, about)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _judged(dataset: "Dataset", predictions: "Sequence[Prediction]", strict: bool) -> "Cells":
    """The values that gold can judge; says how many it cannot."""
    from eval.confidence import judged
    from eval.metrics import tabulate

    cells = tabulate(dataset.offers, predictions, dataset.asked)
    values, every = judged(cells, strict), judged(cells, strict=True)
    if unlisted := len(every.offer) - len(values.offer):
        hint = "left out: {} values of attributes that gold does not list; --strict counts them as wrong"
        typer.echo(hint.format(unlisted), err=True)
    return values
