"""The chunks of jobs through the engine that requests share."""

import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from threading import Event

from extractor.batch import Budget, Extract, Say
from extractor.chunks import Chunk
from extractor.engines.scripted import ScriptedEngine
from extractor.extract import Extractor, OwnOffer
from extractor.schema import AttributeSchema
from extractor.service.batching import Batcher
from extractor.service.tickets import NotReady, QueueFull, Record, Ticket
from extractor.workshop import Opened, Outcome, outcome_of

AHEAD = 3  # chunks of a job that are with the engine or wait for it, so that it need not wait for the disk
TICK = 0.2  # seconds between two looks at whether the job should stop
AGAIN = 2.0  # … at an engine that is down


class Stopped(Exception):
    """The job is to end here. What the engine had begun with has been waited for."""


@dataclass
class _Asked:
    """A chunk on its way: by their places among its offers, what takes no engine; and the others."""

    chunk: Chunk
    known: dict[int, Outcome]
    offers: list[OwnOffer]
    ticket: Ticket


def shared(batcher: Batcher, schemas: Sequence[AttributeSchema], prompter: Extractor, stop: Event) -> Extract:
    """Each offer is asked by its schema among these, whatever is served by now; one without a category gets that of its schema.
    `prompter` writes for dead letters what was asked. Waits for room in the queue, and for an engine that is down; raises Stopped
    once `stop` is set."""
    choosing = Extractor(ScriptedEngine(), schemas)

    def extract(chunks: Iterator[Chunk], opened: Opened, budget: Budget, say: Say, patience: float) -> Generator[Chunk]:
        ahead: deque[_Asked] = deque()
        begun = time.monotonic()
        try:
            while True:
                while len(ahead) < AHEAD and not stop.is_set() and (chunk := next(chunks, None)):
                    ahead.append(_ask(batcher, choosing, chunk, stop, say))
                if not ahead:
                    break
                asked = ahead[0]
                records = _answered(batcher, asked, stop, say)
                made = (outcome_of(prompter, o, r, 1) for o, r in zip(asked.offers, records, strict=True))
                places = range(len(asked.known) + len(asked.offers))
                chunk, now = ahead.popleft().chunk, time.monotonic()
                chunk.take([asked.known[p] if p in asked.known else next(made) for p in places], now - begun)
                begun = now
                yield chunk
        finally:
            for asked in ahead:
                batcher.forget(asked.ticket)
        if stop.is_set():
            raise Stopped

    return extract


def _ask(batcher: Batcher, choosing: Extractor, chunk: Chunk, stop: Event, say: Say) -> _Asked:
    known: dict[int, Outcome] = {}
    own: list[OwnOffer] = []
    for place, offer in enumerate(chunk.offers):
        if (schema := choosing.schema_for(offer)) is None:
            known[place] = Outcome(choosing.extract([offer])[0], 1)  # a failure, which says so
        else:
            named = vars(offer) | {"category": offer.category or schema.category}
            own.append(OwnOffer(**named, asked_by=schema))
    return _Asked(chunk, known, own, _submitted(batcher, own, stop, say))


def _submitted(batcher: Batcher, offers: list[OwnOffer], stop: Event, say: Say) -> Ticket:
    while True:
        try:
            return batcher.submit(offers)
        except QueueFull as full:
            pause = float(full.seconds)
        except NotReady as error:
            say(str(error))
            pause = AGAIN
        if stop.wait(pause):
            raise Stopped


def _answered(batcher: Batcher, asked: _Asked, stop: Event, say: Say) -> list[Record]:
    while True:
        while not asked.ticket.done.done():
            if stop.is_set() and not asked.ticket.taken:
                raise Stopped
            wait([asked.ticket.done], TICK)
        try:
            return asked.ticket.done.result()
        except NotReady as error:
            say(str(error))
            if stop.wait(AGAIN):
                raise Stopped from error
            asked.ticket = _submitted(batcher, asked.offers, stop, say)
