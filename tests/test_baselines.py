"""The systems to compare with: exact spans, and what they learn."""

from random import Random

import pytest
from conftest import assert_grounded, labelled

from eval.baselines.lookup import Lookup
from eval.baselines.spans import Span, gold_spans, occurrences, without_overlaps
from extractor import AttributeSchema, LabelledOffer

SCHEMA = AttributeSchema.from_names(["Brand", "Color", "Size"], "Shoes")


@pytest.mark.parametrize(
    ("value", "text", "places"),
    [
        ("Tan", "Tan Tanned Tan", [(0, 3), (11, 14)]),
        ("42", "EU 42/428", [(3, 5)]),
        ("6.4g", "Lure 6.4g/65mm", [(5, 9)]),
        ("C+", "C++ C+ (C+)", [(0, 2), (4, 6), (8, 10)]),
        ("黑", "黑色鞋", [(0, 1)]),
        ("", "x", []),
    ],
)
def test_values_are_found_as_whole_words(value, text, places):
    assert occurrences(value, text) == places


def test_gold_spans_prefer_the_longest_and_the_title():
    offer = labelled("Tarn & Holt Tan Boot", Brand="Tarn & Holt", Color="Tan", Size="Tan Boot")
    offer = offer.model_copy(update={"description": "Tan. Size 42.", "attributes": offer.attributes | {"Heel": ["42"]}})
    found = {(s.attribute, s.field, offer.texts()[s.field][s.begin : s.end]) for s in gold_spans(offer)}
    assert found == {("Brand", "title", "Tarn & Holt"), ("Size", "title", "Tan Boot"), ("Heel", "description", "42")}


def test_spans_of_other_fields_do_not_overlap():
    spans = [
        Span("a", "title", 0, 4),
        Span("b", "description", 0, 4),
        Span("c", "title", 3, 6),
        Span("d", "title", 4, 6),
    ]
    assert [s.attribute for s in without_overlaps(spans)] == ["a", "b", "d"]


def test_lookup_takes_the_longest_training_value_first():
    training = [labelled("x", Brand="Tarn"), labelled("y", Brand="Tarn & Holt", Color="Tan")]
    offers = [labelled("Tarn & Holt Loafer"), labelled("Unknown Boot"), labelled("Tanned Tan")]
    records = assert_grounded(offers, Lookup([SCHEMA]).fit(training).extract(offers))
    assert [v.value for v in records[0].attributes["Brand"]] == ["Tarn & Holt", "Tarn"]
    assert records[1].attributes == {"Brand": [], "Color": [], "Size": []}
    assert records[2].attributes["Color"][0].evidence.begin == 7


def _offers(n: int, seed: int) -> list[LabelledOffer]:
    """Brands of two words or one, colours, and sizes after EU; every other offer has its colour in a long description."""
    rng, offers = Random(seed), []
    for i in range(n):
        brand = rng.choice(["Velmora", "Tarn & Holt", "Karu", "Ostrin Peak"])
        color, size = rng.choice(["Tan", "Slate Grey", "Black"]), str(rng.randint(36, 46))
        title = f"{brand} Loafer {rng.choice(['Soft', 'Wide', 'New'])} EU {size}"
        description = f"{'A comfortable shoe for every day. ' * rng.randint(1, 60)}Comes in {color}." if i % 2 else None
        title = title if description else f"{title} {color}"
        gold = {"Brand": [brand], "Color": [color], "Size": [size]}
        offers.append(
            LabelledOffer(id=f"{seed}-{i}", title=title, description=description, category="Shoes", attributes=gold)
        )
    return offers


@pytest.mark.model
@pytest.mark.filterwarnings("ignore")
def test_a_tagger_learns_predicts_with_offsets_and_loads_again(tmp_path):
    from eval.baselines.token_classification import Recipe, TokenClassification

    training, offers = _offers(60, 1), _offers(20, 2)
    recipe = Recipe(epochs=6, learning_rate=5e-4)
    tagger = TokenClassification.train(training, [SCHEMA], tmp_path, recipe=recipe)
    assert any(len(tagger.windows(o)) > 1 for o in offers)
    records = assert_grounded(offers, tagger.extract(offers))
    cells = [
        record.attributes[name][:1] and record.attributes[name][0].value == offer.attributes[name][0]
        for record, offer in zip(records, offers, strict=True)
        for name in offer.attributes
    ]
    assert sum(map(bool, cells)) > 0.9 * len(cells)
    again = TokenClassification.load(tmp_path / "model").extract(offers)
    assert [r.attributes for r in again] == [r.attributes for r in records]
    hostile = [labelled("x " * 2000), labelled("🔥" * 50), labelled('" \\ \n <title>')]
    assert_grounded(hostile, tagger.extract(hostile))
