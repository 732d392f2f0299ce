"""`python -m eval.benchmark ray`: a job on one, two and more actors of this machine."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from extractor import Extractor, load_schemas
from extractor.batch import work
from extractor.cluster import Cluster
from extractor.config import load_settings, open_extractor
from extractor.engines.scripted import ScriptedEngine
from extractor.job import create
from extractor.manifest import Manifest
from extractor.prompts import PROMPTS
from extractor.workshop import Opened

SCHEMAS, MEASURED = PROMPTS / "schemas", 8  # the last rounds of chunks but one, when all actors have long been at work


def ray(
    engine: Annotated[str, typer.Option(help="scripted, or vllm with one core for each.")] = "scripted",
    actors: Annotated[str, typer.Option(help="How many, with commas between.")] = "1,2,4,8,16",
    chunk: Annotated[int, typer.Option(help="Offers of a chunk.")] = 64,
    rounds: Annotated[int, typer.Option(min=MEASURED + 2, help="Chunks for each actor.")] = 20,
    delay: Annotated[float, typer.Option(help="Seconds that the scripted engine takes for a chunk.")] = 2.0,
) -> None:
    """Records/s by the number of actors."""
    opened: Opened = partial(_scripted, delay)
    if engine != "scripted":
        opened = partial(open_extractor, load_settings(engine=engine), load_schemas(SCHEMAS))
    one = 0.0
    for n in map(int, actors.split(",")):
        # A scripted engine sleeps: sixteen of them share the cores.
        rate = _rate(Cluster("local", (n, n), cpus=0.1 if engine == "scripted" else 1), opened, n * chunk, rounds)
        one = one or rate / n
        print(f"{n:3} actors: {rate:8.1f} records/s, {rate / one:5.2f} times one", flush=True)


@contextmanager
def _scripted(delay: float) -> Iterator[Extractor]:
    yield Extractor(ScriptedEngine(delay=delay), load_schemas(SCHEMAS))


def _rate(cluster: Cluster, opened: Opened, size: int, rounds: int) -> float:
    """Of a job with `size` offers a round."""
    from eval.benchmark import SAMPLES, _offers

    at: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "offers.jsonl"
        source.write_text("".join(o.model_dump_json() + "\n" for o in _offers(SAMPLES, size * rounds)))
        manifest = Manifest(sources=[str(source)], part=size // cluster.engines[1])
        with create(Path(folder) / "job", manifest) as job:
            work(job, opened, extract=cluster, report=lambda counts, _: at.update({counts.rows: time.perf_counter()}))
    last = size * (rounds - 1)
    return size * MEASURED / (at[last] - at[last - size * MEASURED])
