"""The attributes of an episode: how its schema asks for them, and what offers say of them. Schemas vary (which attributes, their
names, descriptions, examples, types, vocabularies), so that a model has to read them.
"""

import re
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from extractor.schema import Attribute, AttributeType
from finetune.lexicon import Category, Lexicon, coined_word, draw, named

# A pattern that draws one number: 'Pack of {2-12}', '{1-9}.{1-9} kg', '{50-900/50}-Count'.
_MEASURE = re.compile(r"[^{}\d]*\{\d+-\d+(?:/\d+)?\}(?:\.\{\d[^{}|]*\})?[ -]?(?P<unit>[A-Za-z]{0,6})(?: [A-Za-z]+)?\W?")


@dataclass(eq=False)
class Slot:
    """One attribute of an episode: how the schema asks for it and how offers fill it."""

    attribute: Attribute
    source: str  # its name in the lexicon, which selects phrases
    values: tuple[str, ...] = ()  # patterns of a text or number
    groups: dict[str, list[str]] = field(default_factory=dict)  # answer -> spellings, for enum and boolean
    others: tuple[str, ...] = ()  # what an offer may say that the closed vocabulary does not hold
    present: float = 0.6  # share of offers that have a value


def digits(text: str) -> str:
    return re.search(r"\d+(?:\.\d+)?", text)[0]  # type: ignore[index]


def _text_slot(lexicon: Lexicon, rng: Random, category: Category, source: str, values: tuple[str, ...]) -> Slot:
    name = source
    if rng.random() < 0.35:
        name = rng.choice(named(lexicon, source, "synonyms", [source]))
    style = rng.random()
    name = name.lower() if style < 0.06 else name.capitalize() if style < 0.2 else name
    description: str | None = None
    unit: str | None = None
    examples: tuple[str, ...] = ()
    kind: AttributeType = "text"
    multiple = False
    if category.language == "en" and rng.random() < 0.3:
        phrase = rng.choice(named(lexicon, source, "descriptions", []))
        description = phrase.replace("{name}", name.lower())
    if rng.random() < 0.35:
        examples = tuple(dict.fromkeys(draw(rng, values) for _ in range(rng.randint(1, 4))))
    numbers = {v: match for v in values if (match := _MEASURE.fullmatch(v))}
    if 3 * len(numbers) > len(values) and rng.random() < 0.5:
        unit = rng.choice([m["unit"] for m in numbers.values()])
        values = tuple(v for v, m in numbers.items() if m["unit"] == unit)
        kind, unit = "number", unit or None
        examples = (digits(draw(rng, values)),) if examples else ()
    elif source not in ("Brand", "Model") and rng.random() < 0.25:
        multiple = True
    attribute = Attribute(
        name=name,
        description=description,
        examples=examples,
        type=kind,
        unit=unit,
        multiple=multiple,
    )
    present = 0.85 if source in ("Brand", "品牌", "Product Type") else rng.choice((0.2, 0.5, 0.8))
    return Slot(attribute, source, values, present=present)


def _closed_slot(lexicon: Lexicon, rng: Random, category: Category, taken: set[str]) -> Slot:
    """An enum or boolean: of the shared lists, or made from what offers of the category say of an attribute (one that
    `taken` does not hold), so that vocabularies are as many as the words of the lexicon."""
    kind = rng.random()
    if kind < 0.15:
        name, groups = rng.choice(list(lexicon.shared["booleans"].items()))
        return _boolean(rng, name, groups)
    if kind < 0.35:
        name, groups = rng.choice(list(lexicon.shared["enums"].items()))
        return _enum(rng, name, dict(groups), ())
    literal = {
        source: words
        for source, values in category.attributes.items()
        if source not in taken and len(words := list({v.casefold(): v for v in values if "{" not in v}.values())) > 2
    }
    if kind < 0.55:
        phrase = rng.choice([w for words in literal.values() for w in words] or ["waterproof"])
        denied = [f"{no}{phrase}" for no in ("not ", "non-", "no ", "without ", "NOT ")] + [f"{phrase}: no"]
        return _boolean(rng, _styled(rng, phrase), {"true": [phrase], "false": denied})
    if not literal:
        return _invented_slot(rng)
    source = rng.choice(sorted(literal))
    words = rng.sample(literal[source], len(literal[source]))
    kept = rng.randint(2, min(8, len(words) - 1))
    name = rng.choice(named(lexicon, source, "synonyms", [source]))
    return _enum(rng, name, {_styled(rng, w): [w] for w in words[:kept]}, tuple(words[kept:]))


