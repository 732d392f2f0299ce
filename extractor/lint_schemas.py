"""What is wrong with a schema beside what it cannot be read with."""

import re
from collections.abc import Iterator, Sequence
from unicodedata import category as kind_of

from extractor.demonstrations import contradictions
from extractor.lint import Finding
from extractor.prompts import neutralize
from extractor.records import LabelledOffer
from extractor.schema import Attribute, AttributeSchema

_HELD = {"number": r"-?\d+(\.\d+)?", "boolean": "true|false"}  # by the types that hold no other text


def lint_schema(schema: AttributeSchema, demonstrations: Sequence[LabelledOffer] = ()) -> list[Finding]:
    """`where` is a field's path: attributes.0.description. `demonstrations` are those of its category."""
    findings = [*_unfit("category", schema.category, line=True), *_unfit("description", schema.description)]
    findings += _alike("attributes", [a.name for a in schema.attributes], "name")
    for place, attribute in enumerate(schema.attributes):
        findings += _attribute(f"attributes.{place}", attribute)
    return [*findings, *_undemonstrated(schema, demonstrations)]


def _attribute(where: str, attribute: Attribute) -> Iterator[Finding]:
    yield from _unfit(f"{where}.name", attribute.name, line=True)
    yield from _unfit(f"{where}.description", attribute.description)
    yield from _unfit(f"{where}.unit", attribute.unit, line=True)
    if not (attribute.description or "").strip():
        yield Finding(f"{where}.description", "none: the model has the name alone", note=True)
    for field in ("examples", "values", "vocabulary"):
        texts: Sequence[str] = getattr(attribute, field)
        for place, text in enumerate(texts):
            yield from _unfit(f"{where}.{field}.{place}", text, line=True)
        yield from _alike(f"{where}.{field}", texts)
    for place, example in enumerate(attribute.examples):
        held = _HELD.get(attribute.type)
        if held and not re.fullmatch(held, example):
            yield Finding(f"{where}.examples.{place}", f"a {attribute.type} cannot be {example[:60]!r}", note=True)


def _unfit(where: str, text: str | None, line: bool = False) -> Iterator[Finding]:
    """Seller text is made harmless; that of a schema reaches every prompt as it stands, and an answer by its names."""
    if text is None:
        return
    if not text.strip() and line:
        yield Finding(where, "it is empty")
    allowed = "" if line else "\n\t"
    if found := next((c for c in text if kind_of(c) in ("Cc", "Zl", "Zp") and c not in allowed), None):
        yield Finding(where, f"the control character U+{ord(found):04X}, which is no text")
    if (harmless := neutralize(text)) != text:
        begin = next(i for i, (a, b) in enumerate(zip(text, harmless, strict=True)) if a != b)
        message = f"{text[begin : begin + 20]!r} reads like a tag or a special token of a prompt; write it otherwise"
        yield Finding(where, message)


def _alike(where: str, texts: Sequence[str], field: str | None = None) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        key = " ".join(text.split()).casefold()
        if key in first:
            path = f"{where}.{place}" + (f".{field}" if field else "")
            yield Finding(path, f"{text[:60]!r} stands at {first[key]} already, or all but its case does", note=True)
        first.setdefault(key, place)


def _undemonstrated(schema: AttributeSchema, demonstrations: Sequence[LabelledOffer]) -> Iterator[Finding]:
    if not demonstrations:
        return
    for place, attribute in enumerate(schema.attributes):
        if not any(d.attributes.get(attribute.name) for d in demonstrations):
            message = f"no value in any of {len(demonstrations)} demonstrations: they show that offers have none"
            yield Finding(f"attributes.{place}.name", message, note=True)
    broken = {attribute: d for d in demonstrations for attribute, _ in contradictions(d, [schema])}
    for place, attribute in enumerate(schema.attributes):
        if attribute.type != "text" and attribute.name in broken:
            message = f"demonstrations contradict it, as {broken[attribute.name].id!r} does; such are not shown"
            yield Finding(f"attributes.{place}", message, note=True)
