"""The answer: the JSON that a model writes for one offer.

Training text, demonstrations, constraints and the parser share this one form, because a model that learned one
separator fails under a constraint that demands another. An answer is one object with every attribute of the schema, in
its order; `null` where the offer has no value; a list where an attribute takes several values:

    {"Brand": "Velmora", "Color": ["Red", "Navy"], "Volume": 50, "Wireless": null}
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from extractor.schema import Attribute, AttributeSchema

ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "
MAX_VALUES = 8  # of one attribute; every list, string and number in a constraint has a bound
MAX_CHARACTERS = 200  # of one value
NUMBER_PATTERN = r"-?(0|[1-9][0-9]{0,8})(\.[0-9]{1,4})?"


# What json.dumps(text, ensure_ascii=False) does, without making an encoder for each of a grammar's hundred chunks.
json_string: Callable[[str], str] = encode_basestring


@dataclass(frozen=True, slots=True)
class AnswerValue:
    """A value as written, with its place in the answer (code points, quotes included)."""

    value: str
    begin: int
    end: int


def write_answer(schema: AttributeSchema, values: dict[str, list[str]]) -> str:
    """Serialize values (all as text: "true", "50") as the model shall write them. Unknown attributes are dropped."""
    parts = []
    for attribute in schema.attributes:
        items = [_literal(attribute, v) for v in values.get(attribute.name, [])[:MAX_VALUES]]
        if not items:
            text = "null"
        elif attribute.multiple:
            text = "[" + ITEM_SEPARATOR.join(items) + "]"
        else:
            text = items[0]
        parts.append(json_string(attribute.name) + KEY_SEPARATOR + text)
    return "{" + ITEM_SEPARATOR.join(parts) + "}"


def write_known(values: Mapping[str, Sequence[str]]) -> str:
    """Known values in the form of an answer, so that a model that believes one copies it as it stands."""
    return json.dumps(values, ensure_ascii=False, separators=(ITEM_SEPARATOR, KEY_SEPARATOR))


def _literal(attribute: Attribute, value: str) -> str:
    return value if attribute.type in ("number", "boolean") else json_string(value)


def json_schema(schema: AttributeSchema) -> dict[str, Any]:
    """JSON Schema of the answer. `x-guidance` holds the white space of `write_answer` (llguidance reads it; validators
    ignore it)."""

    def one(attribute: Attribute) -> dict[str, Any]:
        match attribute.type:
            case "enum":
                return {"type": "string", "enum": list(attribute.values)}
            case "number":
                return {"type": "number", "minimum": -999_999_999, "maximum": 999_999_999}
            case "boolean":
                return {"type": "boolean"}
            case _:
                return {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}

    def nullable(attribute: Attribute) -> dict[str, Any]:
        inner = one(attribute)
        if attribute.multiple:
            inner = {"type": "array", "items": inner, "minItems": 1, "maxItems": MAX_VALUES}
        described = {"description": attribute.description} if attribute.description else {}
        return described | {"anyOf": [inner, {"type": "null"}]}

    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": schema.category or "Attributes",
        "type": "object",
        "properties": {a.name: nullable(a) for a in schema.attributes},
        "required": [a.name for a in schema.attributes],
        "additionalProperties": False,
        "x-guidance": {
            "whitespace_flexible": False,
            "item_separator": ITEM_SEPARATOR,
            "key_separator": KEY_SEPARATOR,
        },
    }


def parse_answer(schema: AttributeSchema, text: str) -> dict[str, list[AnswerValue]]:
    """Read an answer, with the place of each value. White space may differ from `write_answer`.

    Raises ValueError with the reason if it is no JSON object, lacks or invents an attribute, or breaks a type.
    """
    attributes = {a.name: a for a in schema.attributes}
    found: dict[str, list[AnswerValue]] = {}
    position = _skip(text, _expect(text, _skip(text, 0), "{"))
    while text[position : position + 1] != "}":
        if found:
            position = _skip(text, _expect(text, position, ","))
        key, position = _decode(text, position)
        if key not in attributes:
            raise ValueError(f"the answer names {key!r}, which is no attribute of the schema")
        if key in found:
            raise ValueError(f"the answer names {key!r} twice")
        position = _skip(text, _expect(text, _skip(text, position), ":"))
        found[key], position = _values(attributes[key], text, position)
        position = _skip(text, position)
    if _skip(text, position + 1) != len(text):
        raise ValueError("the answer goes on after its object")
    if missing := [name for name in attributes if name not in found]:
        raise ValueError(f"the answer lacks {missing[0]!r}")
    return found


def _values(attribute: Attribute, text: str, position: int) -> tuple[list[AnswerValue], int]:
    if not (attribute.multiple and text[position : position + 1] == "["):
        value, position = _value(attribute, text, position)
        return ([value] if value else []), position
    values: dict[str, AnswerValue] = {}
    begin = position = _skip(text, position + 1)
    while text[position : position + 1] != "]":
        if position > begin:
            position = _skip(text, _expect(text, position, ","))
        value, position = _value(attribute, text, position)
        if value:
            values.setdefault(value.value, value)
        position = _skip(text, position)
    return list(values.values()), position + 1


def _value(attribute: Attribute, text: str, position: int) -> tuple[AnswerValue | None, int]:
    raw, end = _decode(text, position)
    if raw is None or (attribute.type == "text" and isinstance(raw, str) and not raw.strip()):
        return None, end  # a blank is no value
    return AnswerValue(_checked(attribute, raw, text[position:end]), position, end), end


def _checked(attribute: Attribute, raw: Any, written: str) -> str:
    """The value as text, if it is of the attribute's type."""
    match attribute.type:
        case "text" if isinstance(raw, str):
            return raw
        case "enum" if raw in attribute.values:
            return str(raw)
        case "number" if isinstance(raw, int | float) and not isinstance(raw, bool):
            return written
        case "boolean" if isinstance(raw, bool):
            return written
    expected = f"one of {list(attribute.values)}" if attribute.type == "enum" else f"a {attribute.type}"
    raise ValueError(f"{attribute.name!r} is {written[:60]}, not {expected}")


_DECODER = json.JSONDecoder()


def _decode(text: str, position: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        raise ValueError(f"the answer is no JSON at character {error.pos}: {error.msg}") from error


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _expect(text: str, position: int, character: str) -> int:
    if text[position : position + 1] != character:
        got = repr(text[position]) if position < len(text) else "the end"
        raise ValueError(f"the answer has {got} at character {position}, where {character!r} belongs")
    return position + 1
