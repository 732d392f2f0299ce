"""Synthetic product offers with gold records, in unlimited number from a seed.

    python -m finetune corpus --n 3 --seed 7        # show a few

An *episode* is what a prompt needs: one schema and several labelled offers of its category, so that all but the last can
stand as demonstrations. Titles are built from segments, and a value is what its segment holds: gold is exact by
construction. The words are data (`lexicons/`); this module only draws and joins them. Schemas vary from episode to
episode (which attributes, their names, descriptions, examples, types), so that a model has to read them.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from random import Random
from typing import Any

import yaml

from extractor.records import LabelledOffer
from extractor.schema import Attribute, AttributeSchema, AttributeType

LEXICONS = Path(__file__).parent / "lexicons"
Pattern = Callable[[Random], str]


@dataclass(frozen=True)
class Category:
    name: str
    names: tuple[str, ...]
    products: tuple[str, ...]
    noise: tuple[str, ...]
    attributes: dict[str, tuple[str, ...]]
    language: str


@dataclass(frozen=True)
class Lexicon:
    shared: dict[str, Any]
    categories: tuple[Category, ...]


@dataclass(frozen=True)
class Episode:
    schema: AttributeSchema
    offers: list[LabelledOffer]
    language: str


@lru_cache(maxsize=1)
def load_lexicon(folder: Path = LEXICONS) -> Lexicon:
    """Read `shared.yaml` and every `categories_*.yaml`; `$name` in a value list is replaced by that shared list."""
    shared = yaml.safe_load((folder / "shared.yaml").read_text(encoding="utf-8"))
    lists = {name: [str(v) for v in values] for name, values in shared["lists"].items()}
    lists["brand"] = ["{BRAND}"]

    def spliced(values: list[Any]) -> tuple[str, ...]:
        out: list[str] = []
        for value in map(str, values):
            out += lists[value[1:]] if value.startswith("$") else [value]
        return tuple(out)

    categories = []
    for path in sorted(folder.glob("categories_*.yaml")):
        language = "zh" if path.stem.endswith("_zh") else "en"
        for row in yaml.safe_load(path.read_text(encoding="utf-8")):
            attributes = {str(k): spliced(v) for k, v in row["attributes"].items()}
            texts = {key: tuple(map(str, row[key])) for key in ("names", "products", "noise")}
            categories.append(Category(row["category"], attributes=attributes, language=language, **texts))
    return Lexicon(shared, tuple(categories))


# --- drawing values ---------------------------------------------------------------------------------------------------

_SLOT = re.compile(r"\{([^{}]+)\}")
# A pattern that draws one number: 'Pack of {2-12}', '{1-9}.{1-9} kg', '{50-900/50}-Count'.
_MEASURE = re.compile(r"[^{}\d]*\{\d+-\d+(?:/\d+)?\}(?:\.\{\d[^{}|]*\})?[ -]?(?P<unit>[A-Za-z]{0,6})(?: [A-Za-z]+)?\W?")


@lru_cache(maxsize=1)
def _syllables() -> tuple[list[str], ...]:
    table = load_lexicon().shared["syllables"]
    return tuple(table[part].split() for part in ("onsets", "vowels", "codas"))


def coined_word(rng: Random) -> str:
    """A pronounceable word that no lexicon holds, in one of the ways brands are written."""
    if rng.random() < 0.12:
        return "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 7)))
    onsets, vowels, codas = _syllables()
    word = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(rng.choice((1, 2, 2, 2, 3))))
    if rng.random() < 0.88:
        word += rng.choice(codas)
    style = rng.random()
    return word.capitalize() if style < 0.75 else word.upper() if style < 0.92 else word


@lru_cache(maxsize=100_000)
def _pattern(text: str) -> tuple[str | Pattern, ...]:
    """Compile a value pattern (see shared.yaml) into literal and drawn parts."""
    parts: list[str | Pattern] = []
    for i, piece in enumerate(_SLOT.split(text)):
        if i % 2 == 0:
            if piece:
                parts.append(piece)
        else:
            parts.append(_slot(piece))
    return tuple(parts)


def _slot(body: str) -> Pattern:
    shared = load_lexicon().shared if body in ("N", "H", "BRAND") else {}
    match body:
        case "A":
            return lambda rng: rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        case "9":
            return lambda rng: rng.choice("0123456789")
        case "W":
            return coined_word
        case "N":
            return lambda rng: rng.choice(shared["nouns"])
        case "H":
            return lambda rng: rng.choice(shared["zh_characters"])
        case "BRAND":
            return lambda rng: _brand(rng, shared)
    if number := re.fullmatch(r"(-?\d+)-(-?\d+)(?:/(\d+))?", body):
        low, high, step = int(number[1]), int(number[2]), int(number[3] or 1)
        return lambda rng: str(low + step * int(rng.random() * ((high - low) // step + 1)))
    choices = body.split("|")
    return lambda rng: rng.choice(choices)


def _brand(rng: Random, shared: dict[str, Any]) -> str:
    kind = rng.random()
    if kind < 0.45:
        brand = coined_word(rng)
        if rng.random() < 0.12:
            brand += " " + coined_word(rng)
    elif kind < 0.6:
        brand = f"{rng.choice(shared['adjectives'])} {rng.choice(shared['nouns'])}"
    elif kind < 0.7:
        brand = rng.choice(shared["nouns"]) + rng.choice((" ", "", "", " ")) + rng.choice(shared["nouns"])
    elif kind < 0.8:
        brand = f"{rng.choice(shared['first_names'])} {coined_word(rng).capitalize()}"
    elif kind < 0.85:
        brand = coined_word(rng).capitalize() + "'s"
    elif kind < 0.9:
        brand = f"{coined_word(rng).capitalize()} {rng.choice(('&', 'and', '+'))} {coined_word(rng).capitalize()}"
    else:
        brand = rng.choice(shared["nouns"])
    if rng.random() < 0.12:
        brand += " " + rng.choice(shared["brand_suffixes"])
    return brand.upper() if rng.random() < 0.08 else brand


def draw(rng: Random, values: tuple[str, ...]) -> str:
    parts = _pattern(values[int(rng.random() * len(values))])
    return "".join(p if isinstance(p, str) else p(rng) for p in parts)


# --- schemas ----------------------------------------------------------------------------------------------------------


@dataclass
class _Slot:
    """One attribute of an episode: how the schema asks for it and how offers fill it."""

    attribute: Attribute
    source: str  # its name in the lexicon, which selects phrases
    values: tuple[str, ...] = ()  # patterns of a text or number
    groups: dict[str, list[str]] = field(default_factory=dict)  # answer -> spellings, for enum and boolean
    others: tuple[str, ...] = ()  # what an offer may say that the closed vocabulary does not hold
    present: float = 0.6  # share of offers that have a value


def _named(lexicon: Lexicon, source: str, key: str, default: list[str]) -> list[str]:
    table = lexicon.shared[key]
    for name in (source, source.split(" ")[0].capitalize(), source.split(" ")[-1].capitalize()):
        if name in table:
            return list(table[name])
    return list(table.get("default", default))


def _digits(text: str) -> str:
    return re.search(r"\d+(?:\.\d+)?", text)[0]  # type: ignore[index]


def _text_slot(lexicon: Lexicon, rng: Random, category: Category, source: str, values: tuple[str, ...]) -> _Slot:
    name = source
    if rng.random() < 0.35:
        name = rng.choice(_named(lexicon, source, "synonyms", [source]))
    style = rng.random()
    name = name.lower() if style < 0.06 else name.capitalize() if style < 0.2 else name
    description: str | None = None
    unit: str | None = None
    examples: tuple[str, ...] = ()
    kind: AttributeType = "text"
    multiple = False
    if category.language == "en" and rng.random() < 0.3:
        phrase = rng.choice(_named(lexicon, source, "descriptions", []))
        description = phrase.replace("{name}", name.lower())
    if rng.random() < 0.35:
        examples = tuple(dict.fromkeys(draw(rng, values) for _ in range(rng.randint(1, 4))))
    numbers = {v: match for v in values if (match := _MEASURE.fullmatch(v))}
    if 3 * len(numbers) > len(values) and rng.random() < 0.5:
        unit = rng.choice([m["unit"] for m in numbers.values()])
        values = tuple(v for v, m in numbers.items() if m["unit"] == unit)
        unit = unit or None
        kind = "number"
        examples = tuple(dict.fromkeys(_digits(e) for e in examples and (draw(rng, values),)))
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
    return _Slot(attribute, source, values, present=present)


def _closed_slot(lexicon: Lexicon, rng: Random, category: Category, taken: set[str]) -> _Slot:
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
    name = rng.choice(_named(lexicon, source, "synonyms", [source]))
    return _enum(rng, name, {_styled(rng, w): [w] for w in words[:kept]}, tuple(words[kept:]))


def _styled(rng: Random, words: str) -> str:
    return rng.choice((words, words.capitalize(), words.title())) if words.islower() else words


def _enum(rng: Random, name: str, groups: dict[str, list[str]], others: tuple[str, ...]) -> _Slot:
    kept = rng.sample(sorted(groups), min(len(groups), rng.randint(2, 8)))
    attribute = Attribute(name=name, type="enum", values=tuple(kept), multiple=rng.random() < 0.25)
    return _Slot(attribute, name, groups={k: groups[k] for k in kept}, others=others, present=rng.choice((0.4, 0.7)))


def _boolean(rng: Random, name: str, groups: dict[str, list[str]]) -> _Slot:
    description = None
    if rng.random() < 0.3:
        said = rng.choice(("denied", "said not to be so", "excluded"))
        description = f"True if {name.lower()}, false if that is {said}."
    attribute = Attribute(name=name, type="boolean", description=description)
    return _Slot(attribute, name, groups=groups, present=rng.choice((0.3, 0.6)))


def _invented_slot(rng: Random) -> _Slot:
    """An attribute that exists nowhere: only its examples and the demonstrations tell what to look for."""
    affix = coined_word(rng).lower()[:3]
    words = tuple(coined_word(rng).lower() + affix for _ in range(5))
    name = f"{coined_word(rng).capitalize()} {rng.choice(('grade', 'type', 'class', 'code', 'level', 'finish'))}"
    return _Slot(Attribute(name=name, examples=words[:3]), name, words, present=0.7)


def _slots(lexicon: Lexicon, rng: Random, category: Category) -> list[_Slot]:
    own = rng.sample(sorted(category.attributes), rng.randint(2, min(9, len(category.attributes))))
    if category.language == "en" and "Brand" in category.attributes and "Brand" not in own and rng.random() < 0.6:
        own.append("Brand")
    slots = [_text_slot(lexicon, rng, category, source, category.attributes[source]) for source in own]
    if category.language == "en":
        if rng.random() < 0.4:
            slots.append(_text_slot(lexicon, rng, category, "Product Type", category.products))
        taken = set(own)
        for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
            slots.append(_closed_slot(lexicon, rng, category, taken))
        if rng.random() < 0.08:
            slots.append(_invented_slot(rng))
        for _ in range(rng.choice((0, 0, 1, 2))):  # asked, but no offer of this category has it
            other = rng.choice([c for c in lexicon.categories if c.language == "en"])
            source = rng.choice(sorted(other.attributes))
            if source not in category.attributes:
                slots.append(_text_slot(lexicon, rng, category, source, other.attributes[source]))
                slots[-1].present = 0.0
    rng.shuffle(slots)
    distinct: dict[str, _Slot] = {}
    for slot in slots:
        distinct.setdefault(slot.attribute.name.casefold(), slot)
    return list(distinct.values())


# --- offers -----------------------------------------------------------------------------------------------------------

_JOINTS = [" "] * 8 + [", "] * 4 + [" - ", " | ", " / ", "; ", ",", " – ", "/"]


def _typo(rng: Random, text: str) -> str:
    if len(text) < 5:
        return text
    i = rng.randrange(1, len(text) - 1)
    return rng.choice(
        (text[:i] + text[i + 1 :], text[:i] + text[i + 1] + text[i] + text[i + 2 :], text[:i] + text[i] + text[i:])
    )


def _cased(rng: Random, style: str, text: str) -> str:
    if rng.random() < 0.015:
        text = _typo(rng, text)
    match style:
        case "lower":
            return text.lower()
        case "upper":
            return text.upper()
        case "title" if text[:1].islower():
            return " ".join(w[:1].upper() + w[1:] for w in text.split(" "))
    return text


class _OfferBuilder:
    """Builds one offer; `gold` fills up as values are placed."""

    def __init__(
        self, lexicon: Lexicon, rng: Random, category: Category, slots: list[_Slot], distractors: list[str]
    ) -> None:
        self.shared, self.rng, self.category, self.slots = lexicon.shared, rng, category, slots
        self.lexicon, self.distractors = lexicon, distractors
        self.case = rng.choices(("as is", "title", "lower", "upper"), (60, 27, 8, 5))[0]
        self.gold: dict[str, list[str]] = {}

    def value(self, slot: _Slot) -> str:
        """Draw a value of the slot, enter it into gold, and return how the seller writes it."""
        rng = self.rng
        if slot.attribute.type == "number":
            text = draw(rng, slot.values)  # as it is: a slip in a number would be another number
            self.gold[slot.attribute.name] = [_digits(text)]
            return text
        if slot.attribute.type == "boolean":
            answer = "true" if rng.random() < 0.65 else "false"
            self.gold[slot.attribute.name] = [answer]
            return _cased(rng, self.case, rng.choice(slot.groups[answer]))
        wanted = rng.choice((1, 1, 2, 3)) if slot.attribute.multiple else 1
        if slot.groups:
            answers = rng.sample(list(slot.groups), min(wanted, len(slot.groups)))
            values = [_cased(rng, self.case, rng.choice(slot.groups[a])) for a in answers]
        else:
            values = list(dict.fromkeys(_cased(rng, self.case, draw(rng, slot.values)) for _ in range(wanted)))
            answers = values
        self.gold[slot.attribute.name] = answers
        joint = "/" if self.category.language == "zh" else rng.choice(("/", ", ", " and ", " & ", "/", " + ", "|"))
        return joint.join(values)

    def segment(self, slot: _Slot) -> str:
        text = self.value(slot)
        if self.category.language == "zh" or slot.groups:
            return text
        phrase = self.rng.choice(_named(self.lexicon, slot.source, "phrases", ["{}"]))
        return phrase.replace("{name}", slot.attribute.name).replace("{}", text)

    def noise(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.2 and self.category.language == "en":
            return draw(rng, tuple(self.shared["generic_noise"]))
        return _cased(rng, self.case, rng.choice(self.category.noise))

    def build(self, identity: str) -> LabelledOffer:
        rng, zh = self.rng, self.category.language == "zh"
        filled = [s for s in self.slots if rng.random() < s.present]
        with_description = rng.random() < (0.15 if zh else 0.3)
        in_title = [s for s in filled if not with_description or rng.random() < 0.65]
        in_description = [s for s in filled if s not in in_title]
        segments = [(self.segment(s), s.source) for s in in_title]
        if not any(s.source == "Product Type" for s in filled):
            segments.append((_cased(rng, self.case, rng.choice(self.category.products)), "Product Type"))
        segments += [(self.noise(), "") for _ in range(rng.choice((0, 0, 1, 1, 2, 3)))]
        segments += [(d, "") for d in self.distractors if rng.random() < 0.7]
        for slot in self.slots:
            if slot.others and slot not in filled and rng.random() < 0.4:
                segments.append((_cased(rng, self.case, rng.choice(slot.others)), ""))
        if not segments:
            segments.append((self.noise(), ""))
        rng.shuffle(segments)
        if rng.random() < 0.75:  # brand first, then model, as most sellers do
            segments.sort(key=lambda s: ("Brand", "品牌").count(s[1]) * -2 - s[1].startswith(("Model", "Style Name")))
        if rng.random() < 0.05:
            segments += segments[-rng.randint(1, 3) :]
        title = self.joined([text for text, _ in segments])
        description = self.description(in_description) if with_description else None
        absent = [s.attribute.name for s in self.slots if s.attribute.name not in self.gold]
        return LabelledOffer(
            id=identity,
            title=title,
            description=description,
            category=self.category.name,
            attributes=self.gold,
            absent=absent,
        )

    def joined(self, texts: list[str]) -> str:
        rng = self.rng
        if self.category.language == "zh":
            return "".join(t + rng.choice(("", "", "", "", " ", "/")) for t in texts).strip(" /")
        main = rng.choice(_JOINTS)
        parts = [texts[0]]
        for text in texts[1:]:
            joint = main if rng.random() < 0.6 else rng.choice(_JOINTS)
            if rng.random() < 0.06:
                text, joint = rng.choice(("({})", "[{}]", "【{}】", "*{}*", '"{}"')).replace("{}", text), " "
            parts += [joint, text]
        title = "".join(parts)
        if rng.random() < 0.06:
            title += rng.choice((" ", " | ", " - ")) + draw(rng, tuple(self.shared["shops"]))
        if rng.random() < 0.02:
            title = rng.choice(("🔥", "✅", "⭐", "🎁", "‼️", "💯")) + rng.choice((" ", "")) + title
        return title

    def description(self, slots: list[_Slot]) -> str:
        rng, zh = self.rng, self.category.language == "zh"
        sentences = []
        for slot in slots:
            phrase = rng.choice(self.shared["zh_description_phrases" if zh else "description_phrases"])
            sentences.append(phrase.replace("{name}", slot.attribute.name).replace("{}", self.value(slot)))
        filler = tuple(self.shared["zh_sentences" if zh else "sentences"])
        sentences += [draw(rng, filler) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 5)))]
        rng.shuffle(sentences)
        if rng.random() < 0.1:  # sellers repeat themselves; an answer must not
            sentences *= rng.randint(2, 4)
        return ("" if zh else rng.choice((" ", " ", "\n", "<br>"))).join(sentences) or draw(rng, filler)


def episode(rng: Random, n_offers: int, lexicon: Lexicon | None = None) -> Episode:
    """One schema and `n_offers` labelled offers of its category."""
    lexicon = lexicon or load_lexicon()
    chinese = rng.random() < 0.08
    category = rng.choice([c for c in lexicon.categories if (c.language == "zh") == chinese])
    slots = _slots(lexicon, rng, category)
    unasked: list[str] = []
    if not chinese:  # values of attributes that this schema does not ask for
        asked = {s.source for s in slots}
        for source in rng.sample(sorted(category.attributes), min(3, len(category.attributes))):
            if source not in asked and source not in ("Features", "Feature"):
                unasked.append(draw(rng, category.attributes[source]))
    shown = rng.random()
    schema = AttributeSchema(
        category=rng.choice(category.names) if shown < 0.9 else None,
        description=f"{rng.choice(category.products)}, {rng.choice(category.products)}" if shown < 0.15 else None,
        attributes=tuple(s.attribute for s in slots),
    )
    offers = [_OfferBuilder(lexicon, rng, category, slots, unasked).build(f"s{i}") for i in range(n_offers)]
    return Episode(schema, offers, category.language)


def episodes(seed: int, lengths: Callable[[Random], int]) -> Iterator[Episode]:
    """Episodes without end; the same seed gives the same ones."""
    rng = Random(seed)
    while True:
        yield episode(rng, lengths(rng))
