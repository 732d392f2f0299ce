"""Offers of many clients, gathered for one engine.

One thread owns the engine. A request waits as a `Ticket`; each round takes a share of every ticket that waits, so that a
thousand offers of one client do not hold up the single offer of another. An engine that dies is started again by the same
`Workshop` that jobs use, and what breaks a call becomes a Failure alone.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Condition, Thread

from extractor.errors import EngineError, ShelfwiseError, public
from extractor.records import ProductOffer
from extractor.service.tickets import Batch, NotReady, QueueFull, Reopening, Slice, Ticket
from extractor.workshop import Opened, Workshop

AGAIN = 5.0  # seconds between two looks at an engine that is down
TURN = 1.0  # seconds that a round should take, so that a job holds nobody up for longer
FIRST, LEAST = 64, 16  # offers of the first round, and of one however long it takes, at most
LONGEST = 60  # seconds that a client is asked to stay away, at most


class Batcher:
    """`opened` starts the extractor. A round has at most `most` offers, about as many as the engine answers in TURN seconds, and
    begins `window` seconds after the first of them came; `bound` offers may wait. `seen` is told of every round, `say` hears why
    the engine is started again, `spend` of each repeated call; all three in the engine's thread. `patience` is how many seconds a
    vLLM server may stay away."""

    def __init__(
        self,
        opened: Opened,
        *,
        most: int = 256,
        window: float = 0.01,
        bound: int = 4096,
        patience: float = 5.0,
        seen: Callable[[Batch], None] = lambda batch: None,
        say: Callable[[str], None] = lambda message: None,
        spend: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self._most, self._window, self._bound, self._seen, self._say = most, window, bound, seen, say
        self._workshop = Workshop(opened, spend, say, patience, public)
        self._changed = Condition()
        self._queue: OrderedDict[Ticket, None] = OrderedDict()  # who has waited longest for a share comes first
        self._closing = False
        self._reopening: Reopening | None = None
        self._room = min(most, FIRST)  # offers of the next round, at most
        self._rate = 0.0  # offers/s, of the rounds so far, the last ones most
        self._thread = Thread(target=self._work, name="shelfwise-engine", daemon=True)
        self.started: Future[None] = Future()  # of the first look at the engine: its error, if there was one
        self.waiting = self.extracting = 0
        self.ready = False
        self.broken = ""  # why no engine answers

    @property
    def answering(self) -> bool:
        return self.ready and not self._closing

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def submit(self, offers: Sequence[ProductOffer]) -> Ticket:
        """Raises QueueFull, or NotReady where no engine answers. More offers than may wait are taken when nobody waits."""
        with self._changed:
            if self._closing:
                raise NotReady(
                    "the service is being stopped; send the request again, to another instance if there is one"
                )
            if not self.ready:
                raise NotReady(f"the engine does not answer: {self.broken or 'it starts'}; try again")
            if self.waiting and self.waiting + len(offers) > self._bound:
                raise QueueFull(
                    f"{self.waiting} offers wait, and at most {self._bound} may; try again when Retry-After has passed",
                    self._wait(),
                )
            ticket = Ticket(offers, [None] * len(offers), time.monotonic())
            ticket.done.set_running_or_notify_cancel()  # so that nobody can cancel it under the engine's thread
            if offers:
                self._queue[ticket] = None
                self.waiting += len(offers)
                self._changed.notify()
            else:
                ticket.done.set_result([])
            return ticket

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for it any more: its offers that wait give up their places."""
        with self._changed:
            self._leave(ticket)

    def reopen(self, category: str | None, otherwise: Callable[[], None]) -> "Future[None]":
        """Start the engine again between two rounds, as `opened` starts it now. It is done when an offer of this category is
        extracted; where that fails it has that error, once `otherwise` was called. Who waits goes on waiting, who comes is
        refused. Raises NotReady where no engine answers, or another reopening is under way."""
        with self._changed:
            if self._closing or not self.ready:
                raise NotReady(f"the engine does not answer: {self.broken or 'it starts'}; try again")
            self._reopening, self.ready, self.broken = Reopening(category, otherwise), False, ""
            self._changed.notify_all()
            return self._reopening.done

    def drain(self) -> None:
        """Take no more, and answer NotReady to whom the engine has not begun with."""
        with self._changed:
            self._closing = True
            for ticket in [t for t in self._queue if not t.taken]:
                self._refuse(
                    ticket, NotReady("the service was stopped before the engine came to this request; send it again")
                )
            self._changed.notify()

    def close(self) -> None:
        """Returns when the engine has finished with what was begun, and is closed."""
        self.drain()
        if self._thread.ident is not None:
            self._thread.join()

    def _wait(self) -> int:
        if not self._rate:
            return 1
        return max(1, min(LONGEST, math.ceil((self.waiting + self.extracting) / self._rate)))

    def _leave(self, ticket: Ticket) -> None:
        if ticket in self._queue:
            del self._queue[ticket]
            self.waiting -= ticket.waiting

    def _refuse(self, ticket: Ticket, error: ShelfwiseError) -> None:
        self._leave(ticket)
        if not ticket.done.done():
            ticket.done.set_exception(error)

    def _work(self) -> None:
        try:
            with self._workshop:
                while not (self._closing and not self._queue):
                    if self._reopening:
                        self._reopen(self._reopening)
                    if not self.ready:
                        self._look()
                    if slices := self._next():
                        self._round(slices)
        finally:
            if self._reopening:
                self._reopening.otherwise()
                self._reopening.end(NotReady("the service ends; do it again once it is there"))
            if not self.started.done():
                self.started.set_exception(EngineError("the engine did not start"))
            with self._changed:
                self._closing = True
                for ticket in list(self._queue):
                    self._refuse(ticket, NotReady("the service ends; send the request again"))

    def _reopen(self, asked: Reopening) -> None:
        self._workshop.close()
        error: Exception | None = None
        try:
            self._workshop.probe(asked.category)
        except Exception as broken_by:  # noqa: BLE001  # whatever it is, what was served before is served again
            error = broken_by
            self._say(f"the engine is started as it was before: {error}")
            asked.otherwise()
            self._workshop.close()
        self._reopening = None
        try:
            self._look()
        finally:
            asked.end(error)

    def _look(self) -> None:
        """The engine answers when it has extracted an offer."""
        try:
            self._workshop.probe()
        except ShelfwiseError as error:
            self.broken = public(error)
            if not self.started.done():
                self.started.set_exception(error)
        else:
            self.ready, self.broken = True, ""
            if not self.started.done():
                self.started.set_result(None)

    def _next(self) -> list[Slice]:
        """The slices of the next round; none where the engine should be looked at, or all is done."""
        with self._changed:
            if self._reopening:
                return []
            if not self.ready:
                self._changed.wait_for(lambda: self._closing, AGAIN)
                return []
            self._changed.wait_for(lambda: self._closing or self._queue or self._reopening)
            if self._queue:
                ripe = min(t.arrived for t in self._queue) + self._window
                self._changed.wait_for(
                    lambda: self._closing or self._reopening or self.waiting >= self._room,
                    max(0.0, ripe - time.monotonic()),
                )
            return [] if self._reopening else self._taken()

    def _taken(self) -> list[Slice]:
        slices: list[Slice] = []
        room = most = self._room
        while room and self._queue:
            ticket, _ = self._queue.popitem(last=False)
            n = min(ticket.waiting, max(1, room // (len(self._queue) + 1)))
            slices.append(Slice(ticket, ticket.taken, ticket.taken + n))
            ticket.taken += n
            room -= n
            if ticket.waiting:
                self._queue[ticket] = None
        self.extracting = most - room
        self.waiting -= self.extracting
        return slices

    def _round(self, slices: list[Slice]) -> None:
        offers = [offer for s in slices for offer in s.ticket.offers[s.begin : s.end]]
        begun = time.monotonic()
        try:
            extractor = self._workshop.extractor
            records = [outcome.record for outcome in self._workshop.extract(offers)]
        except ShelfwiseError as error:
            self._lost(slices, error)
            return
        except BaseException:
            self._lost(slices, EngineError("the service made a mistake, and has to be started again"))
            raise
        seconds = time.monotonic() - begun
        rate = len(offers) / max(seconds, 1e-6)
        self._rate = 0.8 * self._rate + 0.2 * rate if self._rate else rate
        self._fit(len(offers), seconds)
        self.extracting = 0
        answers = iter(records)
        for s in slices:
            s.ticket.records[s.begin : s.end] = [next(answers) for _ in range(s.begin, s.end)]
            if s.end == len(s.ticket.offers) and not s.ticket.done.done():
                s.ticket.done.set_result([r for r in s.ticket.records if r is not None])
        self._seen(Batch(extractor, offers, records, seconds))

    def _fit(self, offers: int, seconds: float) -> None:
        """The next round by how long this one took: more offers at once take less time each, so one that was not full says
        nothing about larger ones."""
        fitting = round(offers * TURN / max(seconds, 1e-6))
        if offers == self._room:
            self._room = min(fitting, 2 * self._room)
        elif seconds > TURN:
            self._room = min(fitting, self._room)
        self._room = min(self._most, max(LEAST, self._room))

    def _lost(self, slices: list[Slice], error: ShelfwiseError) -> None:
        """No engine could be started, or the server stayed away: whoever waits should not wait for it."""
        with self._changed:
            self.ready, self.broken, self.extracting = False, public(error), 0
            self._say(f"no engine answers: {self.broken}")
            lost = NotReady(f"the engine does not answer: {self.broken}; try again")
            for ticket in dict.fromkeys([*(s.ticket for s in slices), *self._queue]):
                self._refuse(ticket, lost)
