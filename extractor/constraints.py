"""Constraints on what the model may write: schema and offer in, an Outlines type out.

`off`: JSON Schema of the answer. `strict`: a grammar in which the text attributes can only be spans of the offer. Both
force the same answers (see `extractor.answer`), so switching grounding changes nothing else.
"""

import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from extractor.answer import (
    ITEM_SEPARATOR,
    KEY_SEPARATOR,
    MAX_CHARACTERS,
    MAX_VALUES,
    NUMBER_PATTERN,
    json_schema,
    json_string,
)
from extractor.schema import Attribute, AttributeSchema

if TYPE_CHECKING:
    from outlines.types import CFG, JsonSchema

Grounding = Literal["strict", "off"]

# Spans begin and end between chunks: runs of letters, digits or white space; Han, Kana, Hangul and anything else alone. A last
# s stands apart, so that "Mens" holds "Men".
_LETTER = r"[^\W\d_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\U00020000-\U0003ffff]"
_CHUNKS = re.compile(rf"{_LETTER}{{2,}}(?<![sS])(?=[sS](?!{_LETTER}))|{_LETTER}+|\d+|\s+|.", re.DOTALL)


# A span begins with no white space, be it plain or escaped (\n, \t), and takes at most MAX_CHARACTERS.
_BOUNDED = rf'/([^\s\\]|\\["\\u])(.|\n){{0,{MAX_CHARACTERS - 1}}}/'


def build_constraint(
    schema: AttributeSchema, texts: dict[str, str], grounding: Grounding = "strict"
) -> "CFG | JsonSchema":
    """The Outlines type for one offer; `texts` are its fields as the prompt shows them."""
    from outlines.types import CFG

    if grounding == "off":
        return _json_constraint(schema)
    return CFG(_grammar(schema, texts))


@lru_cache(maxsize=256)
def _json_constraint(schema: AttributeSchema) -> "JsonSchema":
    from outlines.types import JsonSchema

    return JsonSchema(json_schema(schema), ensure_ascii=False)


def _grammar(schema: AttributeSchema, texts: dict[str, str]) -> str:
    """Lark, in llguidance's dialect (https://github.com/guidance-ai/llguidance/blob/main/docs/syntax.md). What is not
    plain Lark, and could change with that dialect, is in this function.

    A span is a substring of one field in JSON escapes, cut at chunks so that no escape is broken. `substring_chunks` also
    matches the empty string: the intersection demands one character, and bounds the length.
    """
    rules, alternatives = ["%llguidance {}", _schema_rules(schema)], []
    for index, text in enumerate(texts.values()):
        if not text.strip():
            continue
        chunks = [json_string(chunk)[1:-1] for chunk in _CHUNKS.findall(text)]
        rules.append(f'SOURCE{index}: %regex {{"substring_chunks": {json.dumps(chunks, ensure_ascii=False)}}}')
        rules.append(rf"SPAN{index}: {_BOUNDED} & /(.|\n)*[^\s]/ & SOURCE{index}")
        alternatives.append(f'"\\"" SPAN{index} "\\""')
    rules.append(f"span: {' | '.join(alternatives)}")
    return "\n".join(rules)


@lru_cache(maxsize=256)
def _schema_rules(schema: AttributeSchema) -> str:
    """The part of the grammar that the offers of a schema share."""
    members, rules = [], []
    for index, attribute in enumerate(schema.attributes):
        prefix = "{" if index == 0 else ITEM_SEPARATOR
        members.append(f"{json_string(prefix + json_string(attribute.name) + KEY_SEPARATOR)} a{index}")
        rules.append(f'a{index}: "null" | {_values(attribute)}')
    return "\n".join([f'start: {" ".join(members)} "}}"', *rules])


def _values(attribute: Attribute) -> str:
    match attribute.type:
        case "enum":
            one = "(" + " | ".join(json_string(json_string(v)) for v in attribute.values) + ")"
        case "number":
            one = f"/{NUMBER_PATTERN}/"
        case "boolean":
            one = '("true" | "false")'
        case _:
            one = "span"
    if not attribute.multiple:
        return one
    return f'"[" {one} ("{ITEM_SEPARATOR}" {one}){{0,{MAX_VALUES - 1}}} "]"'
