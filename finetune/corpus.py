"""Synthetic product offers with gold records, in unlimited number from a seed.

    python -m finetune corpus --n 3 --seed 7        # show a few

An *episode* is what a prompt needs: one schema and several labelled offers of its category, so that all but the last can
stand as demonstrations. Titles are built from segments, and a value is what its segment holds: gold is exact by
construction. The words are data (`lexicons/`, drawn by lexicon.py), the schemas are of slots.py; this module joins them.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema
from extractor.vocabulary import MOST
from finetune.lexicon import Category, Lexicon, coined_word, draw, load_lexicon, named
from finetune.slots import Slot, digits, kin, slots_of

Values = dict[str, list[str]]  # of attributes


@dataclass(frozen=True)
class Episode:
    """`known`: by the id of an offer, the known values that its prompt shows, as `extractor.vocabulary` would find them."""

    schema: AttributeSchema
    offers: list[LabelledOffer]
    language: str
    known: dict[str, Values] = field(default_factory=dict)


# Begins of attributes whose values stand behind the brand or at the end of a title.
_CODES = ("Model", "Style N", "Part Number", "Item Number", "Manufacturer ", "Product Number")
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


class _Seller:
    """How one seller writes titles: each habit is drawn when it is first needed, and kept."""

    def __init__(self, rng: Random) -> None:
        self.rng, self.habits = rng, dict[Hashable, Any]()
        self.case = rng.choices(("as is", "title", "lower", "upper"), (60, 27, 8, 5))[0]
        self.plain = rng.random() < 0.4  # words in a row, as on marketplaces of many small sellers
        self.stuffed = rng.random() < 0.3  # with search words

    def one(self, habit: Hashable, options: Sequence[Any]) -> Any:
        if habit not in self.habits:
            self.habits[habit] = options[int(self.rng.random() * len(options))]
        return self.habits[habit]

    def share(self, habit: Hashable) -> float:
        """From 0 to 1, evenly."""
        if habit not in self.habits:
            self.habits[habit] = self.rng.random()
        return cast(float, self.habits[habit])


class _OfferBuilder:
    """Builds one offer; `gold` fills up as values are placed."""

    def __init__(
        self,
        lexicon: Lexicon,
        rng: Random,
        category: Category,
        slots: list[Slot],
        distractors: list[str],
        seller: _Seller,
    ) -> None:
        self.shared, self.rng, self.category, self.slots = lexicon.shared, rng, category, slots
        self.lexicon, self.distractors, self.seller = lexicon, distractors, seller
        self.gold: dict[str, list[str]] = {}
        self.said: dict[str, str] = {}  # how the offer writes the value of an attribute

    def value(self, slot: Slot) -> str:
        """Draw a value of the slot, enter it into gold, and return how the seller writes it: once and for all."""
        name = slot.attribute.name
        if name not in self.said:
            self.said[name] = self._value(slot)
        return self.said[name]

    def _value(self, slot: Slot) -> str:
        rng = self.rng
        if slot.attribute.type == "number":
            text = draw(rng, slot.values)  # as it is: a slip in a number would be another number
            self.gold[slot.attribute.name] = [digits(text)]
            return text
        if slot.attribute.type == "boolean":
            answer = "true" if rng.random() < 0.65 else "false"
            self.gold[slot.attribute.name] = [answer]
            return _cased(rng, self.seller.case, rng.choice(slot.groups[answer]))
        wanted = rng.choice((1, 1, 2, 3)) if slot.attribute.multiple else 1
        if slot.groups:
            answers = rng.sample(list(slot.groups), min(wanted, len(slot.groups)))
            values = [_cased(rng, self.seller.case, rng.choice(slot.groups[a])) for a in answers]
        else:
            values = list(dict.fromkeys(_cased(rng, self.seller.case, draw(rng, slot.values)) for _ in range(wanted)))
            answers = values
        self.gold[slot.attribute.name] = answers
        joint = "/" if self.category.language == "zh" else rng.choice(("/", ", ", " and ", " & ", "/", " + ", "|"))
        return joint.join(values)

    def segment(self, slot: Slot) -> str:
        text = self.value(slot)
        if self.category.language == "zh" or slot.groups or self.seller.plain:
            return text
        phrase: str = self.seller.one((slot, "phrase"), named(self.lexicon, slot.source, "phrases", ["{}"]))
        return phrase.replace("{name}", slot.attribute.name).replace("{}", text)

    def noise(self) -> str:
        rng = self.rng
        kind = rng.random()
        if kind < 0.2 and self.category.language == "en":
            return draw(rng, self.shared["generic_noise"])
        return _cased(rng, self.seller.case, rng.choice(self.category.noise))

    def build(self, identity: str) -> LabelledOffer:
        rng, seller, zh = self.rng, self.seller, self.category.language == "zh"
        filled = [s for s in self.slots if rng.random() < s.present]
        with_description = seller.share("description") < (0.15 if zh else 0.3)
        in_title = [s for s in filled if not with_description or seller.share((s, "title")) < 0.65]
        repeated = rng.choice((0.0, 0.0, 0.3, 0.6))
        in_description = [s for s in filled if s not in in_title or rng.random() < repeated]
        segments = [(self.segment(s), s.source) for s in in_title]
        if not any(s.source == "Product Type" for s in self.slots):  # nobody asks for it, and search words repeat it
            for _ in range(rng.choice((2, 3, 4) if seller.stuffed else (1, 1, 1, 2, 3))):
                segments.append((_cased(rng, seller.case, rng.choice(self.category.products)), ""))
        noises = rng.choice((1, 2, 3, 4) if seller.stuffed else (0, 0, 1, 1, 2, 3))
        segments += [(self.noise(), "") for _ in range(noises)]
        segments += [(d, "") for d in self.distractors if rng.random() < (0.9 if seller.stuffed else 0.4)]
        for slot in self.slots:
            if slot.others and slot not in filled and rng.random() < 0.4:
                segments.append((_cased(rng, seller.case, rng.choice(slot.others)), ""))
        if not segments:
            segments.append((self.noise(), ""))
        lead, code = seller.one("lead", (1, 1, 1, 0)), seller.one("code", (-1, -1, 1))

        def place(segment: tuple[str, str]) -> tuple[int, float]:  # brand first, then model, as most sellers do
            source = segment[1]
            front = lead * (-2 * (source in ("Brand", "品牌")) + code * source.startswith(_CODES))
            return front, seller.share((source, "place")) if source else rng.random()

        segments.sort(key=place)
        if rng.random() < 0.05:
            segments += segments[-rng.randint(1, 3) :]
        title = self.joined(segments)
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

    def joined(self, segments: list[tuple[str, str]]) -> str:
        rng, seller = self.rng, self.seller
        if self.category.language == "zh":
            return "".join(t + rng.choice(("", "", "", "", " ", "/")) for t, _ in segments).strip(" /")
        main = " " if seller.plain else seller.one("joint", _JOINTS)
        parts: list[str] = []
        for text, source in segments:
            own = source or rng.random()  # what is no attribute's has no habit
            joint = main if seller.plain or seller.share((own, "joint")) < 0.6 else seller.one((own, "own"), _JOINTS)
            if parts and seller.share((own, "bracketed")) < 0.06:
                brackets: str = seller.one((own, "brackets"), ("({})", "[{}]", "【{}】", "*{}*", '"{}"'))
                text, joint = brackets.replace("{}", text), " "
            parts += [joint, text]
        title = "".join(parts[1:])
        if seller.share("names the shop") < 0.06:
            title += seller.one("before the shop", (" ", " | ", " - ")) + seller.one(
                "shop", [draw(rng, self.shared["shops"])]
            )
        if rng.random() < 0.02:
            title = rng.choice(("🔥", "✅", "⭐", "🎁", "‼️", "💯")) + rng.choice((" ", "")) + title
        return title

    def description(self, slots: list[Slot]) -> str:
        rng, zh = self.rng, self.category.language == "zh"
        phrases = self.shared["zh_description_phrases" if zh else "description_phrases"]
        if rng.random() < 0.2:  # a table of specifications
            phrases = [rng.choice(("{name}: {}", "{name} : {}", "{name} - {}", "{name}：{}" if zh else "- {name}: {}"))]
        sentences = [
            rng.choice(phrases).replace("{name}", s.attribute.name).replace("{}", self.value(s)) for s in slots
        ]
        filler = self.shared["zh_sentences" if zh else "sentences"]
        length = rng.choice((0, 1, 1, 2, 2, 3, 5, 5, 12, 25))
        sentences += [draw(rng, filler) if rng.random() < 0.6 else self.noise() for _ in range(length)]
        rng.shuffle(sentences)
        if rng.random() < 0.1:  # sellers repeat themselves; an answer must not
            sentences *= rng.randint(2, 4)
        return ("" if zh else rng.choice((" ", " ", "\n", "<br>", " | ", ", "))).join(sentences) or draw(rng, filler)


def episode(rng: Random, n_offers: int, lexicon: Lexicon | None = None) -> Episode:
    """One schema and `n_offers` labelled offers of its category."""
    lexicon = lexicon or load_lexicon()
    chinese = rng.random() < 0.08
    category = rng.choice([c for c in lexicon.categories if (c.language == "zh") == chinese])
    slots = slots_of(lexicon, rng, category)
    unasked: list[str] = []
    if not chinese:  # values of attributes that this schema does not ask for
        asked = {s.source for s in slots}
        values = {v.casefold() for s in slots for v in s.values}
        kindred = frozenset().union(*(kin(lexicon, name) for name in asked))
        for source in rng.sample(sorted(category.attributes), min(6, len(category.attributes))):
            if kindred.isdisjoint(kin(lexicon, source)) and source not in ("Features", "Feature"):
                said = draw(rng, category.attributes[source])
                unasked += [said] if said.casefold() not in values else []
    if n_offers > 1:
        _share(rng, slots)
    schema = AttributeSchema(
        category=rng.choice(category.names) if (shown := rng.random()) < 0.9 else None,
        description=f"{rng.choice(category.products)}, {rng.choice(category.products)}" if shown < 0.15 else None,
        attributes=tuple(s.attribute for s in slots),
    )
    # Offers that are alike, as demonstrations are, often come from one seller: a value stands where it stood before.
    sellers = [_Seller(rng) for _ in range(min(n_offers, rng.choice((1, 1, 2, 3, n_offers))))]
    offers = [
        _OfferBuilder(lexicon, rng, category, slots, unasked, rng.choice(sellers)).build(f"s{i}")
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
