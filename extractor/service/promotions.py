"""Which adapter serves a category, changed while the service runs."""

from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any

from extractor.adapters import Registry
from extractor.errors import EngineError, InputError, StorageError
from extractor.journal import Journal
from extractor.schema import category_key
from extractor.service.batching import Batcher
from extractor.service.observe import log
from extractor.service.problems import Problem, retry
from extractor.service.tickets import NotReady


class Promotions:
    """`registry` is as it was when the engine was started last; `changed` hears that it is another one."""

    def __init__(
        self, registry: Registry | None, journal: Journal, batcher: Batcher, changed: Callable[[], None]
    ) -> None:
        self.registry, self._journal, self._batcher, self._changed = registry, journal, batcher, changed
        self._changing = Lock()

    def serving(self) -> dict[str, str]:
        """category -> reference of the adapter that serves it."""
        return self.registry.serving() if self.registry else {}

    def unbeaten(self, reference: str, category: str, scores: Mapping[str, Any]) -> list[str]:
        """What an adapter has not been found better than: rivals of its comparison, and what serves the category since."""
        compared = {reference, *(rival["name"] for rival in scores["rivals"])}
        serves = [r for c, r in self.serving().items() if category_key(c) == category and r not in compared]
        return [*scores["unbeaten"], *serves]

    def promote(self, who: str, reference: str, scores: Mapping[str, Any], reason: str | None) -> None:
        """Serve the categories of the adapter with it. Raises Problem; then all is as it was."""

        def change(registry: Registry) -> tuple[str, str]:
            adapter = registry.find(reference)
            evidence = {name: scores[name] for name in ("data", "offers", "f1", "rivals")}
            registry.promote(adapter, evidence, reason)
            return next(iter(adapter.card.schemas)) if adapter.card else "", reference

        self._change(change, who, "adapter promote", f": {reason}" if reason else "")

    def rollback(self, who: str, category: str) -> None:
        """Take back the last promotion of a category. Raises Problem; then all is as it was."""

        def change(registry: Registry) -> tuple[str, str]:
            name, _ = registry.rollback(category)
            return name, name

        self._change(change, who, "adapter rollback", "")

    def _change(self, change: Callable[[Registry], tuple[str, str]], who: str, what: str, more: str) -> None:
        if self.registry is None:
            detail = "there is no folder of adapters; start the service with --adapters FOLDER"
            raise Problem(409, "no-registry", "No adapters are served", detail)
        if not self._changing.acquire(blocking=False):
            raise Problem(409, "busy", "The engine is being started again", "try again in a minute", retry(30))
        try:
            registry = Registry(self.registry.root)
            before = list(registry.history)
            category, about = change(registry)

            def otherwise() -> None:
                try:
                    registry.restore(before)
                except StorageError:
                    log.exception(f"{registry.root}: a promotion could not be taken back")

            try:
                self._batcher.reopen(category or None, otherwise).result()
            except NotReady:
                otherwise()
                raise
            except (InputError, EngineError) as error:
                detail = f"{error}; what served before serves again"
                raise Problem(409, "not-opened", "The engine does not start with it", detail) from error
            self.registry = registry
            self._journal.note(who, what, about + more)
        finally:
            self._changed()
            self._changing.release()
