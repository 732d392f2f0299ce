"""Where a job stands: as a table that lives, as lines of JSON, as lines for a log."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

from rich.console import Console
from rich.live import Live
from rich.table import Table

from extractor.errors import InputError
from extractor.job import Counts

Shown = Literal["live", "json", "none"]
EVERY = 10.0  # seconds between two lines of a log


def facts(
    counts: Counts, fraction: float | None = None, begun: Counts | None = None, seconds: float = 0
) -> dict[str, Any]:
    """Of a job, as numbers by name. `fraction` of the input was read; `begun` are the counts `seconds` ago, for what depends on
    time."""
    found: dict[str, Any] = {
        "rows": counts.rows,
        "records": counts.records,
        "reused": counts.reused,
        "dead": counts.dead,
        "reasons": counts.reasons,
        "total": counts.total,
        "finished": counts.finished,
        "prompt_tokens": counts.prompt_tokens,
        "output_tokens": counts.output_tokens,
        "prefix_cache": round(counts.cached_tokens / counts.prompt_tokens, 3) if counts.prompt_tokens else None,
    }
    if begun and seconds:
        done = counts.rows - begun.rows
        found["records_per_s"] = round((counts.records - begun.records) / seconds, 1)
        found["tokens_per_s"] = round((counts.output_tokens - begun.output_tokens) / seconds)
        if fraction and done:
            found["seconds_left"] = round(counts.rows * (1 / fraction - 1) * seconds / done)
    return found


NAMES = {
    "rows": "rows read",
    "records": "records",
    "reused": "… known already",
    "dead": "dead letters",
    "records_per_s": "records/s",
    "tokens_per_s": "tokens/s",
    "prefix_cache": "of the prompts from the prefix cache",
    "seconds_left": "left",
}


def table(found: dict[str, Any]) -> Table:
    made = Table(show_header=False, box=None)
    made.add_column(justify="right")
    made.add_column()
    for name, shown in NAMES.items():
        if (value := found.get(name)) is not None:
            made.add_row(_written(name, value), shown)
    for reason, n in found["reasons"].items():
        made.add_row(f"{n:,}", f"… {reason}")
    made.add_row("", "finished" if found["finished"] else "not finished")
    return made


def _written(name: str, value: float) -> str:
    if name == "seconds_left":
        return f"{value // 3600}:{value % 3600 // 60:02}:{value % 60:02}"
    return f"{value:.0%}" if name == "prefix_cache" else f"{value:,}"


@contextmanager
def reporting(shown: str, begun: Counts, console: Console) -> Iterator[Callable[[Counts, float], None]]:
    """What a job reports to: `live` is a table on a terminal, and a line now and then elsewhere; `json` a line for each part on
    standard error. Raises InputError for another word."""
    if shown not in get_args(Shown):
        raise InputError(f"--progress {shown!r} is none of {', '.join(get_args(Shown))}")
    started = last = time.monotonic()

    def found(counts: Counts, fraction: float) -> dict[str, Any]:
        return facts(counts, fraction, begun, time.monotonic() - started)

    def line(counts: Counts, fraction: float) -> None:
        nonlocal last
        if shown == "json":
            print(json.dumps(found(counts, fraction)), file=sys.stderr, flush=True)
        elif shown == "live" and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            now = found(counts, fraction)
            parts = (f"{_written(name, now[name])} {word}" for name, word in NAMES.items() if now.get(name) is not None)
            console.print(", ".join(parts))

    if shown != "live" or not console.is_terminal:
        yield line
        return
    with Live(table(found(begun, 0.0)), console=console, auto_refresh=False, transient=True) as live:
        yield lambda counts, fraction: live.update(table(found(counts, fraction)), refresh=True)
