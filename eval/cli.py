"""Commands of the evaluation room, `shelfwise eval …`."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

import typer
from rich.console import Console

from eval.baselines.cli import app as baselines_app

app = typer.Typer(help="Score extractions against labelled offers.", no_args_is_help=True)
app.add_typer(baselines_app)

Data = Annotated[Path, typer.Option(help="Labelled offers: a file, or a folder of splits.")]
Form = Annotated[
    Optional[str], typer.Option(help="house, papers, mave, bio or columns. [default: by the first record]")
]
Training = Annotated[Optional[Path], typer.Option(help="Training labels, for scores by frequency and novelty.")]
Json = Annotated[Optional[Path], typer.Option("--json", help="Also write all scores as JSON.")]
Lenient = Annotated[bool, typer.Option("--lenient", help="Leave out and count rows that are no labelled offers.")]


@app.command()
def score(
    predictions: Annotated[Path, typer.Option(help="Records of Shelfwise, or lines with `pred`.")],
    gold: Data,
    split: Annotated[Optional[str], typer.Option(help="Of a folder.")] = None,
    form: Form = None,
    schema: Annotated[Optional[Path], typer.Option(help="Schemas that say what is asked.")] = None,
    training: Training = None,
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
    if json_file:
        json_file.write_text(json.dumps(scores, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def run(
    data: Data,
    split: Annotated[Optional[str], typer.Option(help="Of a folder.")] = None,
    form: Form = None,
    schema: Annotated[Optional[Path], typer.Option(help="Schemas that say what is asked.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of runs; the same inputs are never run twice.")] = Path("runs/eval"),
    engine: Annotated[Optional[str], typer.Option(help="vllm, server, huggingface, scripted. [default: vllm]")] = None,
    model: Annotated[Optional[str], typer.Option(help="As for extract.")] = None,
    adapter: Annotated[Optional[Path], typer.Option(help="A LoRA adapter's folder.")] = None,
    base_url: Annotated[Optional[str], typer.Option(help="Of a server, with /v1.")] = None,
    template: Annotated[Optional[str], typer.Option(help="name, name@version or a file.")] = None,
    demonstrations: Annotated[Optional[Path], typer.Option(help="Labelled offers of a training split.")] = None,
    k: Annotated[Optional[int], typer.Option(min=0, help="Demonstrations in a prompt.")] = None,
    choice: Annotated[Optional[str], typer.Option(help="similar, fixed, random.")] = None,
    order: Annotated[Optional[str], typer.Option(help="last, first: where the most similar one stands.")] = None,
    grounding: Annotated[Optional[str], typer.Option(help="strict or off.")] = None,
    limit: Annotated[Optional[int], typer.Option(min=1, help="Only the first offers.")] = None,
    training: Training = None,
    price: Annotated[
        Optional[str], typer.Option(help="Money for a million tokens: prompt=0.4,cached=0.1,output=1.6")
    ] = None,
    lenient: Lenient = False,
) -> None:
    """Extract from labelled offers and score what came out."""
    from dataclasses import replace

    from eval.datasets import load_dataset
    from eval.report import show
    from eval.run import inputs_of
    from eval.run import run as run_
    from extractor.cli import progress_bar
    from extractor.config import load_settings, open_extractor
    from extractor.demonstrations import check_leaks

    settings = load_settings(
        engine=engine,
        model=model,
        adapter=adapter,
        base_url=base_url,
        template=template,
        k=k,
        choice=choice,
        order=order,
        grounding=grounding,
    )
    dataset = load_dataset(data, split, form, schema, strict=not lenient)
    if limit:
        dataset = replace(dataset, offers=dataset.offers[:limit])
    shown = list(load_dataset(demonstrations).offers) if demonstrations else []
    check_leaks(shown, dataset.offers)
    labels = list(load_dataset(training).offers) if training else shown
    with progress_bar() as bar:
        task = bar.add_task("", total=len(dataset.offers), speed=0.0, failures=0)
        done = run_(
            lambda: open_extractor(settings, dataset.schemas, shown),
            dataset,
            inputs_of(settings, dataset, shown),
            out,
            training=labels,
            price=prices_of(price),
            progress=lambda n: bar.update(task, completed=n),
        )
    show(done.scores, Console())
    print(done.folder)


@app.command()
def compare(
    data: Annotated[list[Path], typer.Option(help="A folder with train and validation; may be given several times.")],
    systems: Annotated[
        Optional[str], typer.Option(help="Names with commas. [default: all; see the README for what they are]")
    ] = None,
    budgets: Annotated[str, typer.Option(help="Numbers of labels with commas; `all` for all.")] = "0,10,30,100,300,all",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of labels, and of a training's chance.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, budgets 0, 30 and all, a third of the epochs.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder of runs; the same inputs are never run twice.")] = Path(
        "runs/compare"
    ),
    html: Annotated[Optional[Path], typer.Option(help="Write the report as a page.")] = None,
    markdown: Annotated[Optional[Path], typer.Option(help="Write its tables as Markdown.")] = None,
    json_file: Json = None,
    engine: Annotated[Optional[str], typer.Option(help="Of the prompted systems, as for extract.")] = None,
    model: Annotated[Optional[str], typer.Option(help="As for extract.")] = None,
    base_url: Annotated[Optional[str], typer.Option(help="Of a server, with /v1.")] = None,
    template: Annotated[Optional[str], typer.Option(help="name, name@version or a file.")] = None,
    k: Annotated[Optional[int], typer.Option(min=0, help="Demonstrations in a prompt.")] = None,
    encoder: Annotated[str, typer.Option(help="minilm, or a folder.")] = "minilm",
) -> None:
    """Systems side by side at the same number of labels: prompting, baselines that learn."""
    from eval import compare as sides
    from eval import page
    from eval.compare_report import as_json, sections
    from eval.datasets import load_dataset
    from eval.run import shared_engine
    from extractor.config import load_settings

    settings = load_settings(engine=engine, model=model, base_url=base_url, template=template, k=k)
    names = sides.named(systems)
    counts = sides.budgets_of("0,30,all" if quick else budgets)
    found: dict[str, Any] = {}
    report: list[page.Section] = []
    error = Console(stderr=True)
    pairs = [(load_dataset(folder, "train"), load_dataset(folder, "validation")) for folder in data]
    arms = [list(sides.plan(names, counts, 1 if quick else seeds, len(training.offers))) for training, _ in pairs]
    total, done = sum(map(len, arms)), 0

    def progress(arm: str) -> None:
        nonlocal done
        done += 1
        error.print(f"{done}/{total}  {arm}", highlight=False)

    with shared_engine(settings) as extractor:
        for (training, validation), chosen in zip(pairs, arms, strict=True):
            finished = sides.compare(
                training,
                validation,
                chosen,
                settings,
                extractor,
                out,
                encoder=encoder,
                epochs=1 / 3 if quick else 1.0,
                progress=lambda arm, name=validation.name: progress(f"{name}: {arm}"),  # type: ignore[misc]
            )
            found[validation.name] = as_json(finished)
            report += sections(validation, finished)
    page.show(report, Console())
    if html:
        lead = f"{', '.join(names)}; {'one seed' if quick else f'{seeds} seeds'}; model {settings.model or 'base'}."
        page.write_page(html, "Systems compared", lead, report)
    if markdown:
        markdown.write_text(page.markdown(report, level=3), encoding="utf-8")
    if json_file:
        json_file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def prices_of(text: str | None) -> dict[str, float] | None:
    from extractor.errors import InputError

    if text is None:
        return None
    try:
        prices = {key.strip(): float(value) for key, value in (part.split("=") for part in text.split(","))}
    except ValueError as error:
        raise InputError(f"--price {text!r}: write prompt=0.4,cached=0.1,output=1.6") from error
    if unknown := sorted(prices.keys() - {"prompt", "cached", "output"}):
        raise InputError(f"--price: unknown kind {unknown[0]!r}; there are prompt, cached, output")
    if "prompt" not in prices:
        raise InputError("--price: the price of prompt tokens is missing")
    return prices


from eval import robustness_cli  # noqa: E402, F401  its command joins `app`
