"""`shelfwise eval robustness`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval.options import Data, Form, Json, Lenient, Runs, Schemas, Split
from extractor.options import Adapter, BaseUrl, Choice, Demonstrations, Engine, Grounding, K, Model, Template

app = typer.Typer()


@app.command()
def robustness(
    data: Data,
    split: Split = None,
    form: Form = None,
    schema: Schemas = None,
    n: Annotated[int, typer.Option(min=1, help="Offers, drawn by the seed.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the drawn offers and of the perturbations.")] = 0,
    perturbations: Annotated[
        str | None, typer.Option(help="With commas between: typos,upper,injected-order. (default: all)")
    ] = None,
    out: Runs = Path("runs/eval"),
    html: Annotated[Path | None, typer.Option(help="Also write the report as a page.")] = None,
    json_file: Json = None,
    engine: Engine = None,
    model: Model = None,
    adapter: Adapter = None,
    base_url: BaseUrl = None,
    template: Template = None,
    demonstrations: Demonstrations = None,
    k: K = None,
    choice: Choice = None,
    grounding: Grounding = None,
    lenient: Lenient = False,
) -> None:
    """Perturb the offers (typos, case, order, injected instructions, …) and show what each costs."""
    from functools import partial

    from eval import robustness as perturbed
    from eval.datasets import load_dataset, load_demonstrations
    from eval.page import show, write_page
    from eval.run import inputs_of, shared_engine
    from eval.templates import sampled
    from extractor.cli import progress_bar
    from extractor.config import load_settings
    from extractor.demonstrations import check_leaks

    names = perturbed.chosen([name.strip() for name in (perturbations or "").split(",") if name.strip()])
    settings = load_settings(
        engine=engine,
        model=model,
        adapter=adapter,
        base_url=base_url,
        template=template,
        k=k,
        choice=choice,
        grounding=grounding,
    )
    dataset = sampled(load_dataset(data, split, form, schema, strict=not lenient), n, seed)
    shown = load_demonstrations(demonstrations)
    check_leaks(shown, dataset.offers)
    with progress_bar() as bar, shared_engine(settings) as extractor:
        tasks: dict[str, Any] = {}

        def progress(name: str, done: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=len(dataset.offers), speed=0.0, failures=0)
            bar.update(tasks[name], completed=done)

        arms = perturbed.robustness(
            partial(extractor, settings, dataset.schemas, shown),
            dataset,
            lambda offers: inputs_of(settings, offers, shown),
            out,
            names=names,
            seed=seed,
            training=shown,
            progress=progress,
        )
    rows = perturbed.summary(arms)
    first = arms[0].run
    title = f"Robustness: {dataset.name} {dataset.split}"
    system = f"{settings.engine} {settings.model or 'base'}, {first.scores['inputs']['template'].split()[0]}"
    lead = f"{len(dataset.offers)} offers, drawn and perturbed by seed {seed}; {system}."
    console = Console()
    console.print(title, style="bold")
    console.print(lead, style="dim")
    show(perturbed.sections(rows), console)
    if html:
        write_page(html, title, lead, perturbed.sections(rows, examples=True))
        Console(stderr=True).print(f"wrote {html}")
    if json_file:
        found = {"data": first.scores["data"], "seed": seed, "inputs": first.scores["inputs"], "perturbations": rows}
        json_file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
