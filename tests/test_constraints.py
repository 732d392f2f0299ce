"""The constraints against llguidance itself, byte by byte: what they let through, and what not."""

import json

import pytest
from conftest import hostile_titles
from hypothesis import given, settings
from hypothesis import strategies as st
from llguidance import LLMatcher, LLTokenizer

from extractor.answer import parse_answer, write_answer
from extractor.constraints import build_constraint
from extractor.prompts import neutralize
from extractor.schema import Attribute, AttributeSchema

TOKENIZER = LLTokenizer("byte")
NAMES = AttributeSchema.from_names(["Brand", 'Col"or'])
TITLE = 'Diesel "Foo\\Bar" men\'s 27" x 5W jeans\n\tblue 100% Cotton, Ünï 👟 中文标题 \x00\x1f end'
TEXTS = {"title": TITLE, "description": "a description here"}


def accepts(schema: AttributeSchema, texts: dict[str, str], answer: str, grounding: str = "strict") -> bool:
    constraint = build_constraint(schema, texts, grounding)
    grammar = LLMatcher.grammar_from_json_schema(constraint.schema) if grounding == "off" else constraint.definition
    matcher = LLMatcher(TOKENIZER, grammar)
    assert not matcher.get_error(), matcher.get_error()
    data = list(answer.encode())
    if matcher.validate_tokens(data) < len(data):
        return False
    matcher.consume_tokens(data)
    return matcher.is_accepting()


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("Diesel", True),
        ('"Foo\\Bar"', True),
        ('27"', True),
        ('27" x 5W', True),
        ("5", True),
        ("5W", True),
        ("中文标题", True),
        ("文", True),
        ("👟", True),
        ("jeans\n\tblue", True),
        ("\x00", True),
        ("a description", True),
        ("Foo\\", True),
        ("ies", False),
        ("Diese", False),
        ("", False),
        (" ", False),
        ("Diesel ", False),
        (" Diesel", False),
        ("\n\tblue", False),
        ("\n\t", False),
        ("end a", False),
        ("Nike", False),
        ("diesel", False),
    ],
)
def test_strict_text_is_a_span_of_one_field(value, allowed):
    answer = write_answer(NAMES, {"Brand": [value], 'Col"or': ["blue"]})
    assert accepts(NAMES, TEXTS, answer) is allowed
    assert accepts(NAMES, TEXTS, answer, "off") is (value != "")


def test_null_is_always_allowed():
    for grounding in ("strict", "off"):
        assert accepts(NAMES, TEXTS, write_answer(NAMES, {}), grounding)


TYPED = AttributeSchema(
    attributes=(
        Attribute(name="Gender", type="enum", values=("Men's", 'Wo"men')),
        Attribute(name="Volume", type="number", unit="ml"),
        Attribute(name="Wireless", type="boolean"),
        Attribute(name="Color", multiple=True),
    )
)


@pytest.mark.parametrize("grounding", ["strict", "off"])
@pytest.mark.parametrize(
    ("answer", "allowed"),
    [
        ('{"Gender": "Men\'s", "Volume": 50, "Wireless": true, "Color": ["blue", "jeans"]}', True),
        ('{"Gender": "Wo\\"men", "Volume": -1.5, "Wireless": false, "Color": ["blue"]}', True),
        ('{"Gender": null, "Volume": null, "Wireless": null, "Color": null}', True),
        ('{"Gender": "Dogs", "Volume": null, "Wireless": null, "Color": null}', False),
        ('{"Gender": null, "Volume": "50", "Wireless": null, "Color": null}', False),
        ('{"Gender": null, "Volume": null, "Wireless": "yes", "Color": null}', False),
        ('{"Gender": null, "Volume": null, "Wireless": null, "Color": []}', False),
        ('{"Gender": null, "Volume": null, "Wireless": null, "Color": "blue"}', False),
        ('{"Volume": null, "Gender": null, "Wireless": null, "Color": null}', False),
        ('{"Gender":null,"Volume":null,"Wireless":null,"Color":null}', False),
        ('{"Gender": null, "Volume": null, "Wireless": null, "Color": null,  }', False),
    ],
)
def test_closed_types_follow_the_schema_with_the_serialization_of_training(grounding, answer, allowed):
    assert accepts(TYPED, TEXTS, answer, grounding) is allowed


def test_lists_strings_and_numbers_are_bounded():
    long = {"title": " ".join(f"w{i}" for i in range(400))}
    one = AttributeSchema(attributes=(Attribute(name="C", multiple=True),))
    assert accepts(one, long, json.dumps({"C": [f"w{i}" for i in range(8)]}))
    assert not accepts(one, long, json.dumps({"C": [f"w{i}" for i in range(9)]}))
    assert not accepts(one, long, json.dumps({"C": [long["title"][:400]]}))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(hostile_titles(200)), st.data())
def test_any_chunk_sequence_of_hostile_text_is_allowed_and_comes_back(title, data):
    from extractor.constraints import _CHUNKS

    shown = neutralize(title)[:600]
    chunks = _CHUNKS.findall(shown)
    assert "".join(chunks) == shown
    begin = data.draw(st.integers(0, len(chunks) - 1))
    end = data.draw(st.integers(begin + 1, min(begin + 6, len(chunks))))
    value = "".join(chunks[begin:end])
    written = json.dumps(value, ensure_ascii=False)[1:-1]
    # No span of the grammar: white space at an end, as it stands or, at the beginning, escaped.
    if not value.strip() or written[0].isspace() or value[0] in "\t\n\r\f\b" or written[-1].isspace():
        return
    if len(written) > 148:
        return
    schema = AttributeSchema.from_names(["Brand"])
    answer = write_answer(schema, {"Brand": [value]})
    assert accepts(schema, {"title": shown}, answer)
    assert parse_answer(schema, answer)["Brand"][0].value == value
