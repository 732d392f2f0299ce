"""The schemas that offers are asked by now: those of the files that the service was started with, or their newest versions in the
store, whichever process saved them. Readers never wait: a thread looks for what is new."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Event, Lock, Thread

from extractor.definitions import Definitions, Version, read_schema, readable, unsaved, written
from extractor.errors import ShelfwiseError
from extractor.schema import AttributeSchema, category_key
from extractor.service.observe import log

AGAIN = 2.0  # seconds between two looks


@dataclass(frozen=True)
class Defined:
    schema: AttributeSchema
    version: Version


class CurrentSchemas:
    """`follow` is told of the schemas whenever they change."""

    def __init__(
        self,
        files: Sequence[AttributeSchema],
        definitions: Definitions,
        follow: Callable[[Sequence[AttributeSchema]], None],
    ) -> None:
        self._definitions, self._follow = definitions, follow
        self.files = {category_key(s.category): _of_file(s) for s in files}
        self._newest = dict(self.files)
        self._unreadable: set[tuple[str, int]] = set()
        self._lock, self._end = Lock(), Event()
        self._thread = Thread(target=self._work, name="shelfwise-schemas", daemon=True)
        self.look()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def all(self) -> list[Defined]:
        """In the order of the files, then those that have none."""
        return list(self._newest.values())

    def of(self, category: str | None) -> Defined | None:
        return self._newest.get(category_key(category))

    def serving(self, category: str | None) -> AttributeSchema | None:
        """What an offer of the category is asked by. A single schema that the service was started with serves all offers that no
        other does."""
        found = self.of(category)
        if found is None and len(self.files) == 1:
            found = self._newest[next(iter(self.files))]
        return found.schema if found else None

    def version(self, category: str, number: int) -> Defined | None:
        key = category_key(category)
        if number == 0:
            return self.files.get(key)
        found = self._definitions.read("schema", key, number)
        return Defined(read_schema(found), found) if found else None

    def look(self) -> None:
        """Raises StorageError. A version that a newer program saved is passed over."""
        with self._lock:
            newest = dict(self._newest)
            for name, number in sorted(self._definitions.numbers("schema").items()):
                known = newest.get(name)
                if (known and known.version.number >= number) or (name, number) in self._unreadable:
                    continue
                saved = readable(self._definitions.versions("schema", name))
                found = next((Defined(schema, version) for schema, version in saved), known)
                if found and (known is None or found.version.number > known.version.number):
                    newest[name] = found
                if found is None or found.version.number < number:
                    self._unreadable.add((name, number))
                    log.warning("a version of a schema cannot be read; the one before it stays")
            if newest.keys() != self._newest.keys() or any(newest[n] is not self._newest[n] for n in newest):
                self._newest = newest
                self._follow([defined.schema for defined in newest.values()])

    def _work(self) -> None:
        reached = True
        while not self._end.wait(AGAIN):
            try:
                self.look()
                reached = True
            except ShelfwiseError:
                if reached:
                    log.warning("the store cannot be reached: schemas stay as they are")
                reached = False


def _of_file(schema: AttributeSchema) -> Defined:
    return Defined(schema, unsaved(category_key(schema.category), 0, written(schema)))
