"""Commands of the registry of adapters."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from extractor.adapters import Registry
from extractor.options import AdaptersFolder

app = typer.Typer(no_args_is_help=True, help="Which adapter serves which category.")


@app.command("list")
def list_adapters(registry: AdaptersFolder) -> None:
    """All adapters with their scores; what serves a category is marked."""
    opened = Registry(registry)
    serving = opened.serving()
    measured = {e["adapter"]: e["evidence"].get("f1") for e in opened.history if e["adapter"]}  # when it was promoted
    table = Table()
    for heading in ("adapter", "categories", "serves", "base", "labels", "held-out F1", "created"):
        table.add_column(heading, no_wrap=heading in ("adapter", "base"))
    for adapter in opened.adapters():
        if card := adapter.card:
            served = [c for c in card.schemas if serving.get(c) == adapter.reference]
            f1 = measured.get(adapter.reference) or card.scores.get("f1")
            row = (", ".join(card.schemas), ", ".join(served), card.base, str(card.labels), f"{f1:.1f}" if f1 else "")
            table.add_row(adapter.reference, *row, card.created[:16])
    Console().print(table)


@app.command()
def show(
    reference: Annotated[str, typer.Argument(help="name@version, or the newest of a name.")], registry: AdaptersFolder
) -> None:
    """The card of an adapter and what happened to it, as JSON."""
    opened = Registry(registry)
    adapter = opened.find(reference)
    history = [entry for entry in opened.history if entry["adapter"] == adapter.reference]
    card = adapter.card.model_dump() if adapter.card else {}
    print(json.dumps({"folder": str(adapter.folder)} | card | {"promotions": history}, indent=1, ensure_ascii=False))


@app.command()
def rollback(category: Annotated[str, typer.Argument(help="A category.")], registry: AdaptersFolder) -> None:
    """Take back the last promotion of a category."""
    category, now = Registry(registry).rollback(category)
    print(f"{category}: served by {now or 'prompting'}")
