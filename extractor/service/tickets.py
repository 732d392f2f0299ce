"""What waits for the engine, and what it says to those for whom there is no place.

A request waits as a `Ticket`; a `Slice` of it is what one round takes."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from extractor.errors import EngineError, ShelfwiseError
from extractor.extract import Extractor
from extractor.records import Extraction, Failure, ProductOffer

Record = Extraction | Failure


class QueueFull(ShelfwiseError):
    """More offers wait than may; `seconds` until there is room, by the measured rate."""

    retryable = True

    def __init__(self, message: str, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class NotReady(EngineError):
    """No engine answers now: it starts, is started again, or the service ends."""

    retryable = True


@dataclass(eq=False)
class Ticket:
    """The offers of one request: the first `taken` are with the engine or answered, by their places in `records`."""

    offers: Sequence[ProductOffer]
    records: list[Record | None]
    arrived: float
    done: "Future[list[Record]]" = field(default_factory=Future)
    taken: int = 0

    @property
    def waiting(self) -> int:
        return len(self.offers) - self.taken


@dataclass(frozen=True)
class Batch:
    """What one round was worth: `seconds` in the engine for these offers."""

    extractor: Extractor
    offers: Sequence[ProductOffer]
    records: Sequence[Record]
    seconds: float


@dataclass(frozen=True)
class Reopening:
    """The engine is to start again, and to extract an offer of the category; `otherwise` puts back what keeps it from that."""

    category: str | None
    otherwise: Callable[[], None]
    done: "Future[None]" = field(default_factory=Future)

    def end(self, error: Exception | None) -> None:
        self.done.set_exception(error) if error else self.done.set_result(None)


@dataclass(frozen=True)
class Slice:
    ticket: Ticket
    begin: int
    end: int
