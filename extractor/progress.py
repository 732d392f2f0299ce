"""Where a job stands: as a table that lives, as lines of JSON, as lines for a log, and as Prometheus metrics."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

from rich.console import Console
from rich.live import Live
from rich.table import Table

from extractor.errors import InputError, MissingExtraError
from extractor.job import Counts
from extractor.prices import money

Shown = Literal["live", "json", "none"]
EVERY = 10.0  # seconds between two lines of a log


def facts(
    counts: Counts,
    fraction: float | None = None,
    begun: Counts | None = None,
    seconds: float = 0,
    prices: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Of a job, as numbers by name. `fraction` of the input was read; `begun` are the counts `seconds` ago, for what depends on
    time; `prices` are those of `extractor.prices`, and what is expected in all goes by the share that was read."""
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
    if prices:
        spent = money(prices, counts.prompt_tokens, counts.cached_tokens, counts.output_tokens, counts.seconds)
        found["cost"] = round(spent, 4)
        if share := 1.0 if counts.finished else fraction:
            found["cost_expected"] = round(spent / share, 4)
    return found


NAMES = {
    "rows": "rows read",
    "records": "records",
    "reused": "… known already",
    "dead": "dead letters",
    "records_per_s": "records/s",
    "tokens_per_s": "tokens/s",
    "prefix_cache": "of the prompts from the prefix cache",
    "cost": "cost so far",
    "cost_expected": "cost expected in all",
    "seconds_left": "left",
}
SPEED = ("records_per_s", "tokens_per_s", "prefix_cache", "cost")  # of a summary

METRICS = {name: word.removeprefix("… ") for name, word in NAMES.items() if name != "dead"} | {
    "prompt_tokens": "tokens of prompts",
    "output_tokens": "tokens written",
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


def line(found: dict[str, Any], names: Iterable[str] = NAMES) -> str:
    return ", ".join(f"{_written(n, found[n])} {NAMES[n]}" for n in names if found.get(n) is not None)


Show = Callable[[dict[str, Any]], None]


@contextmanager
def reporting(
    shown: str,
    begun: Counts,
    console: Console,
    port: int | None = None,
    prices: Mapping[str, float] | None = None,
) -> Iterator[Callable[[Counts, float], None]]:
    """What a job reports to: `live` is a table on a terminal, and a line now and then elsewhere; `json` a line for each part on
    standard error; `port` serves Prometheus. Raises InputError for another word or a port that is taken."""
    if shown not in get_args(Shown):
        raise InputError(f"--progress {shown!r} is none of {', '.join(get_args(Shown))}")
    started = time.monotonic()
    with ExitStack() as stack:
        shows: list[Show] = [stack.enter_context(_metrics(port))] if port is not None else []
        if shown == "json":
            shows.append(lambda found: print(json.dumps(found), file=sys.stderr, flush=True))
        elif shown == "live" and console.is_terminal:
            live = stack.enter_context(Live(console=console, auto_refresh=False, transient=True))
            shows.append(lambda found: live.update(table(found), refresh=True))
        elif shown == "live":
            shows.append(_log(console))

        def report(counts: Counts, fraction: float) -> None:
            found = facts(counts, fraction, begun, time.monotonic() - started, prices)
            for show in shows:
                show(found)

        yield report


def _log(console: Console) -> Show:
    last = time.monotonic()

    def show(found: dict[str, Any]) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            console.print(line(found))

    return show


@contextmanager
def _metrics(port: int) -> Iterator[Show]:
    try:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server
    except ModuleNotFoundError as error:
        raise MissingExtraError("prometheus_client", "metrics") from error
    registry = CollectorRegistry()
    gauges = {name: Gauge(f"shelfwise_job_{name}", word, registry=registry) for name, word in METRICS.items()}
    dead = Gauge("shelfwise_job_dead_letters", "dead letters", ["reason"], registry=registry)
    try:
        server, _ = start_http_server(port, registry=registry)
    except OSError as error:
        raise InputError(f"--metrics-port {port}: {error.strerror}; choose another") from error

    def show(found: dict[str, Any]) -> None:
        for name, gauge in gauges.items():
            if (value := found.get(name)) is not None:
                gauge.set(value)
        dead.clear()
        for reason, n in found["reasons"].items():
            dead.labels(reason).set(n)

    try:
        yield show
    finally:
        server.shutdown()
        server.server_close()
