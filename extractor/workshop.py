"""An extractor that survives its engine and its offers, for jobs that must come to an end.

What breaks a call is halved until it stands alone, so that one poisonous offer takes none of its neighbours along; an engine that
died is started again; a server that is down is waited for.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import NamedTuple, Self, TypeVar

from extractor.errors import EngineError, EngineUnavailable, InputError, TemplateError
from extractor.extract import Extractor
from extractor.records import Extraction, Failure, FailureDetail, ProductOffer

Opened = Callable[[], AbstractContextManager[Extractor]]
T = TypeVar("T")
LONGEST_WAIT = 60.0  # seconds between two calls to a server that is down


class Outcome(NamedTuple):
    """What came of an offer, how often it was asked for and, of a failure, what was asked, if anything could be."""

    record: Extraction | Failure
    attempts: int
    prompt: list[dict[str, str]] | None = None


class Workshop:
    """`opened` starts an extractor with an engine, and again after that has died. `spend` is told why anything is tried again,
    and may raise; `say` hears what a person should know, of an error in the `word` that it has for them; `patience` is how many
    seconds a server may stay away."""

    def __init__(
        self,
        opened: Opened,
        spend: Callable[[str], None],
        say: Callable[[str], None],
        patience: float,
        word: Callable[[Exception], str] = str,
    ) -> None:
        self._opened, self._spend, self._say, self._patience, self._word = opened, spend, say, patience, word
        self._stack = ExitStack()
        self._extractor: Extractor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def extractor(self) -> Extractor:
        if self._extractor is None:
            self._extractor = self._patiently(lambda: self._stack.enter_context(self._opened()))
        return self._extractor

    def probe(self, category: str | None = None) -> None:
        """Raises EngineError where the engine extracts no offer of this category, and what starting it raises."""
        record = self.extract([_plain(self.extractor, category)])[0].record
        if isinstance(record, Failure) and record.failure.reason == "engine_error":
            raise EngineError(record.failure.message)

    def extract(self, offers: Sequence[ProductOffer], attempt: int = 1) -> list[Outcome]:
        """Raises InputError (TemplateError where the template stumbles over a plain offer too), EngineError where no engine
        starts, EngineUnavailable where a server stays away."""
        if not offers:
            return []
        extractor = self.extractor
        try:
            records = self._patiently(lambda: extractor.extract(offers))
            return [outcome_of(extractor, offer, r, attempt) for offer, r in zip(offers, records, strict=True)]
        except TemplateError as error:  # it stumbles over one of these offers, or over all that there are
            if attempt == 1:
                with suppress(EngineError):
                    extractor.extract([_plain(extractor)])
            died, reason = False, f"{type(error).__name__}: {error}"
        except (InputError, EngineUnavailable):
            raise
        except Exception as error:  # noqa: BLE001  # whatever one offer breaks must not take its neighbours along
            died, reason = isinstance(error, EngineError), f"{type(error).__name__}: {error}"
            said = f"{type(error).__name__}: {self._word(error)}"
        if died:
            self._say(f"the engine died, and is started again: {said}")
            self.close()
        if died and attempt == 1:  # engines die by chance too
            self._spend(reason)
            return self.extract(offers, attempt + 1)
        if len(offers) == 1:
            return [outcome_of(self.extractor, offers[0], broken(offers[0], reason), attempt)]
        self._spend(reason)
        middle = len(offers) // 2
        return self.extract(offers[:middle], attempt + 1) + self.extract(offers[middle:], attempt + 1)

    def _patiently(self, act: Callable[[], T]) -> T:
        """Waits for a server that is down, twice as long each time."""
        wait, waited = 1.0, 0.0
        while True:
            try:
                return act()
            except EngineUnavailable as error:
                if waited + wait > self._patience:
                    raise
                self._say(f"{self._word(error)}; trying again in {wait:.0f} s")
            time.sleep(wait)
            waited, wait = waited + wait, min(2 * wait, LONGEST_WAIT)

    def close(self) -> None:
        """Until the extractor is asked for again, which then is another one."""
        with suppress(Exception):  # it may not even close
            self._stack.close()
        self._extractor = None


def _plain(extractor: Extractor, category: str | None = None) -> ProductOffer:
    return ProductOffer(id="probe", title="probe", category=category or extractor.schemas[0].category)


def outcome_of(extractor: Extractor, offer: ProductOffer, record: Extraction | Failure, attempt: int) -> Outcome:
    asked = None
    if isinstance(record, Failure) and (schema := extractor.schema_for(offer)):
        with suppress(Exception):  # an offer may be poisonous to its own prompt
            asked = [{"role": m["role"], "content": m["content"]} for m in extractor.prompt(offer, schema)]
    return Outcome(record, attempt, asked)


def broken(offer: ProductOffer, reason: str) -> Failure:
    """The failure of an offer that the engine, or its prompt, breaks on."""
    return Failure(
        offer_id=offer.id,
        category=offer.category,
        title=offer.title,
        description=offer.description,
        failure=FailureDetail(reason="engine_error", message=reason),
    )
