"""Where gold values stand in an offer, and the labels of its words."""

import re

import pytest
from conftest import labelled

from eval.baselines.bio import learn_trims, tag, trimmed
from eval.baselines.spans import Span, gold_spans, occurrences, without_overlaps
from eval.baselines.windows import Window
from extractor import ProductOffer


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


@pytest.mark.parametrize(
    ("title", "value", "places"),
    [
        ("Printed Print Boot", "Print", [(8, 13)]),
        ("Printed Boot", "Print", [(0, 5)]),
        ("Sport Boot", "port", []),
        ("Oxford Boot", "O", []),
    ],
)
def test_a_value_that_is_no_word_begins_one(title, value, places):
    assert [(s.begin, s.end) for s in gold_spans(labelled(title, Pattern=value))] == places


def test_of_two_attributes_with_one_value_the_more_frequent_gets_it():
    offer = labelled("Karu Boot", Name="Karu", Brand="Karu")
    assert [s.attribute for s in gold_spans(offer, {"Name": 1, "Brand": 2})] == ["Brand"]
    assert [s.attribute for s in gold_spans(offer, {"Name": 2, "Brand": 1})] == ["Name"]


def test_spans_of_other_fields_do_not_overlap():
    spans = [
        Span("a", "title", 0, 4),
        Span("b", "description", 0, 4),
        Span("c", "title", 3, 6),
        Span("d", "title", 4, 6),
    ]
    assert [s.attribute for s in without_overlaps(spans)] == ["a", "b", "d"]


def test_words_are_labelled_by_the_span_they_touch():
    spans = [Span("Brand", "title", 0, 11), Span("Pattern", "title", 12, 17)]
    words = [(0, 4), (5, 6), (7, 11), (12, 19), (20, 24)]
    tags = [tag(("title", b, e), spans) for b, e in words]
    assert tags == ["B-Brand", "I-Brand", "I-Brand", "B-Pattern", "O"]


def test_trims_are_learned_by_majority():
    def example(title: str, value: str):
        words = [("title", m, m + len(w)) for w in title.split() for m in [title.index(w)]]
        spans = gold_spans(labelled(title, Pattern=value))
        return {"title": title}, [Window([], [], words)], spans

    labels = [("Printed Boot", "Print"), ("Printed Shoe", "Print"), ("Printed Cap", "Printed"), ("Dots Cap", "Dots")]
    trims = learn_trims(example(*label) for label in labels)
    assert trims == {"Pattern": {"Printed": "Print"}}
    assert trimmed(Span("Pattern", "title", 4, 11), "New Printed Hat", trims) == Span("Pattern", "title", 4, 9)
    for other in (Span("Style", "title", 4, 11), Span("Pattern", "title", 12, 15)):
        assert trimmed(other, "New Printed Hat", trims) == other


def test_long_descriptions_are_read_in_windows_with_the_title_before_each():
    from transformers import AutoTokenizer

    from eval.baselines.encoder import encoder_folder
    from eval.baselines.windows import offer_windows, question_windows

    tokenizer = AutoTokenizer.from_pretrained(encoder_folder())
    long = "A comfortable shoe for every day. " * 40 + "Comes in Tan."
    offer = ProductOffer(id="1", title="Karu Loafer EU 42", description=long)
    texts = offer.texts()
    everything = {(f, m.start(), m.end()) for f, text in texts.items() for m in re.finditer(r"\w+|[^\w\s]", text)}
    for windows, repeated in [
        (offer_windows(tokenizer, offer), "title"),
        (question_windows(tokenizer, "Size", offer), ""),
    ]:
        assert len(windows) > 1 and max(len(w.input_ids) for w in windows) <= 256
        seen = [{word for _, word in w.first_pieces()} for w in windows]
        assert set.union(*seen) == everything
        assert all(
            {w for w in words if w[0] == repeated} == {w for w in everything if w[0] == repeated} for words in seen
        )
