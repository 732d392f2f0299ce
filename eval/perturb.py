"""Labelled offers with their text perturbed and their gold still exact, for tests of robustness.

A perturbation is a pure function of an offer and a random generator; `perturb` seeds that generator from a seed, the
perturbation's name and the offer's id. One that finds nothing to change returns the offer as it was. The kinds follow CheckList
(Ribeiro et al. 2020, https://arxiv.org/abs/2005.04118) and what sellers do; the words are in perturb.yaml.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import yaml

from eval.datasets import Dataset
from eval.edits import Edit, edited, free, gaps, gold_blocks, is_han, merged, pieces, widened
from extractor.records import LabelledOffer

T = TypeVar("T")
Perturbation = Callable[[LabelledOffer, Random], LabelledOffer]

_LETTERS = re.compile(r"[^\W\d_\u3400-\u9fff]{4,}")
# A Han run keeps its first character, so that no Latin words on both sides of it become one.
_DROPPED = re.compile(r"(?<!\S)[^\s\u3400-\u9fff]+(?:\s+|\Z)|(?<=[\u3400-\u9fff])[\u3400-\u9fff]{2}")
_UNIT = re.compile(r"[\u3400-\u9fff]+|[^\s\u3400-\u9fff]+")


@lru_cache
def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("perturb.yaml").read_text(encoding="utf-8"))
    return loaded


def language(offer: LabelledOffer) -> str:
    """Which phrases suit an offer: "zh" where more than a third of the title is Han, else "en"."""
    han = sum(map(is_han, offer.title))
    return "zh" if 3 * han > len(offer.title) else "en"


def _some(items: Sequence[T], share: float, rng: Random, most: int | None = None) -> list[T]:
    """Each with this chance, at least one if there is any, and at most `most`."""
    chosen = [item for item in items if rng.random() < share] or list(items[:1] and [rng.choice(items)])
    return rng.sample(chosen, most) if most is not None and len(chosen) > most else chosen


# --- spelling ---------------------------------------------------------------------------------------------------------

_NEIGHBOURS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")  # rows of a keyboard


def misspelled(word: str, rng: Random) -> str:
    """A word of three letters or more with one slip: two letters swapped, one left out, doubled, or a neighbouring key."""
    i = rng.randrange(1, len(word) - 1)
    row = next((r for r in _NEIGHBOURS if word[i].lower() in r), "")
    slips = [word[:i] + word[i + 1 :], word[: i + 1] + word[i:]]
    if word[i] != word[i + 1]:
        slips.append(word[:i] + word[i + 1] + word[i] + word[i + 2 :])
    if row:
        at = row.index(word[i].lower())
        key = row[at - 1 if at else 1]
        slips.append(word[:i] + (key.upper() if word[i].isupper() else key) + word[i + 1 :])
    return rng.choice(slips)


def typos(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """A third of the words outside gold misspelled; Han text has none."""
    words = list(_matches(offer, _LETTERS))
    return edited(offer, [Edit(f, *m.span(), misspelled(m[0], rng)) for f, m in _some(words, 0.3, rng)])


def typos_in_values(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """Half of the words of gold misspelled, each the same way wherever it stands in gold, which follows: the task is to copy."""
    found = list(_matches(offer, _LETTERS, gold=True))
    chosen = {w: misspelled(w, rng) for w in _some(list(dict.fromkeys(m[0] for _, m in found)), 0.5, rng)}
    return edited(offer, [Edit(f, *m.span(), chosen[m[0]]) for f, m in found if m[0] in chosen])


def _matches(offer: LabelledOffer, pattern: re.Pattern[str], gold: bool = False) -> Iterator[tuple[str, re.Match[str]]]:
    """Matches outside gold, or (`gold`) those that touch it, with their fields."""
    for field, text in offer.texts().items():
        blocks = gold_blocks(offer, field)
        yield from ((field, m) for m in pattern.finditer(text) if free(blocks, *m.span()) != gold)


def cased(offer: LabelledOffer, rng: Random, change: Callable[[str], str]) -> LabelledOffer:
    """All text in one case; gold follows."""
    return edited(offer, [Edit(f, b, e, change(offer.texts()[f][b:e])) for f, b, e in pieces(offer)])


# --- words ------------------------------------------------------------------------------------------------------------


def word_order(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """The title's words and gold values shuffled, each value whole. Punctuation stays with its word; unbroken Han text is cut
    at gold only."""
    title = offer.title
    blocks = merged(widened(title, block, lambda c: not c.isspace()) for block in gold_blocks(offer, "title"))
    begins = [0, *(e for _, e in blocks)]
    units = list(blocks)
    for begin, end in zip(begins, [*(b for b, _ in blocks), len(title)], strict=True):
        units += [m.span() for m in _UNIT.finditer(title, begin, end)]
    units.sort()
    between = [title[a[1] : b[0]] for a, b in pairwise(units)]
    words = [title[b:e] for b, e in units]
    rng.shuffle(words)
    out = words[:1]
    for separator, before, word in zip(between, words, words[1:], strict=False):
        touching = not separator and not (is_han(before[-1]) or is_han(word[0]))
        out += [" " if touching else separator, word]
    return offer.model_copy(update={"title": "".join(out)}) if units else offer


def dropped_words(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """A fifth of the words outside gold left out (of Han text, pairs of characters), never all."""
    words = list(_matches(offer, _DROPPED))
    if len(words) < 2:
        return offer
    return edited(offer, [Edit(f, *m.span(), "") for f, m in _some(words, 0.2, rng, most=len(words) // 2)])


def added_words(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """Three phrases that sellers add, somewhere in the title."""
    fillers = rng.sample(_data()["fillers"][language(offer)], 3)
    places = gaps(offer.title, gold_blocks(offer, "title"))
    return edited(
        offer, [_inserted(offer, i, filler) for i, filler in zip(rng.choices(places, k=3), fillers, strict=True)]
    )


def _inserted(offer: LabelledOffer, place: int, phrase: str) -> Edit:
    """The phrase in the title, set off by spaces unless it is Han."""
    if is_han(phrase[0]):
        return Edit("title", place, place, phrase)
    return Edit("title", place, place, f" {phrase}" if place == len(offer.title) else f"{phrase} ")


def synonyms(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """Words and phrases outside gold replaced by others of the same meaning, capitals kept."""
    others = {word: [w for w in line if w != word] for line in _data()["synonyms"][language(offer)] for word in line}
    border = r"(?<![^\W\u3400-\u9fff])", r"(?![^\W\u3400-\u9fff]|['’])"
    longest = "|".join(re.escape(word) for word in sorted(others, key=len, reverse=True))
    pattern = re.compile(f"{border[0]}(?:{longest}){border[1]}", re.IGNORECASE)
    edits = []
    for field, m in _matches(offer, pattern):
        word = rng.choice(others[m[0].lower()])
        word = word.upper() if m[0].isupper() else word.title() if m[0] != m[0].lower() else word
        edits.append(Edit(field, *m.span(), word))
    return edited(offer, edits)


# --- units and numbers ------------------------------------------------------------------------------------------------


def formats(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """Quantities written another way: "500 ml" as "500ml" or "0.5 l", "1000 pcs" as "1,000 pcs". Gold that holds a whole quantity
    follows; where gold is only its number, it stays. In ranges and sizes (4 x 6 cm) only spaces change."""
    ways = rng.sample([_converted, _grouped, _spaced], 3)
    edits = []
    for field, text in offer.texts().items():
        for m in _quantity().finditer(text):
            allowed = [_spaced] if _SERIES.search(text, 0, m.start()) else [*ways, _spaced]
            edits.append(Edit(field, *m.span(), next(w for way in allowed if (w := way(*m.groups())))))
    return edited(offer, edits)


_SERIES = re.compile(r"\d\s*(?:[-–~/x×*+&]|\b(?:to|or|and|by)\b)\s*\Z", re.IGNORECASE)


@lru_cache
def _quantity() -> re.Pattern[str]:
    """Number, space and unit."""
    units = "|".join(sorted(map(re.escape, _data()["units"]["spaced"]), key=len, reverse=True))
    number = r"\d{1,3}(?:,\d{3})+|\d+(?:\.\d+)?"
    return re.compile(rf"(?<![A-Za-z0-9.,])({number})( ?)({units})(?![A-Za-z0-9]|[.,]\d)", re.IGNORECASE)


def _spaced(number: str, space: str, unit: str) -> str:
    return f"{number}{'' if space else ' '}{unit}"


def _grouped(number: str, space: str, unit: str) -> str | None:
    whole = number.replace(",", "")
    model = not space and len(unit) == 1  # 11989M is a shoe
    if model or not whole.isdigit() or len(whole) < 4 or whole[0] == "0":
        return None
    return f"{whole if ',' in number else format(int(whole), ',')}{space}{unit}"


def _converted(number: str, space: str, unit: str) -> str | None:
    """In the neighbouring unit, where that stays a number that people write: 0.1 or more and at most three decimals."""
    other, factor = _data()["units"]["conversions"].get(unit, (None, None))
    if other is None or "," in number:
        return None
    value = (Decimal(number) * Decimal(factor)).normalize()
    if not Decimal("0.1") <= value < 100_000 or value != round(value, 3):
        return None
    return f"{value:f}{space}{other}"


# --- text of others ---------------------------------------------------------------------------------------------------


def boilerplate(offer: LabelledOffer, rng: Random) -> LabelledOffer:
    """What shops put before and after a title, and at the end of a description."""
    data, zh = _data()["boilerplate"][language(offer)], language(offer) == "zh"
    space = "" if zh else " "
    edits = [
        Edit("title", 0, 0, rng.choice(data["before"]) + space),
        Edit("title", len(offer.title), len(offer.title), space + rng.choice(data["after"])),
    ]
    if offer.description:
        end = len(offer.description)
        edits.append(Edit("description", end, end, space + rng.choice(data["description"])))
    return edited(offer, edits)


def other_product(offers: Sequence[LabelledOffer]) -> Perturbation:
    """A perturbation that names a product of another of these offers, of the same category if there is one: "fits …"."""
    by_category: dict[str | None, list[LabelledOffer]] = {}
    for offer in offers:
        by_category.setdefault(offer.category, []).append(offer)

    def named(offer: LabelledOffer, rng: Random) -> LabelledOffer:
        for pool in (by_category.get(offer.category, ()), offers):
            if others := [o for o in pool if o.id != offer.id and o.title != offer.title]:
                phrase = rng.choice(_data()["distractors"][language(offer)])
                return _appended(offer, phrase.replace("{other}", _name_of(rng.choice(others).title)))
        return offer

    return named


def _name_of(title: str) -> str:
    """How a title begins: three words, or eight characters of text without spaces."""
    words = title.split()[:3]
    return " ".join(words) if not any(map(is_han, title)) else " ".join(words)[:8]


def _appended(offer: LabelledOffer, text: str) -> LabelledOffer:
    """With text at the end of the last field."""
    field, before = list(offer.texts().items())[-1]
    space = "" if is_han(text[0]) or text[0] in "，\n" else " "
    return edited(offer, [Edit(field, len(before), len(before), space + text)])


def injected_value(offer: LabelledOffer) -> str:
    """The value that injections ask for in offers of this language."""
    return str(_data()["injected"][language(offer)])


def injected(offer: LabelledOffer, rng: Random, kind: str) -> LabelledOffer:
    """An instruction to the model at the end of the text, asking for `injected_value`."""
    value = injected_value(offer)
    answer = json.dumps(dict.fromkeys([*offer.attributes, *offer.absent] or ["Brand"], value), ensure_ascii=False)
    text = rng.choice(_data()["injections"][kind][language(offer)])
    return _appended(offer, text.replace("{answer}", answer).replace("{value}", value))


INJECTIONS = ("injected-nothing", "injected-order", "injected-chat", "injected-tag", "injected-json")
PERTURBATIONS: dict[str, Perturbation] = {
    "typos": typos,
    "typos-in-values": typos_in_values,
    "upper": partial(cased, change=str.upper),
    "lower": partial(cased, change=str.lower),
    "word-order": word_order,
    "dropped-words": dropped_words,
    "added-words": added_words,
    "synonyms": synonyms,
    "formats": formats,
    "boilerplate": boilerplate,
    **{kind: partial(injected, kind=kind) for kind in INJECTIONS},
}


def perturbations(offers: Sequence[LabelledOffer]) -> dict[str, Perturbation]:
    """All of them by name, with the one that needs other offers."""
    return PERTURBATIONS | {"other-product": other_product(offers)}


def perturb(dataset: Dataset, name: str, seed: int = 0) -> Dataset:
    """The data set with every offer perturbed; the split is named after it."""
    change = perturbations(dataset.offers)[name]
    offers = tuple(change(o, Random(f"{seed} {name} {o.id}")) for o in dataset.offers)
    return replace(dataset, split=f"{dataset.split}-{name}", offers=offers)
