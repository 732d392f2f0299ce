"""Labelled offers as examples in the prompt: checked, then chosen per offer.

Demonstrations come from a training split only: an offer never demonstrates itself.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from random import Random
from typing import Literal

from extractor.errors import DemonstrationError
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import Attribute, AttributeSchema, category_key, schema_of

Choice = Literal["similar", "fixed", "random"]
Order = Literal["last", "first"]

_WORD = re.compile(r"[^\W\d_]+|\d+|[\u3400-\u9fff]")


class DemonstrationPool:
    """Labelled offers to choose from. `k` of the offer's category reach each prompt.

    `choice`: "similar", by cosine of word counts weighted by inverse document frequency (Spärck Jones 1972); "fixed", the
    first k; "random", drawn by `seed` and the offer's id. `order`: where the most similar one stands.
    """

    def __init__(
        self,
        offers: Iterable[LabelledOffer],
        k: int = 5,
        choice: Choice = "similar",
        seed: int = 0,
        order: Order = "last",
    ) -> None:
        self.k, self.choice, self.seed, self.order = k, choice, seed, order
        self._by_category: dict[str, list[LabelledOffer]] = {}
        for offer in offers:
            self._by_category.setdefault(category_key(offer.category), []).append(offer)
        self._vectors = {key: _Vectors(members) for key, members in self._by_category.items()}
        self._fitting = lru_cache(maxsize=256)(self._fit)

    def choose(self, offer: ProductOffer, schema: AttributeSchema) -> list[LabelledOffer]:
        key = category_key(schema.category or offer.category)
        pool = [d for d in self._fitting(key, schema) if d.id != offer.id and d.title != offer.title]
        if not pool or self.k < 1:
            return []
        match self.choice:
            case "fixed":
                return pool[: self.k]
            case "random":
                return Random(f"{self.seed}:{offer.id}").sample(pool, min(self.k, len(pool)))
        ranked = self._vectors[key].nearest(offer, pool, self.k)
        return ranked if self.order == "first" else ranked[::-1]

    def of(self, category: str | None) -> list[LabelledOffer]:
        return self._by_category.get(category_key(category), [])

    def _fit(self, key: str, schema: AttributeSchema) -> list[LabelledOffer]:
        """Those whose labels the schema can still hold: it may be younger than they are."""
        kinds = {a.name: a for a in schema.attributes if a.type != "text"}
        return [
            d
            for d in self._by_category.get(key, [])
            if not any(_problem(kinds[n], v, d) for n, vs in d.attributes.items() if n in kinds for v in vs)
        ]


class _Vectors:
    def __init__(self, offers: Sequence[LabelledOffer]) -> None:
        counts = {o.id: _words(o) for o in offers}
        frequency = Counter(word for words in counts.values() for word in words)
        self._idf = {word: math.log(1 + len(offers) / n) for word, n in frequency.items()}
        self._weights = {identity: self._weighted(words) for identity, words in counts.items()}

    def _weighted(self, words: Counter[str]) -> dict[str, float]:
        weights = {w: n * self._idf[w] for w, n in words.items() if w in self._idf}
        norm = math.sqrt(sum(x * x for x in weights.values())) or 1.0
        return {w: x / norm for w, x in weights.items()}

    def nearest(self, offer: ProductOffer, pool: list[LabelledOffer], k: int) -> list[LabelledOffer]:
        query = self._weighted(_words(offer))

        def similarity(candidate: LabelledOffer) -> float:
            weights = self._weights[candidate.id]
            return sum(x * weights.get(w, 0.0) for w, x in query.items())

        return sorted(pool, key=similarity, reverse=True)[:k]


def _words(offer: ProductOffer) -> Counter[str]:
    return Counter(w.casefold() for text in offer.texts().values() for w in _WORD.findall(text))


def check_demonstrations(offers: Sequence[LabelledOffer], schemas: Sequence[AttributeSchema]) -> None:
    """Raise DemonstrationError, naming up to five values that stand neither in their offer nor in a vocabulary."""
    problems = [
        f"{offer.id}: {attribute}: {reason}" for offer in offers for attribute, reason in contradictions(offer, schemas)
    ]
    if problems:
        shown = "\n  ".join(problems[:5])
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DemonstrationError(f"demonstrations contradict their own text:\n  {shown}{more}")


def contradictions(offer: LabelledOffer, schemas: Sequence[AttributeSchema]) -> list[tuple[str, str]]:
    """The attributes of an offer with a value that no extraction could give, each with the reason. Attributes that are not
    asked for are never shown, hence not checked."""
    schema = schema_of(offer.category, schemas)
    return [
        (attribute.name, reason)
        for attribute in (schema.attributes if schema else ())
        for value in offer.attributes.get(attribute.name, ())
        if (reason := _problem(attribute, value, offer))
    ]


def check_leaks(demonstrations: Iterable[LabelledOffer], offers: Iterable[ProductOffer]) -> None:
    """Raise DemonstrationError where a demonstration is one of the offers that it shall help to evaluate."""
    for d, found in leaks(demonstrations, offers):
        raise DemonstrationError(
            f"demonstration {d.id!r} is the evaluated offer {found!r}; take demonstrations from a training split"
        )


def leaks(
    demonstrations: Iterable[LabelledOffer], offers: Iterable[ProductOffer]
) -> Iterator[tuple[LabelledOffer, str]]:
    """The demonstrations that have the id or the title of one of the offers, with the id of that offer."""
    evaluated = {text: o.id for o in offers for text in (o.id, o.title.strip().casefold()) if text}
    for d in demonstrations:
        if found := evaluated.get(d.id) or evaluated.get(d.title.strip().casefold()):
            yield d, found


def _problem(attribute: Attribute, value: str, offer: LabelledOffer) -> str:
    match attribute.type:
        case "enum":
            return "" if value in attribute.values else f"{value!r} is not among {list(attribute.values)}"
        case "number":
            return "" if re.fullmatch(r"-?\d+(\.\d+)?", value) else f"{value!r} is not a number"
        case "boolean":
            return "" if value in ("true", "false") else f"{value!r} is neither true nor false"
    return "" if any(value in text for text in offer.texts().values()) else f"{value!r} is not in the offer's text"
