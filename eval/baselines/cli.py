"""`shelfwise eval baseline` and `shelfwise eval predict`: train a system to compare with, and let it predict later."""

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer()


@app.command()
def baseline(
    name: Annotated[
        str, typer.Argument(help="lookup, token_classification, question_answering, linear_probe or classification.")
    ],
    data: Annotated[Path, typer.Option(help="A folder with train and validation.")],
    out: Annotated[Path, typer.Option(help="Folder of the trained baseline, its predictions and its scores.")],
    form: Annotated[
        str | None, typer.Option(help="house, papers, mave, bio or columns. (default: by the first record)")
    ] = None,
    schema: Annotated[Path | None, typer.Option(help="Schemas that say what is asked.")] = None,
    encoder: Annotated[str, typer.Option(help="`minilm`, or the folder of any encoder.")] = "minilm",
    trials: Annotated[int | None, typer.Option(min=1, help="Search hyper-parameters: trials at most.")] = None,
    search_minutes: Annotated[float | None, typer.Option(min=0.01, help="… minutes at most.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and held-out part. (default: 0)")] = None,
    epochs: Annotated[int | None, typer.Option(min=1)] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0)] = None,
    batch: Annotated[int | None, typer.Option(min=1)] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.9, help="Share of train for early stopping; 0 trains all epochs on all. (default: 0.1)"
        ),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=0, help="Train only the top layers of the encoder; 0 freezes it.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="linear_probe: mean or max. (default: mean)")] = None,
) -> None:
    """Train a baseline on `train`, and score it on `validation`."""
    given = {
        "seed": seed,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch": batch,
        "held_out": held_out,
        "layers": layers,
        "pooling": pooling,
    }
    from rich.console import Console

    from eval.baselines.run import train_and_score
    from eval.report import show

    changes: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    scores = train_and_score(name, data, out, form, schema, encoder, changes, trials, search_minutes)
    show(scores, Console())
    if found := scores["search"]:
        best = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in found["best"].items())
        print(
            f"search: {found['trials']} trials in {found['minutes']:.1f} minutes, F1 {found['score']:.1f} on the held-out "
            f"part of train with {best}"
        )
    print(out)


@app.command()
def predict(
    baseline: Annotated[Path, typer.Option(help="Folder that `eval baseline` wrote.")],
    data: Annotated[str, typer.Option(help="Offers: JSONL, CSV or Parquet; `-` reads JSONL from standard input.")],
    out: Annotated[str, typer.Option(help="*.jsonl, *.csv or *.parquet; `-` is standard output.")] = "-",
) -> None:
    """Extract with a trained baseline; `eval score` scores what comes out."""
    from eval.baselines.run import predict as predict_

    records, failures = predict_(baseline, data, out)
    typer.echo(f"{records + failures} offers, {records} records, {failures} failures", err=True)
    raise typer.Exit(1 if failures else 0)
