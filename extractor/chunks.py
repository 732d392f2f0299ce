"""The rows of a job on their way: a chunk is prepared where the job is, extracted wherever an engine is, and becomes a part."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from extractor.job import DeadLetter, Job, Part
from extractor.records import Extraction, Failure, ProductOffer
from extractor.schema import category_key
from extractor.workshop import Outcome

Row = ProductOffer | Failure
ASKED = ("engine", "grounding", "k", "choice", "order", "known", "truncate")  # settings that a record depends on


class Item(NamedTuple):
    """A row of the input with its number, from 0, and how often it was tried in vain."""

    number: int
    row: Row
    tried: int = 0


@dataclass(eq=False)
class Chunk:
    """Rows on their way; `fraction` of the input was read with them. By their places here: what is `made` of them, which are
    `fresh`, to be extracted in `seconds`, and their `twins`: the chunk and the place where the same offer is extracted."""

    items: list[Item]
    fraction: float
    keys: dict[int, bytes | None] = field(default_factory=dict)
    made: dict[int, Outcome] = field(default_factory=dict)
    fresh: list[int] = field(default_factory=list)
    twins: dict[int, tuple["Chunk", int]] = field(default_factory=dict)
    seconds: float = 0.0
    settled: bool = False

    @property
    def offers(self) -> list[ProductOffer]:
        """Those to be extracted."""
        return [row for row in (self.items[place].row for place in self.fresh) if isinstance(row, ProductOffer)]

    @property
    def complete(self) -> bool:
        return all(place in self.made for place in self.fresh)

    def take(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """What came of `offers`."""
        self.made |= zip(self.fresh, outcomes, strict=True)
        self.seconds = seconds


KeyOf = Callable[[ProductOffer], bytes | None]


def key_maker(job: Job) -> KeyOf:
    """A record's key is of all that it depends on; without a schema there is none."""
    prints = job.manifest.prints
    schemas = {category_key(n.removeprefix("schema")): p for n, p in prints.items() if n.startswith("schema")}
    only = next(iter(schemas.values())) if len(schemas) == 1 else None
    about = {n: p for n, p in prints.items() if not n.startswith(("input ", "schema"))}
    asked = {name: job.manifest.settings.get(name) for name in ASKED}
    start = hashlib.blake2b(json.dumps([about, asked], sort_keys=True).encode(), digest_size=16)

    def key(offer: ProductOffer) -> bytes | None:
        schema = only or schemas.get(category_key(offer.category))
        if schema is None:
            return None
        content = start.copy()
        content.update(json.dumps([schema, offer.category, offer.title, offer.description]).encode())
        return content.digest()

    return key


def prepared(chunks: Iterator[Chunk], known: Sequence[Job], key_of: KeyOf) -> Iterator[Chunk]:
    """The same; of offers that are equal and under way, the first is extracted."""
    under_way: dict[bytes, tuple[Chunk, int]] = {}
    for chunk in chunks:
        under_way = {key: at for key, at in under_way.items() if not at[0].settled}
        for place, (_, row, _) in enumerate(chunk.items):
            if isinstance(row, Failure):
                chunk.made[place] = Outcome(row, 1)
                continue
            key = chunk.keys[place] = key_of(row)
            if key is not None and key in under_way:
                chunk.twins[place] = under_way[key]
            elif key is not None and (found := next(filter(None, (job.find(key) for job in known)), None)):
                chunk.made[place] = Outcome(_renamed(found, row), 0)
            else:
                chunk.fresh.append(place)
                if key is not None:
                    under_way[key] = chunk, place
        yield chunk


def part_of(chunk: Chunk) -> Part:
    """What came of the rows of a chunk: records, and dead letters with what was asked."""
    for place, (other, there) in chunk.twins.items():
        record, attempts, prompt = other.made[there]
        chunk.made[place] = Outcome(_renamed(record, chunk.items[place].row), attempts, prompt)
    part = Part(seconds=chunk.seconds)
    for place, (number, _, tried) in enumerate(chunk.items):
        record, attempts, prompt = chunk.made[place]
        part.rows += not tried
        if isinstance(record, Extraction):
            part.records.append(record)
            part.keys.append(chunk.keys[place])
            part.answered += [number] if tried else []
        else:
            part.dead.append(DeadLetter(row=number, attempts=tried + attempts, failure=record, prompt=prompt))
    extracted = (chunk.made[place].record for place in chunk.fresh)
    part.usage = [record.usage for record in extracted if isinstance(record, Extraction)]
    part.reused = len(part.records) - len(part.usage)
    return part


def _renamed(record: Extraction | Failure, row: Row) -> Extraction | Failure:
    return record.model_copy(update={"offer_id": row.id if isinstance(row, ProductOffer) else row.offer_id})
