"""Known values as memory: those that stand in an offer's text go into its prompt, beside their attribute.

They come from a schema's `vocabulary` and from labelled offers. A model learns, or is told, when to believe them: a known value
is often right and sometimes the word of another attribute.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from typing import Self

from ahocorasick_rs import AhoCorasick

from extractor.grounding import singular, whole
from extractor.records import LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema, category_key

MOST = 4  # known values of one attribute that a prompt shows


class Vocabulary:
    """Known values of the attributes of each category, matched without case as whole words, or before the s of a plural.

    A labelled offer's own values are no knowledge about that offer: they are left out, unless another offer or the schema has
    them too, so that no offer is answered, and no demonstration shown, by its own labels.
    """

    def __init__(self, schemas: Iterable[AttributeSchema] = (), labelled: Iterable[LabelledOffer] = ()) -> None:
        self._values: dict[str, dict[str, Counter[str]]] = {}  # category -> lower-case value -> attribute -> its uses
        self._own: dict[str, Mapping[str, list[str]]] = {}  # id and title of a labelled offer -> its labels
        self._schemas: dict[str, dict[str, tuple[str, ...]]] = {}  # category -> what its schema knows
        self._labelled: dict[str, list[LabelledOffer]] = {}
        for schema in schemas:
            self._schemas[category_key(schema.category)] = vocabularies(schema)
        for offer in labelled:
            self._own[offer.id] = self._own[offer.title] = offer.attributes
            self._labelled.setdefault(category_key(offer.category), []).append(offer)
        self._matchers: dict[str, tuple[list[str], AhoCorasick]] = {}
        for category in self._schemas.keys() | self._labelled.keys():
            self._learn(category)

    def revised(self, schema: AttributeSchema) -> Self:
        """The same, but that the category of this schema has this one's values in the place of those of the schema before it."""
        category, known = category_key(schema.category), vocabularies(schema)
        if self._schemas.get(category, {}) == known:
            return self
        other = copy(self)
        other._values, other._matchers = dict(self._values), dict(self._matchers)
        other._schemas = self._schemas | {category: known}
        other._learn(category)
        return other

    def _learn(self, category: str) -> None:
        self._values.pop(category, None)
        self._matchers.pop(category, None)
        for name, words in self._schemas.get(category, {}).items():
            self._enter(category, name, words)
        for offer in self._labelled.get(category, ()):
            for name, labels in offer.attributes.items():
                self._enter(category, name, labels)
        if values := list(self._values.get(category, ())):
            self._matchers[category] = values, AhoCorasick(values)

    def _enter(self, category: str, attribute: str, values: Iterable[str]) -> None:
        for value in {lowered(v.strip()) for v in values} - {""}:
            self._values.setdefault(category, {}).setdefault(value, Counter())[attribute] += 1

    def known(self, schema: AttributeSchema, offer: ProductOffer) -> dict[str, list[str]]:
        """Attribute -> its known values in the offer, as its text writes them: the longest first, none within another."""
        labels = self._own.get(offer.id) or self._own.get(offer.title) or {}
        own = Counter((name, lowered(v.strip())) for name, vs in labels.items() for v in set(vs))
        found: dict[str, list[str]] = {}
        # What is known without a category serves all.
        categories = {category_key(schema.category or offer.category), ""}
        for text in offer.texts().values():
            spans = {span for category in categories for span in self._spans(category, text)}
            for begin, end, name, uses in sorted(spans, key=lambda s: (s[0] - s[1], s)):
                value = lowered(text[begin:end])
                if uses > own[name, value] and not any(value in lowered(v) for v in found.get(name, ())):
                    found.setdefault(name, []).append(text[begin:end])
        return {a.name: found[a.name][:MOST] for a in schema.attributes if a.name in found}

    def _spans(self, category: str, text: str) -> Iterator[tuple[int, int, str, int]]:
        """Begin and end, attribute, and how often the value was entered."""
        if category in self._matchers:
            values, matcher = self._matchers[category]
            for i, begin, end in matcher.find_matches_as_indexes(lowered(text), overlapping=True):
                if whole(text, begin, end) or singular(text, begin, end):
                    yield from ((begin, end, name, n) for name, n in self._values[category][values[i]].items())


def vocabularies(schema: AttributeSchema) -> dict[str, tuple[str, ...]]:
    """The known values that a schema brings, of the attributes that have any."""
    return {a.name: a.vocabulary for a in schema.attributes if a.vocabulary}


def lowered(text: str) -> str:
    """Lower case, code point for code point: offsets into it are offsets into the text."""
    lower = text.lower()
    return lower if len(lower) == len(text) else "".join(c if len(c.lower()) > 1 else c.lower() for c in text)
