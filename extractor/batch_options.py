"""Options of `shelfwise batch`, and where they send the offers."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from extractor.errors import InputError

if TYPE_CHECKING:
    from extractor.batch import Extract

Folder = Annotated[Path, typer.Argument(help="The job's folder.")]
Retries = Annotated[int, typer.Option(min=0, help="What the job may try again, in all.")]
Patience = Annotated[float, typer.Option(min=0, help="Seconds that a server may stay away.")]
Port = Annotated[int | None, typer.Option("--metrics-port", help="Serve Prometheus metrics there.")]
Ray = Annotated[
    str | None, typer.Option("--ray", help="Extract on Ray: local (a cluster for this job), auto, or HOST:PORT.")
]
Engines = Annotated[
    str, typer.Option(help="How many, each in a process with its share of the cores; on Ray also MIN:MAX.")
]
Cpus = Annotated[float, typer.Option(min=0, help="Cores of each on Ray.")]
Gpus = Annotated[float, typer.Option(min=0, help="GPUs of each on Ray.")]
Shown = Annotated[str, typer.Option("--progress", help="live, json (a line a part), none.")]


def extract_by(ray: str | None, engines: str, cpus: float, gpus: float) -> "Extract":
    """On Ray, in several processes, or in this one."""
    from extractor.batch import in_process
    from extractor.cluster import Cluster
    from extractor.processes import Engines

    least, most = _bounds(engines)
    if ray:
        return Cluster(ray, (least, most), cpus, gpus)
    return Engines(most) if most > 1 else in_process


def _bounds(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    with suppress(ValueError):
        if 1 <= int(least) <= int(most or least):
            return int(least), int(most or least)
    raise InputError(f"--engines {text!r}: give one number from 1, or MIN:MAX, as in 2:8")
