"""The command of the evaluation room that joins `shelfwise adapters`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from eval.options import Data, Form, Runs, Schemas, Split
from extractor.errors import InputError
from extractor.options import AdaptersFolder, BaseUrl, Engine, Model

app = typer.Typer()


@app.command()
def promote(
    reference: Annotated[str, typer.Argument(help="name@version, or the newest of a name.")],
    registry: AdaptersFolder,
    data: Data,
    split: Split = None,
    form: Form = None,
    schema: Schemas = None,
    force: Annotated[bool, typer.Option("--force", help="Promote it all the same; takes a --reason.")] = False,
    reason: Annotated[str | None, typer.Option(help="Why, for the record.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Promote nothing; print what it was compared with, and how, as JSON.")
    ] = False,
    engine: Engine = None,
    model: Model = None,
    base_url: BaseUrl = None,
    out: Runs = Path("runs/eval"),
) -> None:
    """Let an adapter serve its categories, if it beats all else on held-out offers."""
    from eval.datasets import load_dataset
    from eval.promote import LEAST, rivals
    from extractor.adapters import Registry
    from extractor.config import load_settings

    if check and force:
        raise InputError("--check promotes nothing, so there is nothing to --force; give one of them")
    if force and not reason:
        raise InputError("--force: say why with --reason; it is kept in the registry")
    opened = Registry(registry)
    adapter = opened.find(reference)
    dataset = load_dataset(data, split or ("validation" if data.is_dir() else None), form, schema)
    settings = load_settings(engine=engine, model=model, base_url=base_url, adapters=registry, calibration="none")
    f1, found = rivals(opened, adapter, dataset, settings, out)
    evidence = {
        "data": dataset.fingerprint,
        "offers": len(dataset.offers),
        "f1": f1,
        "rivals": [asdict(r) for r in found],
    }
    unbeaten = [rival.name for rival in found if not rival.beaten]
    few = len(dataset.offers) < LEAST
    if check:
        print(json.dumps(evidence | {"adapter": adapter.reference, "unbeaten": unbeaten, "enough": not few}))
        return
    table = Table("compared with", "F1", f"{adapter.reference}", "difference", "95 % interval", "p")
    for rival in found:
        interval = f"{rival.low:+.1f} to {rival.high:+.1f}"
        table.add_row(
            rival.name, f"{rival.f1:.1f}", f"{f1:.1f}", f"{rival.difference:+.1f}", interval, f"{rival.p:.3f}"
        )
    Console().print(table)
    if few and not force:
        raise InputError(
            f"{adapter.reference} is not promoted: {len(dataset.offers)} held-out offers are too few to tell; give {LEAST} or"
            " more, or --force with a --reason"
        )
    if unbeaten and not force:
        raise InputError(
            f"{adapter.reference} is not promoted: on these {len(dataset.offers)} offers it is not better than"
            f" {', '.join(unbeaten)} beyond chance; label more, or --force with a --reason"
        )
    opened.promote(adapter, evidence, reason if unbeaten or few else None)
    serving = ", ".join(adapter.card.schemas) if adapter.card else ""
    print(f"{adapter.reference} serves {serving}")
