"""Options that several commands of the evaluation room take."""

from pathlib import Path
from typing import Annotated

import typer

Split = Annotated[str | None, typer.Option(help="Of a folder.")]
Schemas = Annotated[Path | None, typer.Option(help="Schemas that say what is asked.")]
Runs = Annotated[Path, typer.Option(help="Folder of runs; the same inputs are never run twice.")]
Data = Annotated[Path, typer.Option(help="Labelled offers: a file, or a folder of splits.")]
Form = Annotated[str | None, typer.Option(help="house, papers, mave, bio or columns. (default: by the first record)")]
Training = Annotated[Path | None, typer.Option(help="Training labels, for scores by frequency and novelty.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write all scores as JSON.")]
Html = Annotated[Path | None, typer.Option(help="Also write a page with figures and the worst attributes.")]
Lenient = Annotated[bool, typer.Option("--lenient", help="Leave out and count rows that are no labelled offers.")]
