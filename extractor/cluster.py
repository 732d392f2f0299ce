"""A batch job on Ray Data (`shelfwise batch run … --ray auto`): the same chunks, extracted by actors that each hold an engine.

The job stays with the driver, which prepares chunks, has `WINDOW` of them an actor under way, and enters them in the order of the
input. The dataset is their numbers: an actor fetches the offers from a feed beside the driver, and when it is lost, another does.
Were the offers in the dataset, Ray would have to read them anew for that, which it cannot while their reader waits for more.
"""

import asyncio
import logging
import os
import pickle
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

from extractor.batch import Budget, Say
from extractor.chunks import Chunk
from extractor.errors import EngineError, InputError, MissingExtraError, ShelfwiseError
from extractor.records import ProductOffer
from extractor.workshop import Opened, Outcome, Workshop

WINDOW = 4  # two in an actor's queue, and as many that wait for a slower one before them
TRIES = 4  # of a chunk whose process is lost


@dataclass
class Answer:
    """`outcomes` of a chunk's offers, none where `error` or the budget ended it; `reasons` of whatever was tried again."""

    outcomes: list[Outcome]
    seconds: float
    reasons: list[str]
    error: ShelfwiseError | None


class Spent(Exception):
    """The budget that came with a chunk is used up."""


class Worker:
    """Holds an engine in an actor; takes the numbers of chunks."""

    def __init__(self, feed: Any, opened: Opened, patience: float) -> None:
        # By default vLLM binds its threads to the machine's first cores: several engines would share these.
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
        self._feed, self._left, self._reasons = feed, 0, list[str]()
        self._shop = Workshop(opened, self._spend, lambda message: print(message, file=sys.stderr), patience)
        with suppress(ShelfwiseError):  # which the first chunk meets again
            _ = self._shop.extractor  # ready before there is a chunk to wait for it

    def __call__(self, rows: Any) -> Any:
        import pyarrow as pa
        import ray

        (number,) = rows["number"].to_pylist()
        answer = self._answer(*ray.get(self._feed.begin.remote(number)))
        return pa.table({"number": [number], "answer": [pickle.dumps(answer)]})

    def _answer(self, offers: list[ProductOffer], left: int, tries: int) -> Answer:
        self._left, self._reasons = left, []
        outcomes, failed, started = list[Outcome](), None, time.perf_counter()
        try:
            if tries > TRIES:
                ids = f"{offers[0].id} … {offers[-1].id}"
                raise EngineError(f"the process that extracts offers {ids} was lost {TRIES} times; look into its log")
            outcomes = self._shop.extract(offers)
        except Spent:
            pass  # the driver counts the reasons, and says so
        except ShelfwiseError as error:
            failed = error
        return Answer(outcomes, time.perf_counter() - started, self._reasons, failed)

    def _spend(self, reason: str) -> None:
        self._reasons.append(reason)
        if len(self._reasons) > self._left:
            raise Spent


class Feed:
    """What is sent, by number, until it is back: a process that takes the place of a lost one finds it here."""

    def __init__(self) -> None:
        self._held, self._tries = dict[int, tuple[list[ProductOffer], int]](), Counter[int]()
        self._sent, self._ended, self._news = 0, False, asyncio.Condition()

    async def put(self, number: int, offers: list[ProductOffer], left: int) -> None:
        async with self._news:
            self._held[number], self._sent = (offers, left), number + 1
            self._news.notify_all()

    async def end(self) -> None:
        async with self._news:
            self._ended = True
            self._news.notify_all()

    async def has(self, number: int) -> bool:
        """Waits for it; False behind the last."""
        async with self._news:
            await self._news.wait_for(lambda: number < self._sent or self._ended)
            return number < self._sent

    async def begin(self, number: int) -> tuple[list[ProductOffer], int, int]:
        """The offers, what may be tried again, and how often this was begun."""
        self._tries[number] += 1
        offers, left = self._held.get(number, ([], 0))  # dropped: the process was lost after it had answered
        return offers, left, self._tries[number]

    async def drop(self, number: int) -> None:
        del self._held[number], self._tries[number]


