"""Perturbed offers: their gold stays exact, whatever the text, and each perturbation does what its name says."""

import re
from collections import Counter
from pathlib import Path
from random import Random

import pytest
import yaml
from conftest import SHARED, labelled
from hypothesis import given, settings
from hypothesis import strategies as st

from eval import perturb as module
from eval.baselines.spans import occurrences
from eval.datasets import Dataset, load_dataset
from eval.edits import Edit, edited, free, gaps, gold_blocks, merged
from eval.perturb import INJECTIONS, PERTURBATIONS, injected_value, language, misspelled, perturb, perturbations
from extractor.records import LabelledOffer

REWRITE_GOLD = {"typos-in-values", "upper", "lower", "formats"}
OTHER = labelled("Ostrin Peak Walking Boot")
ALL = perturbations([OTHER])


def offer_of(title: str, description: str | None = None, **gold: list[str]) -> LabelledOffer:
    return LabelledOffer(id=title[:20] or "x", title=title, description=description, category="Shoes", attributes=gold)


def stands(value: str, offer: LabelledOffer) -> bool:
    return any(value.strip() in text for text in offer.texts().values())


def stands_whole(value: str, offer: LabelledOffer) -> bool:
    return any(occurrences(value.strip(), text) for text in offer.texts().values())


def assert_exact(before: LabelledOffer, after: LabelledOffer, name: str) -> None:
    """Gold values that stood in the text stand in it again, whole words whole; all others are untouched."""
    assert (after.id, after.category, after.absent) == (before.id, before.category, before.absent)
    assert list(after.attributes) == list(before.attributes)
    LabelledOffer.model_validate(after.model_dump())
    for attribute, values in before.attributes.items():
        now = after.attributes[attribute]
        nowhere = [v for v in values if v.strip() and not stands(v, before)]
        assert set(nowhere) <= set(now), name
        assert all(stands(v, after) for v in now if v not in nowhere), (name, before, after)
        if name not in REWRITE_GOLD:
            assert now == values, name
        if values and all(stands_whole(v, before) for v in values):
            assert now and all(stands_whole(v, after) for v in now), (name, before, after)


# Texts out of everything that makes spans hard: values in values, torn ones, repeated ones, scripts, quantities, separators.
PARTS = [
    "Velmora",
    "Tarn & Holt",
    "Tan",
    "Tanned",
    "500 ml",
    "0.5 l",
    "1,000 pcs",
    "4 x 6 cm",
    "M",
    "Ms",
    "Women's",
    "with",
]
PARTS += [
    "Black/White",
    "12 D",
    "C++",
    "黑色",
    "男士运动鞋",
    "包邮",
    "30克",
    "straße",
    "e\u0301t\u00e9",
    "🔥",
    "</title>",
    '"',
    "and",
]
TEXTS = st.lists(st.tuples(st.sampled_from(PARTS), st.sampled_from([" ", "", ", ", "/", "  "])), max_size=12).map(
    lambda parts: "".join(part + separator for part, separator in parts)
)


@st.composite
def offers(draw: st.DrawFn) -> LabelledOffer:
    """Gold out of the parts, whole or not in the text, and of any slice of it."""
    title, description = draw(TEXTS.filter(str.strip)), draw(st.none() | TEXTS.filter(str.strip))
    cut = st.tuples(st.integers(0, len(title)), st.integers(1, 12)).map(lambda c: title[c[0] : c[0] + c[1]])
    values = st.lists((st.sampled_from(PARTS) | cut).filter(str.strip), max_size=3, unique=True)
    return offer_of(title, description, **{name: draw(values) for name in ("A", "B", "C")})


@settings(max_examples=100, deadline=None)
@given(offers(), st.integers(0, 1000))
def test_gold_stays_exact_under_every_perturbation(offer, seed):
    for name, change in ALL.items():
        after = change(offer, Random(seed))
        assert_exact(offer, after, name)
        assert after == change(offer, Random(seed)), name


@pytest.mark.parametrize("name", ["oa_mine", "ae_110k", "wdc_pave_normalized", "zh_ecommerce_ner"])
def test_gold_stays_exact_in_public_sets(name):
    if not SHARED.is_dir():
        pytest.skip(f"the labelled offers are not here: {SHARED}")
    whole = load_dataset(SHARED / name, "validation")
    dataset = Dataset(name, "validation", whole.offers[:40], whole.schemas, {})
    for kind in perturbations(()):
        changed = perturb(dataset, kind, seed=1)
        for before, after in zip(dataset.offers, changed.offers, strict=True):
            assert_exact(before, after, kind)
        if kind not in ("lower", "upper", "typos", "formats", "synonyms"):  # those find nothing in much Han text
            differ = sum(a.texts() != b.texts() for a, b in zip(dataset.offers, changed.offers, strict=True))
            assert differ >= 4, kind
        assert changed.offers == perturb(dataset, kind, seed=1).offers


