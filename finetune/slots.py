"""The attributes of an episode: how its schema asks for them, and what offers say of them. Schemas vary (which attributes, their
names, descriptions, examples, types, vocabularies), so that a model has to read them.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random

from extractor.schema import Attribute, AttributeType
from finetune.lexicon import Category, Kind, Lexicon, coined_word, draw, named

# A pattern that draws one number: 'Pack of {2-12}', '{1-9}.{1-9} kg', '{50-900/50}-Count'.
_MEASURE = re.compile(r"[^{}\d]*\{\d+-\d+(?:/\d+)?\}(?:\.\{\d[^{}|]*\})?[ -]?(?P<unit>[A-Za-z]{0,6})(?: [A-Za-z]+)?\W?")
_SIDES = {"L": "Length", "W": "Width", "H": "Height", "D": "Depth"}


@dataclass(frozen=True, eq=False)
class Run:
    """Measures that stand together: "{W} x {H} cm", and a pattern of each."""

    notation: str
    numbers: dict[str, str]


@dataclass(eq=False)
class Slot:
    """One attribute of an episode: how the schema asks for it and how offers fill it."""

    attribute: Attribute
    source: str  # its name in the lexicon, which selects phrases
    values: tuple[str, ...] = ()  # patterns of a text or number
    groups: dict[str, list[str]] = field(default_factory=dict)  # answer -> spellings, for enum and boolean
    others: tuple[str, ...] = ()  # what an offer may say that the closed vocabulary does not hold
    present: float = 0.6  # share of offers that have a value
    run: Run | None = None  # of measures that the offer writes in one
    side: str = ""  # its place in that run
    mark: str = ""  # what follows the number and belongs to the value


def digits(text: str) -> str:
    return re.search(r"\d+(?:\.\d+)?", text)[0]  # type: ignore[index]


@lru_cache(maxsize=10_000)
def _units(values: tuple[str, ...]) -> dict[str, str]:
    """The unit of each pattern that draws one number, "" for none."""
    return {v: match["unit"] for v in values if (match := _MEASURE.fullmatch(v))}


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
    units = _units(values)
    if 3 * len(units) > len(values) and rng.random() < 0.5:
        unit = rng.choice(list(units.values()))
        values = tuple(v for v, own in units.items() if own == unit)
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


def other_kinds(lexicon: Lexicon, rng: Random, category: Category, n: int) -> list[Kind]:
    """Up to `n` kinds of which an offer of the category says nothing, and that have no word in common."""
    said, chosen = [category.words, lexicon.closed_words], list[Kind]()
    for kind in rng.sample(lexicon.kinds, n):
        if all(words.isdisjoint(kind.words) for words in said):
            said.append(frozenset(kind.words))
            chosen.append(kind)
    return chosen


def _kind_slot(rng: Random, kind: Kind) -> Slot:
    """An attribute whose values follow from its name: what is called so."""
    noun = rng.choice((kind.name, *kind.synonyms))
    name = rng.choice(("{}", "{}", "{} Type", "Type of {}", "{} Name", "Kind of {}", "{} Style")).replace("{}", noun)
    description = kind.gloss if rng.random() < 0.3 else None
    if rng.random() < 0.2 and len(kind.words) > 2:
        words = rng.sample(kind.words, len(kind.words))
        kept = rng.randint(2, min(8, len(words) - 1))
        return _enum(rng, _named_so(rng, name), {_styled(rng, w): [w] for w in words[:kept]}, tuple(words[kept:]))
    examples = tuple(rng.sample(kind.words, rng.randint(1, 4))) if rng.random() < 0.25 else ()
    attribute = Attribute(
        name=_named_so(rng, name), description=description, examples=examples, multiple=rng.random() < 0.15
    )
    return Slot(attribute, kind.name, kind.words, present=rng.choice((0.0, 0.3, 0.6, 0.9)))


def _named_so(rng: Random, name: str) -> str:
    return rng.choice((name.title(), name.title(), name.capitalize(), name))


@lru_cache(maxsize=10_000)
def kin(lexicon: Lexicon, source: str) -> frozenset[str]:
    """Names by which the same values may be asked for: synonyms, and the noun of a name ("Upper Material": material)."""
    names = {source, *named(lexicon, source, "synonyms", [])}
    return frozenset(word.casefold().rstrip("s") for name in names for word in (name, name.split(" ")[-1]))


@lru_cache(maxsize=10_000)
def kindred(lexicon: Lexicon, sources: tuple[str, ...]) -> frozenset[str]:
    return frozenset().union(*(kin(lexicon, source) for source in sources))


def _foreign(lexicon: Lexicon, category: Category, kinds: Sequence[Kind], source: str, values: tuple[str, ...]) -> bool:
    """Whether nothing that offers of the category say could be a value of that attribute."""
    words = {v.casefold() for v in values if "{" not in v}
    return (
        words.isdisjoint(category.words)
        and all(words.isdisjoint(kind.words) for kind in kinds)
        and kin(lexicon, source).isdisjoint(kindred(lexicon, tuple(category.attributes)))
    )


def _measured_slots(lexicon: Lexicon, rng: Random) -> list[Slot]:
    """Two or three measures that offers write in one run."""
    notation: str = rng.choice(lexicon.shared["dimensions"])
    unit = rng.choice(("", "", '"', '"', "'", "cm", " cm", " in", " inches", "mm", " mm", " ft"))
    own = [m for m in _SIDES if f"{{{m}}}" in notation]
    # The unit belongs to the value where it is a mark, or follows every number.
    marked = unit if unit in ('"', "'") or notation.count("{u}") == len(own) else ""
    number = rng.choice(
        ("{2-90}", "{2-90}", "{2-40}.{1-9}", "{2-40} {1|3}/{4|8}", "{2-40}-{1|3}/{4|8}", "{100-900/10}")
    )
    asked = rng.sample(own, rng.choice((len(own), len(own), rng.randint(1, len(own)))))
    run = Run(notation.replace("{u}", unit), dict.fromkeys(own, number))
    slots = []
    for m in asked:
        follows = marked if notation.count(f"{{{m}}}{{u}}") else ""
        name = rng.choice(named(lexicon, _SIDES[m], "synonyms", [_SIDES[m]]))
        slots.append(Slot(Attribute(name=name), _SIDES[m], run=run, side=m, mark=follows, present=0.8))
    return slots


def slots_of(lexicon: Lexicon, rng: Random, category: Category, kinds: Sequence[Kind]) -> list[Slot]:
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
        slots += [_kind_slot(rng, kind) for kind in kinds]
        if rng.random() < 0.08:
            slots.append(_invented_slot(rng))
        for source in rng.sample(sorted(lexicon.general), rng.choice((0, 0, 1, 2, 4))):
            if _foreign(lexicon, category, kinds, source, lexicon.general[source]):
                slots.append(_text_slot(lexicon, rng, category, source, lexicon.general[source]))
                slots[-1].present = rng.choice((0.1, 0.4, 0.8))
        for _ in range(rng.choice((0, 0, 1, 2, 3))):  # asked, but no offer of this category has it
            other = rng.choice([c for c in lexicon.categories if c.language == "en"])
            source = rng.choice(sorted(other.attributes))
            if _foreign(lexicon, category, kinds, source, other.attributes[source]):
                slots.append(_text_slot(lexicon, rng, category, source, other.attributes[source]))
                slots[-1].present = 0.0
        if rng.random() < 0.12 and all(_foreign(lexicon, category, (), source, ()) for source in _SIDES.values()):
            slots += _measured_slots(lexicon, rng)
    if len(slots) > 8 and rng.random() < 0.4:  # the more a catalogue asks for, the less an offer says of it
        for slot in slots:
            slot.present *= rng.choice((0.2, 0.7))
    rng.shuffle(slots)
    distinct: dict[str, Slot] = {}
    for slot in slots:
        distinct.setdefault(slot.attribute.name.casefold(), slot)
    return list(distinct.values())
