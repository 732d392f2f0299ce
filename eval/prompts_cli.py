"""Commands of the evaluation room that join `shelfwise prompts`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval.options import Data, Form, Json, Runs, Schemas, Split
from extractor.errors import InputError
from extractor.options import BaseUrl, Demonstrations, Engine, K, Model, Price
from extractor.prices import prices_of
from extractor.prompts import TEMPLATES, load_template

app = typer.Typer()


def numbers_of(text: str) -> tuple[int, ...]:
    try:
        found = tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise InputError(f"--ks {text!r}: write numbers with commas between: 0,1,3,5")
    return found


def budget_of(runs: float | None, minutes: float | None) -> tuple[float | None, float | None]:
    if runs is not None and minutes is not None:
        raise InputError("--budget-runs and --minutes both say when to stop; give one of them")
    return (10.0, None) if runs is None and minutes is None else (runs, minutes)


@app.command("compare")
def prompts_compare(
    templates: Annotated[list[str], typer.Argument(help="Two or more: name, name@version or a .jinja file.")],
    data: Data,
    split: Split = None,
    form: Form = None,
    schema: Schemas = None,
    n: Annotated[int, typer.Option(min=1, help="Offers, drawn by the seed.")] = 200,
    seed: int = 0,
    out: Runs = Path("runs/eval"),
    html: Annotated[Path | None, typer.Option(help="Write the page of offers on which they differ.")] = None,
    json_file: Json = None,
    engine: Engine = None,
    model: Model = None,
    base_url: BaseUrl = None,
    demonstrations: Demonstrations = None,
    k: K = None,
    price: Price = None,
    fail_below: Annotated[float | None, typer.Option(help="Exit 1 where a later template has less F1.")] = None,
    no_regression: Annotated[
        list[str] | None, typer.Option(help="Exit 1 where a later template is worse on this attribute.")
    ] = None,
) -> None:
    """Run templates side by side; each is compared with the first."""
    from eval import templates as sides
    from eval.datasets import load_dataset, load_demonstrations
    from extractor.cli import progress_bar
    from extractor.config import load_settings
    from extractor.demonstrations import check_leaks

    if len(templates) < 2:
        raise InputError("name two templates or more; the first is the one to compare with")
    settings = load_settings(engine=engine, model=model, base_url=base_url, k=k, price=price)
    dataset = sides.sampled(load_dataset(data, split, form, schema), n, seed)
    asked = {name for names in dataset.asked.values() for name in names}
    if unknown := [name for name in no_regression or () if name not in asked]:
        raise InputError(
            f"--no-regression {unknown[0]!r}: not an attribute of the data; it has {', '.join(sorted(asked))}"
        )
    shown = load_demonstrations(demonstrations)
    check_leaks(shown, dataset.offers)
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(template: str, done: int) -> None:
            if template not in tasks:
                tasks[template] = bar.add_task(template, total=len(dataset.offers), speed=0.0, failures=0)
            bar.update(tasks[template], completed=done)

        arms = sides.run_arms(templates, dataset, settings, shown, out, prices_of(settings.price), progress)
    found = sides.differences(arms)
    sides.show(found, Console())
    if html:
        rows = sides.differing(arms, dataset, settings, shown)
        sides.write_page(html, found, rows, dataset)
        Console(stderr=True).print(f"{len(rows)} of {len(dataset.offers)} offers differ: {html}")
    if json_file:
        json_file.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    failed = sides.regressions(arms, fail_below, no_regression or ())
    for reason in failed:
        Console(stderr=True).print(reason, style="red")
    raise typer.Exit(1 if failed else 0)


@app.command("tune")
def prompts_tune(
    templates: Annotated[list[str], typer.Argument(help="One or more; the first is the baseline.")],
    data: Data,
    split: Split = None,
    form: Form = None,
    schema: Schemas = None,
    demonstrations: Demonstrations = None,
    budget_runs: Annotated[
        float | None, typer.Option(help="What it may cost, in runs over the whole tuning part; else 10.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Or how long it may take.")] = None,
    ks: Annotated[str, typer.Option(help="Numbers of demonstrations to try.")] = "0,1,3,5,10",
    seeds: Annotated[int, typer.Option(min=1, help="Shuffles to try of fixed and random demonstrations.")] = 2,
    held_out: Annotated[float, typer.Option(min=0.05, max=0.9, help="Share of the offers not tuned on.")] = 0.3,
    n: Annotated[int | None, typer.Option(min=1, help="Offers, drawn by the seed; else all.")] = None,
    seed: int = 0,
    out: Runs = Path("runs/eval"),
    root: Annotated[Path, typer.Option("--templates", help="Where the best is written.")] = TEMPLATES,
    engine: Engine = None,
    model: Model = None,
    base_url: BaseUrl = None,
) -> None:
    """Search demonstrations and template variants; write the best as a new version."""
    from eval import templates as sides
    from eval import tune_report
    from eval.datasets import load_dataset, load_demonstrations
    from eval.tune import Plan, Search, tune
    from extractor.cli import progress_bar
    from extractor.config import load_settings
    from extractor.demonstrations import check_leaks

    settings = load_settings(engine=engine, model=model, base_url=base_url)
    plan = Plan(numbers_of(ks), seeds, held_out, seed, *budget_of(budget_runs, minutes))
    loaded = {tune_report.label(t, root): t for t in (load_template(name, root) for name in templates)}
    dataset = load_dataset(data, split, form, schema)
    if n:
        dataset = sides.sampled(dataset, n, seed)
    shown = load_demonstrations(demonstrations)
    check_leaks(shown, dataset.offers)
    search = Search(loaded, dataset, settings, shown, plan, out)
    with progress_bar() as bar:
        task = bar.add_task("", total=None, speed=0.0, failures=0)
        found = tune(search, lambda done, total: bar.update(task, completed=done, total=total))
    tune_report.show(found, Console())
    print(tune_report.write(search, found, root, demonstrations))