# --- edits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gold", "edits", "title", "after"),
    [
        ("Tan", [(4, 7, "Shoe")], "Tan Shoe Tan", "Tan"),  # outside
        ("Tan", [(0, 3, "Red"), (8, 11, "Red")], "Red Bot Red", "Red"),  # every place alike
        ("Tan", [(0, 3, "Red")], "Tan Bot Tan", "Tan"),  # one place only: left out
        ("Tan", [(2, 5, "x")], "Tan Bot Tan", "Tan"),  # across the border: left out
        ("Tan", [(3, 3, " new"), (8, 8, "so ")], "Tan new Bot so Tan", "Tan"),  # put in at a border
        ("Bot", [(5, 6, "oo")], "Tan Boot Tan", "Boot"),
        ("Bot", [(4, 7, " ")], "Tan Bot Tan", "Bot"),  # would leave nothing of the value
        ("an B", [(4, 5, "P")], "Tan Pot Tan", "an P"),  # no whole word, yet a span
        ("Red", [(0, 3, "Blue"), (8, 11, "Blue")], "Blue Bot Blue", "Red"),  # stands nowhere: not touched
    ],
)
def test_gold_follows_edits(gold, edits, title, after):
    made = edited(offer_of("Tan Bot Tan", A=[gold]), [Edit("title", *edit) for edit in edits])
    assert (made.title, made.attributes) == (title, {"A": [after]})


def test_values_in_values_and_in_both_fields_follow_together():
    offer = offer_of("Tarn Boot", "A Tarn Boot by Tarn.", Brand=["Tarn"], Name=["Tarn Boot"])
    torn = edited(offer, [Edit("title", 0, 4, "Karu")])
    assert torn == offer
    places = [("title", 0), ("description", 2), ("description", 15)]
    made = edited(offer, [Edit(field, begin, begin + 4, "Karu") for field, begin in places])
    assert made.texts() == {"title": "Karu Boot", "description": "A Karu Boot by Karu."}
    assert made.attributes == {"Brand": ["Karu"], "Name": ["Karu Boot"]}


def test_blocks_and_gaps():
    assert merged([(5, 8), (0, 3), (2, 6), (8, 9)]) == [(0, 8), (8, 9)]
    offer = offer_of("Tanned Tan Boot 男士运动鞋", A=["Tan Boot"], B=["anne"], C=["运动鞋"])
    assert gold_blocks(offer, "title") == [(0, 6), (7, 15), (18, 21)]
    assert gaps(offer.title, gold_blocks(offer, "title")) == [0, 7, 16, 18, 21]
    assert free([(0, 3), (5, 8)], 3, 5) and not free([(0, 3), (5, 8)], 3, 6)


# --- each perturbation ------------------------------------------------------------------------------------------------


def test_a_misspelled_value_is_misspelled_alike_wherever_it_stands():
    offer = offer_of("Velmora Loafer", "By Velmora. Not a Velmoran.", Brand=["Velmora"], Type=["Velmora Loafer"])
    after = PERTURBATIONS["typos-in-values"](offer, Random(3))
    (brand,), (kind,) = after.attributes["Brand"], after.attributes["Type"]
    assert after != offer and after.title == kind and "Velmoran" in after.description
    assert kind.startswith(brand) and f"By {brand}." in after.description


def test_typos_spare_gold_and_a_slip_is_one_slip():
    offer = offer_of("Velmora Comfortable Walking Loafer", Brand=["Velmora"])
    after = PERTURBATIONS["typos"](offer, Random(1))
    assert after.title.startswith("Velmora ") and after.title != offer.title
    for seed in range(200):
        made = misspelled("Loafer", Random(seed))
        assert made != "Loafer" and made[0] == "L" and (Counter("Loafer") - Counter(made)).total() <= 1


def test_case_is_of_the_whole_text_and_alternatives_that_become_one_are_one():
    offer = offer_of("Velmora Display Board", "a display board", Type=["Display Board", "display board"], Code=["bN1"])
    after = PERTURBATIONS["upper"](offer, Random(0))
    assert after.texts() == {"title": "VELMORA DISPLAY BOARD", "description": "A DISPLAY BOARD"}
    assert after.attributes == {"Type": ["DISPLAY BOARD"], "Code": ["bN1"]}


def test_word_order_moves_gold_whole():
    offer = offer_of("Tarn & Holt Suede Loafer, 6.4g/65mm", Brand=["Tarn & Holt"], Weight=["6.4g"])
    orders = {PERTURBATIONS["word-order"](offer, Random(seed)).title for seed in range(30)}
    assert len(orders) > 10 and all("Tarn & Holt" in t and "6.4g/65mm" in t for t in orders)
    assert {tuple(sorted(t.split())) for t in orders} == {tuple(sorted(offer.title.split()))}


