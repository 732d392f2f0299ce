import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractor.answer import parse_answer, write_answer
from extractor.schema import Attribute, AttributeSchema

SCHEMA = AttributeSchema(
    category="Probe",
    attributes=(
        Attribute(name="Brand"),
        Attribute(name='Quote "d"', multiple=True),
        Attribute(name="Gender", type="enum", values=("Men", "Women")),
        Attribute(name="Volume", type="number", unit="ml"),
        Attribute(name="Wireless", type="boolean"),
    ),
)
NONE = '{"Brand": null, "Quote \\"d\\"": null, "Gender": null, "Volume": null, "Wireless": null}'


def test_absent_values_are_null():
    assert write_answer(SCHEMA, {}) == NONE
    assert parse_answer(SCHEMA, NONE) == {a.name: [] for a in SCHEMA.attributes}


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda t: t.strip())


@given(
    TEXT, st.lists(TEXT, min_size=1, max_size=5, unique=True), st.sampled_from(["Men", "Women"]), st.integers(0, 9999)
)
def test_what_is_written_is_read_and_found_in_its_place(brand, quotes, gender, volume):
    values = {"Brand": [brand], 'Quote "d"': quotes, "Gender": [gender], "Volume": [str(volume)], "Wireless": ["true"]}
    text = write_answer(SCHEMA, values)
    read = parse_answer(SCHEMA, text)
    assert {name: [v.value for v in found] for name, found in read.items()} == values
    for found in read.values():
        for value in found:
            written = json.loads(text[value.begin : value.end])
            assert written == value.value or json.dumps(written) == value.value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'{' belongs"),
        ("null", "'{' belongs"),
        (NONE[:-1], "',' belongs"),
        (NONE + "x", "goes on"),
        ('{"Brand": null}', "lacks"),
        ('{"Brand": null, "Brand": null}', "twice"),
        ('{"Colour": null}', "no attribute of the schema"),
        (NONE.replace('"Brand": null', '"Brand": 5'), "not a text"),
        (NONE.replace('"Gender": null', '"Gender": "Dogs"'), "not one of"),
        (NONE.replace('"Volume": null', '"Volume": true'), "not a number"),
        (NONE.replace('"Wireless": null', '"Wireless": "true"'), "not a boolean"),
        (NONE.replace('d\\"": null', 'd\\"": [5]'), "not a text"),
        (NONE.replace('d\\"": null', 'd\\"": ["a" "b"]'), "',' belongs"),
        (NONE.replace('"Brand": null', '"Brand": nul'), "no JSON"),
    ],
)
def test_a_broken_answer_says_what_is_wrong(text, message):
    with pytest.raises(ValueError, match=message):
        parse_answer(SCHEMA, text)


def test_white_space_does_not_matter_and_repeated_list_values_count_once():
    text = '{ "Brand":null ,\n"Quote \\"d\\"" : [ "a", "a" ,"b", " \\n", null ], "Gender":null,"Volume":1.5,"Wireless":false } '
    read = parse_answer(SCHEMA, text)
    assert [v.value for v in read['Quote "d"']] == ["a", "b"]
    assert read["Volume"][0].value == "1.5"
