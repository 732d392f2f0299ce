"""How sellers write an offer of an episode: titles built from segments, and descriptions. A value is what its segment holds, so
that gold is exact by construction.
"""

from collections.abc import Hashable, Sequence
from random import Random
from typing import Any, cast

from extractor.records import LabelledOffer
from finetune.lexicon import Category, Lexicon, coined_word, draw, named
from finetune.slots import Run, Slot, digits

# Begins of attributes whose values stand behind the brand or at the end of a title.
_CODES = ("Model", "Style N", "Part Number", "Item Number", "Manufacturer ", "Product Number")
_NUMBERED = ("", " #{1-99}", " {1-99}", "'s")
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


class Seller:
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


class OfferBuilder:
    """Builds one offer; `gold` fills up as values are placed."""

    def __init__(
        self,
        lexicon: Lexicon,
        rng: Random,
        category: Category,
        slots: list[Slot],
        distractors: list[str],
        seller: Seller,
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
        if kind < 0.24 and self.category.language == "en":  # people: on shirts, as authors, as designers
            return f"{rng.choice(self.shared['first_names'])} {coined_word(rng).capitalize()}" + draw(rng, _NUMBERED)
        return _cased(rng, self.seller.case, rng.choice(self.category.noise))

    def build(self, identity: str) -> LabelledOffer:
        rng, seller, zh = self.rng, self.seller, self.category.language == "zh"
        filled = [s for s in self.slots if not s.run and rng.random() < s.present]
        measured = [s for s in self.slots if s.run and rng.random() < s.present][:1]
        with_description = seller.share("description") < (0.15 if zh else 0.3)
        in_title = [s for s in filled if not with_description or seller.share((s, "title")) < 0.65]
        repeated = rng.choice((0.0, 0.0, 0.3, 0.6))
        in_description = [s for s in filled if s not in in_title or rng.random() < repeated]
        segments = [(self.segment(s), s.source) for s in in_title]
        runs = [self.run(s.run) for s in measured if s.run]
        if not (with_description and seller.share("measures") < 0.5):
            segments += [(run, "Size") for run in runs]
            runs = []
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
        description = self.description(in_description, runs) if with_description else None
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

    def run(self, run: Run) -> str:
        """Measures in one run; those that the schema asks for enter gold."""
        drawn = {side: draw(self.rng, (number,)) for side, number in run.numbers.items()}
        for slot in self.slots:
            if slot.run is run:
                self.gold[slot.attribute.name] = [drawn[slot.side] + slot.mark]
        text = run.notation
        for side, number in drawn.items():
            text = text.replace(f"{{{side}}}", number)
        return text

    def description(self, slots: list[Slot], said: list[str]) -> str:
        rng, zh = self.rng, self.category.language == "zh"
        phrases = self.shared["zh_description_phrases" if zh else "description_phrases"]
        if rng.random() < 0.2:  # a table of specifications
            phrases = [rng.choice(("{name}: {}", "{name} : {}", "{name} - {}", "{name}：{}" if zh else "- {name}: {}"))]
        sentences = [
            rng.choice(phrases).replace("{name}", s.attribute.name).replace("{}", self.value(s)) for s in slots
        ]
        sentences += said
        filler = self.shared["zh_sentences" if zh else "sentences"]
        length = rng.choice((0, 1, 1, 2, 2, 3, 5, 5, 12, 25))
        sentences += [draw(rng, filler) if rng.random() < 0.6 else self.noise() for _ in range(length)]
        rng.shuffle(sentences)
        if rng.random() < 0.1:  # sellers repeat themselves; an answer must not
            sentences *= rng.randint(2, 4)
        return ("" if zh else rng.choice((" ", " ", "\n", "<br>", " | ", ", "))).join(sentences) or draw(rng, filler)
