"""Synthetic product offers with gold records, in unlimited number from a seed.

    python -m finetune corpus --n 3 --seed 7        # show a few

An *episode* is what a prompt needs: one schema and several labelled offers of its category, so that all but the last can
stand as demonstrations. The words are data (`lexicons/`, drawn by lexicon.py), the schemas are of slots.py, the texts of
sellers.py; this module joins them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from random import Random

from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema
from extractor.vocabulary import MOST
from finetune.lexicon import Lexicon, coined_word, draw, load_lexicon
from finetune.sellers import OfferBuilder, Seller
from finetune.slots import Slot, kin, kindred, other_kinds, slots_of

Values = dict[str, list[str]]  # of attributes


@dataclass(frozen=True)
class Episode:
    """`known`: by the id of an offer, the known values that its prompt shows, as `extractor.vocabulary` would find them."""

    schema: AttributeSchema
    offers: list[LabelledOffer]
    language: str
    known: dict[str, Values] = field(default_factory=dict)


def episode(rng: Random, n_offers: int, lexicon: Lexicon | None = None) -> Episode:
    """One schema and `n_offers` labelled offers of its category."""
    lexicon = lexicon or load_lexicon()
    chinese = rng.random() < 0.08
    category = rng.choice([c for c in lexicon.categories if (c.language == "zh") == chinese])
    kinds = [] if chinese else other_kinds(lexicon, rng, category, rng.choice((0, 0, 1, 2, 2, 3, 5)))
    if kinds and rng.random() < 0.25:  # a category of its own, with attributes of the other
        own = kinds.pop()
        category = replace(category, name=own.name, names=(own.name.title(), own.name), products=own.words)
    n_asked = rng.randint(0, len(kinds))
    slots = slots_of(lexicon, rng, category, kinds[:n_asked])
    unasked: list[str] = []
    if not chinese:  # values of attributes that this schema does not ask for
        values = {v.casefold() for s in slots for v in s.values}
        asked = kindred(lexicon, tuple(s.source for s in slots))
        for source in rng.sample(sorted(category.attributes), min(6, len(category.attributes))):
            if asked.isdisjoint(kin(lexicon, source)) and source not in ("Features", "Feature"):
                said = draw(rng, category.attributes[source])
                unasked += [said] if said.casefold() not in values else []
        unasked += [rng.choice(kind.words) for kind in kinds[n_asked:]]
    if n_offers > 1:
        _share(rng, slots)
    schema = AttributeSchema(
        category=rng.choice(category.names) if (shown := rng.random()) < 0.9 else None,
        description=f"{rng.choice(category.products)}, {rng.choice(category.products)}" if shown < 0.15 else None,
        attributes=tuple(s.attribute for s in slots),
    )
    # Offers that are alike, as demonstrations are, often come from one seller: a value stands where it stood before.
    sellers = [Seller(rng) for _ in range(min(n_offers, rng.choice((1, 1, 2, 3, n_offers))))]
    offers = [
        OfferBuilder(lexicon, rng, category, slots, unasked, rng.choice(sellers)).build(f"s{i}")
        for i in range(n_offers)
    ]
    return Episode(schema, offers, category.language, _known(rng, schema, offers))


def _share(rng: Random, slots: list[Slot]) -> None:
    """What demonstrations are good for: offers of an episode have values in common, and some attributes have names that say
    nothing."""
    for slot in slots:
        if slot.values and rng.random() < 0.5:
            slot.values = tuple(draw(rng, slot.values) for _ in range(rng.randint(2, 6)))
        if rng.random() < 0.08:
            name = rng.choice((f"Attribute {rng.randint(1, 99)}", f"Field {rng.choice('ABCDEF')}", coined_word(rng)))
            if name in {s.attribute.name for s in slots}:
                continue
            slot.attribute = slot.attribute.model_copy(update={"name": name, "description": None, "examples": ()})


def _known(rng: Random, schema: AttributeSchema, offers: list[LabelledOffer]) -> dict[str, Values]:
    """Known values for half of the episodes: those of gold with an episode's own recall, and words that are none: of another
    attribute, a part of the value, any word of the title."""
    if rng.random() < 0.5:
        return {}
    recall, noise = rng.choice((0.3, 0.6, 0.9, 0.95)), rng.choice((0.03, 0.1, 0.25))
    names = [a.name for a in schema.attributes if a.type == "text"]
    return {o.id: _known_of(rng, names, o, recall, noise) for o in offers}


def _known_of(rng: Random, names: list[str], offer: LabelledOffer, recall: float, noise: float) -> Values:
    known: Values = {}
    for name in names:
        gold = offer.attributes.get(name, [])
        found = [v for v in gold if rng.random() < recall]
        if rng.random() < noise:
            others = [v for other in names if other != name for v in offer.attributes.get(other, [])]
            parts = [w for v in gold for w in v.split() if w != v]
            words = [w for w in offer.title.split() if w.isalnum()]
            found += rng.sample(pool, 1) if (pool := rng.choice((others, parts, words))) else []
        longest = sorted(dict.fromkeys(found), key=len, reverse=True)
        kept = [v for i, v in enumerate(longest) if not any(v.lower() in w.lower() for w in longest[:i])]
        if kept:
            known[name] = kept[:MOST]
    return known


def episodes(seed: int, lengths: Callable[[Random], int]) -> Iterator[Episode]:
    """Episodes without end; the same seed gives the same ones."""
    rng = Random(seed)
    while True:
        yield episode(rng, lengths(rng))
