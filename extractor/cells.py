"""The values of one attribute of one offer, as a store keeps them: what was predicted, what a reviewer makes of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter

from extractor.answer import AnswerValue
from extractor.demonstrations import contradictions
from extractor.errors import ConflictError, InputError
from extractor.grounding import find_span
from extractor.normalize import resolve
from extractor.records import AttributeValue, Evidence, LabelledOffer
from extractor.schema import Attribute, AttributeSchema
from extractor.wire import Selected

Decision = Literal["accepted", "rejected", "changed"]
NONE = "[]"  # no value, as JSON
_VALUES = TypeAdapter(list[AttributeValue])


@dataclass(frozen=True)
class Item:
    """A cell to decide about. `alike` cells, this one included, wait with the same values in the same category."""

    offer_id: str
    category: str
    attribute: str
    title: str
    description: str | None
    values: list[AttributeValue]
    alike: int


@dataclass(frozen=True)
class Act:
    """What a reviewer did at once, and can take back at once: `n` cells, 0 where it had been done before."""

    id: str
    decision: Decision
    n: int


@dataclass(frozen=True)
class Undone:
    """How many decisions were taken back, and the cells that wait for who did."""

    n: int
    items: list[Item]


def loaded(values: str) -> list[AttributeValue]:
    return _VALUES.validate_json(values)


def dumped(values: Sequence[AttributeValue]) -> str:
    return _VALUES.dump_json(list(values)).decode()


def lowest(values: Sequence[AttributeValue]) -> float | None:
    """The confidence of a cell: that of its most doubtful value, 0 where the engine gave none; None where there is no value."""
    return min((v.confidence or 0.0 for v in values), default=None)


def alike(category: str, attribute: str, values: Sequence[str]) -> int:
    """64 bits that equal cells have in common. Values can be too long for an index, and these are not."""
    text = json.dumps([category, attribute, *values])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def decided(attribute: Attribute, texts: dict[str, str], values: Sequence[str | Evidence], predicted: str) -> str:
    """What a reviewer's answer makes of a cell, `predicted` itself where it says the same. Raises InputError for a span that the
    offer does not have, and for a value that no extraction could give; ConflictError for a span that was of another text."""
    chosen = {v if isinstance(v, str) else _spanned(v, texts): v for v in values}
    known = {v.value: v for v in loaded(predicted)}
    if list(chosen) == list(known):
        return predicted
    problem = next((reason for v in chosen if (reason := _problem(attribute, v, texts))), "")
    if len(chosen) > 1 and not attribute.multiple:
        problem = f"it takes one value, not {len(chosen)}"
    if problem:
        raise InputError(f"{attribute.name}: {problem}")
    return dumped([known.get(v) or _valued(attribute, v, given, texts) for v, given in chosen.items()])


def decision(predicted: str, after: str) -> Decision:
    return "accepted" if after == predicted else "rejected" if after == NONE else "changed"


def placed(attribute: str, value: AttributeValue, texts: Mapping[str, str]) -> AttributeValue:
    """A decided value in a text that may have changed since: with its place there, or as `inferred`."""
    if (evidence := value.evidence) is None:
        return value
    exact = value.status == "verbatim"
    span = texts.get(evidence.field, "")[evidence.begin : evidence.end]
    if span == value.value or (not exact and span.casefold() in (value.value.casefold(), attribute.casefold())):
        return value
    words = (value.value,) if exact else (value.value, attribute)
    found = (find_span(w, dict(texts), ignore_case=not exact, anywhere=exact) for w in words)
    place = next((p for p in found if p), None)
    return value.model_copy(update={"evidence": place, "status": value.status if place else "inferred"})


def _spanned(place: Evidence, texts: Mapping[str, str]) -> str:
    text = texts.get(place.field, "")
    if isinstance(place, Selected) and place.text not in (None, text[place.begin : place.end]):
        raise ConflictError("the offer was extracted again; load it again")
    if not place.begin < place.end <= len(text):
        raise InputError(
            f"the offer's {place.field} has no span from {place.begin} to {place.end}; it may have changed: load it again"
        )
    return text[place.begin : place.end]


def _problem(attribute: Attribute, value: str, texts: dict[str, str]) -> str:
    if not value.strip():
        return "a blank is no value; for none, give no value"
    asked = AttributeSchema(attributes=(attribute,))  # of every category
    named = {attribute.name: [value]}
    offer = LabelledOffer.model_construct(title=texts["title"], description=texts.get("description"), attributes=named)
    return next((reason for _, reason in contradictions(offer, [asked])), "")


def _valued(attribute: Attribute, value: str, given: str | Evidence, texts: dict[str, str]) -> AttributeValue:
    found = resolve(attribute, AnswerValue(value, 0, len(value)), texts, texts, None)
    if isinstance(given, Evidence):
        place = Evidence(field=given.field, begin=given.begin, end=given.end)
        return found.model_copy(update={"value": value, "status": "verbatim", "evidence": place})
    return found
