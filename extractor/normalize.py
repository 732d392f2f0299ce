"""From an answered value to a record's value: status, normalized form, evidence.

Text attributes stay as the seller wrote them. The answer to a closed type is a reading of the text: the record keeps both.
"""

from extractor.answer import AnswerValue
from extractor.grounding import find_span
from extractor.records import AttributeValue, Evidence
from extractor.schema import Attribute


def resolve(
    attribute: Attribute, answer: AnswerValue, shown: dict[str, str], original: dict[str, str], confidence: float | None
) -> AttributeValue:
    """Place one answered value in the offer.

    `shown` are the texts as the prompt had them, `original` the same, offset for offset, as the seller wrote them.
    A text value that stands in the offer is `verbatim`, else `inferred`. A number gets its unit as normalized form. An
    enum or boolean is `verbatim` or `normalized` where its word (for a boolean: the attribute's name) stands in the text
    in any case and begins a word there, else `inferred`.
    """
    value = answer.value.strip()
    match attribute.type:
        case "boolean":
            place = find_span(attribute.name, shown, ignore_case=True, anywhere=False)
            return _record(value, "normalized" if place else "inferred", confidence, place)
        case "enum":
            exact = find_span(value, shown, anywhere=False)
            place = exact or find_span(value, shown, ignore_case=True, anywhere=False)
            return _record(value, "verbatim" if exact else "normalized" if place else "inferred", confidence, place)
        case "number":
            place = find_span(value, shown, anywhere=False)
            normalized = f"{value} {attribute.unit}" if attribute.unit else None
            return _record(value, "verbatim" if place else "inferred", confidence, place, normalized)
    place = find_span(value, shown)
    if place:
        value = original[place.field][place.begin : place.end]
    return _record(value, "verbatim" if place else "inferred", confidence, place)


def _record(
    value: str, status: str, confidence: float | None, place: Evidence | None, normalized: str | None = None
) -> AttributeValue:
    # Built from checked parts; validating each value again would cost more than all the rest of a record.
    return AttributeValue.model_construct(
        value=value, normalized_value=normalized, status=status, confidence=confidence, evidence=place
    )