def _styled(rng: Random, words: str) -> str:
    return rng.choice((words, words.capitalize(), words.title())) if words.islower() else words


def _enum(rng: Random, name: str, groups: dict[str, list[str]], others: tuple[str, ...]) -> Slot:
    kept = rng.sample(sorted(groups), min(len(groups), rng.randint(2, 8)))
    attribute = Attribute(name=name, type="enum", values=tuple(kept), multiple=rng.random() < 0.25)
    return Slot(attribute, name, groups={k: groups[k] for k in kept}, others=others, present=rng.choice((0.4, 0.7)))


def _boolean(rng: Random, name: str, groups: dict[str, list[str]]) -> Slot:
    description = None
    if rng.random() < 0.3:
        said = rng.choice(("denied", "said not to be so", "excluded"))
        description = f"True if {name.lower()}, false if that is {said}."
    attribute = Attribute(name=name, type="boolean", description=description)
    return Slot(attribute, name, groups=groups, present=rng.choice((0.3, 0.6)))


def _invented_slot(rng: Random) -> Slot:
    """An attribute that exists nowhere: only its examples and the demonstrations tell what to look for."""
    affix = coined_word(rng).lower()[:3]
    words = tuple(coined_word(rng).lower() + affix for _ in range(5))
    name = f"{coined_word(rng).capitalize()} {rng.choice(('grade', 'type', 'class', 'code', 'level', 'finish'))}"
    return Slot(Attribute(name=name, examples=words[:3]), name, words, present=0.7)


@lru_cache(maxsize=10_000)
def kin(lexicon: Lexicon, source: str) -> frozenset[str]:
    """Names by which the same values may be asked for: synonyms, and the noun of a name ("Upper Material": material)."""
    names = {source, *named(lexicon, source, "synonyms", [])}
    return frozenset(word.casefold().rstrip("s") for name in names for word in (name, name.split(" ")[-1]))


def slots_of(lexicon: Lexicon, rng: Random, category: Category) -> list[Slot]:
    names = sorted(category.attributes)
    asked = len(names) if rng.random() < 0.2 else rng.randint(2, min(9, len(names)))
    own = rng.sample(names, asked)
    if category.language == "en" and "Brand" in category.attributes and "Brand" not in own and rng.random() < 0.6:
        own.append("Brand")
    slots = [_text_slot(lexicon, rng, category, source, category.attributes[source]) for source in own]
    if category.language == "en":
        if rng.random() < 0.5:
            slots.append(_text_slot(lexicon, rng, category, "Product Type", category.products))
        taken = set(own)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            slots.append(_closed_slot(lexicon, rng, category, taken))
        if rng.random() < 0.08:
            slots.append(_invented_slot(rng))
        for _ in range(rng.choice((0, 0, 1, 2))):  # asked, but no offer of this category has it
            other = rng.choice([c for c in lexicon.categories if c.language == "en"])
            source = rng.choice(sorted(other.attributes))
            if all(kin(lexicon, source).isdisjoint(kin(lexicon, own)) for own in category.attributes):
                slots.append(_text_slot(lexicon, rng, category, source, other.attributes[source]))
                slots[-1].present = 0.0
    rng.shuffle(slots)
    distinct: dict[str, Slot] = {}
    for slot in slots:
        distinct.setdefault(slot.attribute.name.casefold(), slot)
    return list(distinct.values())
