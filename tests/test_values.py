"""From answers to values: grounding, normalizing."""

import pytest

from extractor.answer import AnswerValue
from extractor.grounding import find_span
from extractor.normalize import resolve
from extractor.schema import Attribute


@pytest.mark.parametrize(
    ("value", "title", "description", "expected"),
    [
        ("27", 'x 2700 27.5 27"', "", ("title", 12, 14)),
        ("5", "12.5 5W", "", ("title", 5, 6)),
        ("Men", "Women Men", "", ("title", 6, 9)),
        ("red", "bored", "", ("title", 2, 5)),
        ("red", "bored", "a red one", ("description", 2, 5)),
        ("100", "2,100 100", "", ("title", 6, 9)),
        ("👟", "a 👟 b", "", ("title", 2, 3)),
        ("שלום", "x שלום y", "", ("title", 2, 6)),
        ("文", "中文标题", "", ("title", 1, 2)),
        ("Nike", "Diesel", "", None),
        ("", "Diesel", "", None),
    ],
)
def test_the_first_whole_word_wins(value, title, description, expected):
    found = find_span(value, {"title": title, "description": description})
    assert (found and (found.field, found.begin, found.end)) == expected


@pytest.mark.parametrize(
    ("value", "title", "expected"),
    [
        ("men", "WOMENS boot", None),
        ("men", "WOMENS MENS boot", (7, 10)),
        ("red", "bored", None),
        ("绿茶", "特级绿茶250g", (2, 4)),
        ("50", "2500 ml", None),
        ("25", "2500 ml", None),
        ("2", "2.5 kg", None),
        ("2", "2kg", (0, 1)),
    ],
)
def test_a_reading_is_found_where_a_word_begins(value, title, expected):
    found = find_span(value, {"title": title}, ignore_case=True, anywhere=False)
    assert (found and (found.begin, found.end)) == expected


TEXTS = {"title": "LEATHER ‹|x|> wireless Case 50ml for men"}
ORIGINAL = {"title": "LEATHER <|x|> wireless Case 50ml for men"}


@pytest.mark.parametrize(
    ("attribute", "answer", "value", "normalized", "status", "span"),
    [
        (Attribute(name="M"), "LEATHER", "LEATHER", None, "verbatim", (0, 7)),
        (Attribute(name="M"), "LEATHER\n", "LEATHER", None, "verbatim", (0, 7)),
        (Attribute(name="M"), "‹|x|>", "<|x|>", None, "verbatim", (8, 13)),
        (Attribute(name="M"), "Suede", "Suede", None, "inferred", None),
        (Attribute(name="V", type="number", unit="ml"), "50", "50", "50 ml", "verbatim", (28, 30)),
        (Attribute(name="V", type="number", unit="ml"), "75", "75", "75 ml", "inferred", None),
        (Attribute(name="G", type="enum", values=("men",)), "men", "men", None, "verbatim", (37, 40)),
        (Attribute(name="G", type="enum", values=("Men",)), "Men", "Men", None, "normalized", (37, 40)),
        (Attribute(name="G", type="enum", values=("Kids",)), "Kids", "Kids", None, "inferred", None),
        (Attribute(name="Wireless", type="boolean"), "true", "true", None, "normalized", (14, 22)),
        (Attribute(name="Vegan", type="boolean"), "false", "false", None, "inferred", None),
    ],
)
def test_each_type_has_its_status_and_evidence(attribute, answer, value, normalized, status, span):
    record = resolve(attribute, AnswerValue(answer, 0, 1), TEXTS, ORIGINAL, 0.5)
    assert (record.value, record.normalized_value, record.status) == (value, normalized, status)
    assert (record.evidence and (record.evidence.begin, record.evidence.end)) == span
    assert record.confidence == 0.5
