"""Several engines on this machine (`shelfwise batch run … --engines 4`), each in a process with its share of the cores.

A small model gains less from a second thread than from a second engine: its matrices are small, and between them is Python.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from queue import LifoQueue
from typing import Any

from extractor.batch import Budget, Say
from extractor.chunks import Chunk
from extractor.errors import EngineError, InputError
from extractor.workshop import Opened, Workshop

GRACE = 10.0  # seconds for an engine to close
WINDOW = 2  # chunks under way for each engine: one that is extracted, and one that is there when it is done


@dataclass(frozen=True)
class Engines:
    """How chunks are extracted (`extractor.batch.Extract`): by this many engines, which start as there is work for them."""

    number: int

    def __call__(
        self, chunks: Iterator[Chunk], opened: Opened, budget: Budget, say: Say, patience: float
    ) -> Generator[Chunk]:
        """Raises what extracting raises."""
        ended = threading.Event()
        idle = LifoQueue[Workshop]()  # the last to be busy is the first again
        stack, threads = ExitStack(), ThreadPoolExecutor(self.number)
        divided = shares(self.number)
        stack.enter_context(_environment(OMP_NUM_THREADS=str(len(divided[0])), VLLM_CPU_OMP_THREADS_BIND="nobind"))
        for cores in divided:
            remote: Any = partial(_remote, opened, cores, ended)
            idle.put(stack.enter_context(Workshop(remote, budget.spend, say, patience)))

        def extract(chunk: Chunk) -> Chunk:
            shop, started = idle.get(), time.perf_counter()
            try:
                chunk.take(shop.extract(chunk.offers), time.perf_counter() - started)
            finally:
                idle.put(shop)
            return chunk

        under_way = deque[Future[Chunk]]()  # in the order of the input
        try:
            for chunk in chunks:
                under_way.append(threads.submit(extract, chunk))
                while under_way and (len(under_way) >= WINDOW * self.number or under_way[0].done()):
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            ended.set()
            stack.close()
            threads.shutdown(cancel_futures=True)


def shares(number: int) -> list[list[int]]:
    """Of the cores that this process may use; where there are more engines than cores, they share."""
    cores = sorted(os.sched_getaffinity(0))
    return [cores[i::number] or [cores[i % len(cores)]] for i in range(number)]


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """That of processes which start meanwhile: a library may read it before any code of ours runs there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ |= variables
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class _RemoteExtractor:
    """An extractor in another process: calls go there, and what they give or raise comes back."""

    def __init__(self, pipe: Connection, process: SpawnProcess, ended: threading.Event) -> None:
        self._pipe, self._process, self._ended = pipe, process, ended

    @property
    def schemas(self) -> Any:
        return self.ask("schemas")

    def __getattr__(self, name: str) -> Any:
        return partial(self.ask, name)

    def ask(self, name: str, *arguments: Any) -> Any:
        """Raises EngineError where the process is dead, InputError where the job is."""
        try:
            self._pipe.send((name, arguments))
            while not self._pipe.poll(1):
                if self._ended.is_set():
                    raise InputError("the job has ended")
            given, error = self._pipe.recv()
        except (EOFError, OSError) as broken:
            if self._ended.is_set():
                raise InputError("the job has ended") from broken
            self._process.join()
            raise EngineError(f"its process ended with status {self._process.exitcode}") from broken
        if error is not None:
            raise error
        return given


@contextmanager
def _remote(opened: Opened, cores: Sequence[int], ended: threading.Event) -> Iterator[_RemoteExtractor]:
    """An extractor in a process of its own. Raises what opening it raises."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, opened, cores), daemon=True)
    process.start()
    there.close()
    try:
        extractor = _RemoteExtractor(here, process, ended)
        extractor.ask("extract", [])  # it is open when it answers
        yield extractor
    finally:
        process.terminate()
        process.join(GRACE)
        process.kill()
        process.join()
        here.close()


def _serve(pipe: Connection, opened: Opened, cores: Sequence[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the job ends this process,
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # and it closes its engine
    threading.Thread(target=_follow_parent, daemon=True).start()
    os.sched_setaffinity(0, cores)
    with ExitStack() as stack:
        extractor: Any = None
        while True:
            name, arguments = pipe.recv()
            answer: tuple[Any, Exception | None]
            try:
                extractor = extractor or stack.enter_context(opened())
                found = getattr(extractor, name)
                answer = found(*arguments) if callable(found) else found, None
            except Exception as error:  # noqa: BLE001  # whatever it is, the job decides
                answer = None, _sendable(error)
            pipe.send(answer)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # of a library
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _follow_parent() -> None:
    """A job that is killed leaves no engine behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