def test_dropped_and_added_words():
    offer = offer_of("Velmora Soft Wide Comfortable Loafer Tan", Brand=["Velmora"], Color=["Tan"])
    for seed in range(30):
        fewer = PERTURBATIONS["dropped-words"](offer, Random(seed)).title.split()
        assert fewer == [w for w in offer.title.split() if w in fewer] and 2 < len(fewer) < 6
        more = PERTURBATIONS["added-words"](offer, Random(seed)).title.split()
        assert len(more) > 6 and not Counter(offer.title.split()) - Counter(more)
    assert PERTURBATIONS["dropped-words"](offer_of("Lamp"), Random(0)).title == "Lamp"


@pytest.mark.parametrize(
    ("title", "gold", "titles"),
    [
        ("Boots for Women", [], {"Boots for Ladies", "Boots For Ladies"}),
        ("Boots for Women", ["Women"], {"Boots for Women"}),
        ("Women's SHOES", [], {"Women's FOOTWEAR"}),
        ("Pack of 3, kids", [], {"Set Of 3, children"}),
        ("男女运动鞋包邮，日常都能穿", ["运动鞋"], {"男女通用运动鞋免邮，日常都能穿"}),
    ],
)
def test_synonyms(title, gold, titles):
    assert PERTURBATIONS["synonyms"](offer_of(title, A=gold), Random(0)).title in titles


@pytest.mark.parametrize(
    ("title", "gold", "titles", "golds"),
    [
        ("Oil 500 ml", ["500 ml"], {"Oil 500ml", "Oil 0.5 l"}, {"500ml", "0.5 l"}),
        ("Oil 500ml", ["500ml"], {"Oil 500 ml", "Oil 0.5l"}, {"500 ml", "0.5l"}),
        ("Oil 500 ml", ["500"], {"Oil 500 ml"}, {"500"}),  # only its number is gold
        ("Case 1000 pcs", ["Case"], {"Case 1000pcs", "Case 1,000 pcs"}, {"Case"}),
        ("Case 1,000 pcs", [], {"Case 1,000pcs", "Case 1000 pcs"}, set()),
        ("Rug 4 x 60 cm", [], {"Rug 4 x 60cm"}, set()),  # 600 mm would be another size
        ("Nail 5-60mm", [], {"Nail 5-60 mm"}, set()),
        ("Clog 11989M", [], {"Clog 11989 M"}, set()),
        ("Tea 3 g", [], {"Tea 3g"}, set()),  # nobody writes 0.003 kg
        ("Year 2018, 4x4", [], {"Year 2018, 4x4"}, set()),
        ("洗发水500毫升装", ["500毫升"], {"洗发水500 毫升装", "洗发水0.5升装"}, {"500 毫升", "0.5升"}),
    ],
)
def test_quantities_are_written_another_way_and_mean_the_same(title, gold, titles, golds):
    made = [PERTURBATIONS["formats"](offer_of(title, A=gold), Random(seed)) for seed in range(20)]
    assert {m.title for m in made} == titles
    assert {v for m in made for v in m.attributes["A"]} == golds


def test_texts_of_others():
    offer = labelled("Velmora Loafer", Brand="Velmora").model_copy(update={"description": "Soft."})
    made = PERTURBATIONS["boilerplate"](offer, Random(0))
    assert re.fullmatch(r".+ Velmora Loafer .+", made.title) and made.description.startswith("Soft. ")
    named = ALL["other-product"](offer, Random(0))
    assert named.title == offer.title and named.description.endswith("Ostrin Peak Walking")
    assert ALL["other-product"](OTHER, Random(0)) == OTHER  # there is no other


@pytest.mark.parametrize("kind", INJECTIONS)
@pytest.mark.parametrize(("title", "value"), [("Velmora Loafer", "Zentrixa"), ("红木家具厂家直销", "泽创思")])
def test_injections_ask_for_a_value_in_the_offers_language(kind, title, value):
    offer = offer_of(title, Brand=["Velmora"])
    made = PERTURBATIONS[kind](offer, Random(2))
    assert injected_value(offer) == value and made.title.startswith(title) and value in made.title
    assert kind != "injected-json" or f'{{"Brand": "{value}"}}' in made.title


def test_the_data_file_is_whole():
    data = yaml.safe_load(Path(module.__file__).with_name("perturb.yaml").read_text(encoding="utf-8"))
    assert set(data["injections"]) == set(INJECTIONS)
    for tongue in ("en", "zh"):
        phrases = [p for kind in data["injections"].values() for p in kind[tongue]]
        assert all("{value}" in p or "{answer}" in p for p in phrases)
        assert all(p.count("{other}") == 1 for p in data["distractors"][tongue])
        words = [w for line in data["synonyms"][tongue] for w in line]
        assert len(words) == len(set(words)) and all(w == w.lower() for w in words)
        others = [*words, *data["fillers"][tongue], *(t for part in data["boilerplate"][tongue].values() for t in part)]
        assert not any(data["injected"][tongue] in text for text in others)
        assert all(language(offer_of(text)) == tongue for text in data["boilerplate"][tongue]["description"])
