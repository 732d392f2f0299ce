"""`shelfwise eval compare`."""

import json
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval.options import Json, Runs
from extractor.options import BaseUrl, Engine, K, Model, Template

app = typer.Typer()

LEARNERS = {"lora": "finetune.learner:Adapters"}  # by name, as this room imports nothing of the one that trains


@app.command()
def compare(
    data: Annotated[list[Path], typer.Option(help="A folder with train and validation; may be given several times.")],
    systems: Annotated[
        str | None,
        typer.Option(help="Names with commas. (default: all but question_answering, which takes hours, and lora)"),
    ] = None,
    budgets: Annotated[str, typer.Option(help="Numbers of labels with commas; `all` for all.")] = "0,10,30,100,300,all",
    seeds: Annotated[int, typer.Option(min=1, help="Draws of labels, and of a training's chance.")] = 3,
    quick: Annotated[
        bool, typer.Option("--quick", help="One seed, budgets 0, 30 and all, a third of the epochs.")
    ] = False,
    out: Runs = Path("runs/compare"),
    html: Annotated[Path | None, typer.Option(help="Write the report as a page.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write its tables as Markdown.")] = None,
    json_file: Json = None,
    engine: Engine = None,
    model: Model = None,
    base_url: BaseUrl = None,
    template: Template = None,
    k: K = None,
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
    learners: dict[str, sides.Learner] = {}
    for name, target in LEARNERS.items():
        if name in (systems or "").split(","):
            module, _, cls = target.partition(":")
            learners[name] = getattr(import_module(module), cls)(settings)
    names = sides.named(systems, learners)
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
                learners=learners,
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