@dataclass(frozen=True)
class Cluster:
    """How chunks are extracted (`extractor.batch.Extract`): by `engines` actors, at least and at most, of `cpus` and `gpus`.
    `address` is `local`, `auto` or HOST:PORT, as `ray.init` takes it; a process that is connected already stays so."""

    address: str
    engines: tuple[int, int] = (1, 4)
    cpus: float = 1
    gpus: float = 0

    def __call__(
        self, chunks: Iterator[Chunk], opened: Opened, budget: Budget, say: Say, patience: float
    ) -> Generator[Chunk]:
        """Raises what extracting raises, InputError where there is no such cluster, EngineError where Ray gives up."""
        with _connected(self.address) as ray:
            say(self._resources(ray))
            here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
            feed = ray.remote(Feed).options(num_cpus=0, label_selector=here).remote()
            with closing(iter(self._answers(ray, feed, opened, patience))) as answers:
                try:
                    yield from self._forward(ray, chunks, feed, answers, budget)
                except ray.exceptions.RayError as error:
                    raise EngineError(f"Ray gave up, and the job can go on later: {error}") from error

    def _forward(
        self, ray: Any, chunks: Iterator[Chunk], feed: Any, answers: Iterator[Any], budget: Budget
    ) -> Iterator[Chunk]:
        under_way: deque[Chunk] = deque()  # in the order of the input
        sent: dict[int, Chunk] = {}
        numbers = count()
        while True:
            while len(under_way) < WINDOW * self.engines[1] and (chunk := next(chunks, None)):
                under_way.append(chunk)
                if chunk.fresh:
                    sent[number := next(numbers)] = chunk
                    ray.get(feed.put.remote(number, chunk.offers, budget.left))  # calls alone may overtake each other
            if not under_way:
                break
            if under_way[0].complete:
                yield under_way.popleft()
                continue
            (row,) = next(answers).to_pylist()
            number, answer = row["number"], pickle.loads(row["answer"])
            feed.drop.remote(number)
            for reason in answer.reasons:
                budget.spend(reason)
            if answer.error:
                raise answer.error
            sent.pop(number).take(answer.outcomes, answer.seconds)
        feed.end.remote()
        if next(numbers):  # the dataset has begun
            next(answers, None)

    def _resources(self, ray: Any) -> str:
        have = ray.cluster_resources()
        cores, gpus = have.get("CPU", 0), have.get("GPU", 0)
        if self.address == "local" and (self.cpus > cores or self.gpus > gpus):  # Ray would wait for more of them
            raise InputError(f"--cpus {self.cpus:g} --gpus {self.gpus:g}: this machine has {cores:g} and {gpus:g}")
        return f"Ray with {cores:g} cores and {gpus:g} GPUs"

    def _answers(self, ray: Any, feed: Any, opened: Opened, patience: float) -> Any:
        least, most = self.engines
        dataset = ray.data.read_datasource(_source(ray, feed), num_cpus=0, override_num_blocks=1).map_batches(
            Worker,
            fn_constructor_args=(feed, opened, patience),
            batch_size=1,
            batch_format="pyarrow",
            # One that is extracted, and one that is there when it is done.
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most, max_tasks_in_flight_per_actor=2),
            num_cpus=self.cpus,
            num_gpus=self.gpus,
        )
        context = dataset.context
        context.target_max_block_size = 1  # a block for each number: it goes on at once
        context.execution_no_progress_timeout_s = -1  # how long an engine may take is not Ray's to say
        context.enable_progress_bars = context.print_on_execution_start = False
        # A batch that is fetched ahead would be held back until the next is there.
        return dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def _source(ray: Any, feed: Any) -> Any:
    """Numbers, as the feed has them."""
    import pyarrow as pa

    def read() -> Iterator[pa.Table]:
        for number in takewhile(lambda n: ray.get(feed.has.remote(n)), count()):
            yield pa.table({"number": [number]})

    class Numbers(ray.data.Datasource):  # type: ignore[misc]
        supports_distributed_reads = False  # but here, beside the feed

        def estimate_inmemory_data_size(self) -> None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            unknown = dict.fromkeys(("num_rows", "size_bytes", "input_files", "exec_stats"))
            return [ray.data.ReadTask(read, ray.data.block.BlockMetadata(**unknown))]

    return Numbers()


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else it warns of its own future
    try:
        import ray
        import ray.data
    except ModuleNotFoundError as error:
        raise MissingExtraError("ray", "ray") from error
    if address.startswith("ray://"):
        raise InputError(
            f"--ray {address}: a job runs on a node of its cluster; give --ray auto there, or from afar: "
            "ray job submit -- shelfwise batch run … --ray auto"
        )
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", "The minimum number of concurrent actors", module="ray"
    )  # for fewer chunks than that
    if ray.is_initialized():
        yield ray
        return
    host, _, port = address.rpartition(":")
    try:
        if host:  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(address, include_dashboard=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(
            f"--ray {address}: no cluster there: {error}; `local` starts one for this job, `ray start --head` one that stays"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()
