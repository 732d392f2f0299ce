"""`python -m eval.benchmark service`: clients that ask one after the other, on this machine."""

import asyncio
import itertools
import multiprocessing
import socket
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any

import typer

from extractor import Extractor, load_schemas
from extractor.config import load_settings, open_extractor
from extractor.engines.scripted import ScriptedEngine
from extractor.prompts import PROMPTS

SCHEMAS = PROMPTS / "schemas"


def service(
    clients: Annotated[int, typer.Option(help="Connections, each with one request under way.")] = 200,
    seconds: float = 10.0,
    delay: Annotated[float, typer.Option(help="Milliseconds that the scripted engine takes for a call.")] = 50.0,
    queue: Annotated[int, typer.Option(help="Offers that may wait.")] = 4096,
    batch: Annotated[int, typer.Option(help="Offers of a call.")] = 256,
    offers: Annotated[int, typer.Option(help="Of a request.")] = 1,
    auth: Annotated[bool, typer.Option("--auth/--no-auth", help="With a key, looked up in SQLite.")] = True,
    engine: Annotated[str, typer.Option(help="scripted, or vllm: the bundled model, without a delay.")] = "scripted",
    alone: Annotated[bool, typer.Option("--alone", help="Then again with one offer a call, and the ratio.")] = False,
) -> None:
    """Requests/s of the service, how long they take beside the engine's delay, and what was refused."""
    delay = delay if engine == "scripted" else 0.0
    rates = [
        _measured(clients, seconds, delay, queue, most, offers, auth, engine)
        for most in [batch, *([1] if alone else [])]
    ]
    if alone:
        print(f"calls of many give {rates[0] / rates[1]:.1f} times the records/s of calls of one")


def _measured(
    clients: int, seconds: float, delay: float, queue: int, batch: int, offers: int, auth: bool, engine: str
) -> float:
    """Records/s, once all is printed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (theirs, Path(folder), delay / 1000, queue, batch, auth, engine)
        process = context.Process(target=_serve, args=arguments, daemon=True)
        process.start()
        url, secret = ours.recv()
        try:
            statuses, times = asyncio.run(_load(url, secret, clients, seconds, offers))
        finally:
            ours.send("enough")
            computed = ours.recv()
            process.join()
    n, ranked = sum(statuses.values()), sorted(times)
    print(
        f"{clients} clients, {seconds:g} s, {offers} offers a request; {engine} engine, {delay:g} ms a call of at most {batch}"
    )
    print(f"{len(times) / seconds:.0f} requests/s answered, {len(times) * offers / seconds:.0f} records/s")
    if ranked:
        p50, p99 = (1000 * ranked[int(share * (len(ranked) - 1))] for share in (0.5, 0.99))
        print(
            f"p50 {p50:.0f} ms, p99 {p99:.0f} ms; beside the engine's delay {p50 - delay:.0f} and {p99 - delay:.0f} ms"
        )
    if engine == "scripted":
        print(f"the service computed {1000 * computed / n:.2f} ms a request, and no more than one core at a time")
    shown = ", ".join(f"{count} × {status}" for status, count in sorted(statuses.items()))
    print(f"{n} answers: {shown}; 5xx {sum(c for s, c in statuses.items() if s >= 500)}")
    return len(times) * offers / seconds


async def _load(url: str, secret: str, clients: int, seconds: float, offers: int) -> tuple[Counter[int], list[float]]:
    """Statuses, and seconds of what was answered with records. Written on bare sockets: a client library took more of the
    two cores than the service."""
    statuses: Counter[int] = Counter()
    times: list[float] = []
    host, port = url.removeprefix("http://").split(":")
    head = f"POST /v1/extract HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
    numbers = itertools.count()  # every title is another one, so that no cache knows it

    def asked() -> bytes:
        titles = (f"Velmora Suede Loafer {next(numbers)}" for _ in range(offers))
        rows = ",".join(f'{{"id":"{i}","category":"Shoes","title":"{title}"}}' for i, title in enumerate(titles))
        body = f'{{"offers":[{rows}]}}'
        return f"{head}Authorization: Bearer {secret}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()

    end = time.perf_counter() + seconds

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (begun := time.perf_counter()) < end:
            writer.write(asked())
            answered = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(": ", 1) for line in answered.decode().split("\r\n")[1:] if line)
            await reader.readexactly(int(fields["content-length"]))
            status = int(answered.split()[1])
            statuses[status] += 1
            if status == 200:
                times.append(time.perf_counter() - begun)
            else:
                await asyncio.sleep(min(float(fields.get("retry-after", 1)), max(0.0, end - time.perf_counter())))
        writer.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return statuses, times


def _serve(pipe: Connection, folder: Path, delay: float, queue: int, batch: int, auth: bool, engine: str) -> None:
    """In a process of its own, until something comes through the pipe."""
    from threading import Thread

    from extractor.database import Database
    from extractor.feedback import Store
    from extractor.keys import Keys
    from extractor.service.serve import Server, settle
    from extractor.service.served import Limits, Service, prompter

    schemas = load_schemas(SCHEMAS)

    settings = load_settings(engine=engine, calibration="none")

    @contextmanager
    def opened() -> Any:
        if engine == "scripted":
            yield Extractor(ScriptedEngine(delay=delay), schemas)
        else:
            with open_extractor(settings, schemas, []) as extractor:
                yield extractor

    database = Database(folder / "store.sqlite")
    keys = Keys(database) if auth else None
    secret = keys.create("benchmark", "extract", None, "benchmark")[1] if keys else ""
    limits = Limits(batch=batch, queue=queue)
    prompting = partial(prompter, settings, schemas, [])
    made = Service(opened, schemas, prompting, Store(database), folder, keys, limits, (settings, [], None))
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    made.batcher.started.add_done_callback(settle)
    server = Server(made)
    thread = Thread(target=server.run, args=([listener],))
    thread.start()
    made.batcher.started.result()
    begun = time.process_time()
    pipe.send((f"http://127.0.0.1:{listener.getsockname()[1]}", secret))
    pipe.recv()
    pipe.send(time.process_time() - begun)
    server.should_exit = True
    thread.join()
