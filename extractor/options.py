"""Options that commands of several rooms take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extractor.errors import MissingExtraError

if TYPE_CHECKING:
    from extractor.database import Database

Engine = Annotated[str | None, typer.Option(help="vllm, server, huggingface, scripted. (default: vllm)")]
Model = Annotated[
    str | None, typer.Option(help="`base` (bundled), a folder, a hub name, or what a server serves. (default: base)")
]
Adapter = Annotated[Path | None, typer.Option(help="A LoRA adapter's folder.")]
Adapters = Annotated[
    Path | None, typer.Option(help="A folder of adapters: each offer goes to the one promoted for its category.")
]
AdaptersFolder = Annotated[Path, typer.Option("--adapters", help="The folder of adapters.")]
BaseUrl = Annotated[str | None, typer.Option(help="Of an OpenAI-compatible server, with /v1.")]
Template = Annotated[str | None, typer.Option(help="name, name@version or a .jinja file. (default: extract)")]
Demonstrations = Annotated[Path | None, typer.Option(help="Labelled offers for few-shot prompts, of a training split.")]
K = Annotated[int | None, typer.Option(min=0, help="Demonstrations in a prompt. (default: 5)")]
Choice = Annotated[str | None, typer.Option(help="How they are chosen: similar, fixed, random.")]
Order = Annotated[str | None, typer.Option(help="Where the most similar one stands: last, first.")]
Known = Annotated[
    bool | None,
    typer.Option("--known/--no-known", help="Show the demonstrations' values that stand in an offer. (default: yes)"),
]
MaskPii = Annotated[
    bool | None,
    typer.Option(
        "--mask-pii/--no-mask-pii", help="Mask e-mail addresses, phone and card numbers in offers. (default: no)"
    ),
]
Grounding = Annotated[str | None, typer.Option(help="strict: only spans of the offer; off: any text.")]
Price = Annotated[
    str | None,
    typer.Option(help="Of a million tokens and of an hour in the engine: prompt=0.4,cached=0.1,output=1.6,hour=2.5"),
]
Calibration = Annotated[
    str | None, typer.Option(help="A calibration.json, or none; by default that of the model's folder.")
]
StoreAddress = Annotated[
    str | None,
    typer.Option(
        "--store", envvar="SHELFWISE_STORE", help="postgresql+psycopg://…, or sqlite:///FILE.", show_envvar=True
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(help="Folder of files, and of the store without --store. (default: ~/.local/share/shelfwise)"),
]


@contextmanager
def opened_database(address: str | None, data_dir: Path | None) -> "Iterator[Database]":
    """The store that --store names, or the one in --data-dir, closed at the end. Raises MissingExtraError."""
    try:
        from extractor.database import Database, default_file
    except ModuleNotFoundError as error:
        raise MissingExtraError((error.name or "sqlalchemy").split(".")[0], "service") from error
    database = Database(address or default_file(data_dir))
    try:
        yield database
    finally:
        database.close()
