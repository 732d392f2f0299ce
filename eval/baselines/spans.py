"""What all baselines share: the spans of gold values in an offer's text, and records made of spans."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from extractor.records import AttributeValue, Evidence, Extraction, LabelledOffer, ProductOffer, Provenance, Usage
from extractor.schema import AttributeSchema, category_key


@dataclass(frozen=True)
class Span:
    """`field` of an offer from `begin` to `end` (code points, `end` exclusive) as a value of `attribute`."""

    attribute: str
    field: str
    begin: int
    end: int
    confidence: float | None = None


def occurrences(value: str, text: str) -> list[tuple[int, int]]:
    """Where `value` stands in `text` as whole words: a letter or digit is not torn from its neighbours. Han characters have
    no such borders."""
    return [(b, e) for b, e in _places(value, text) if not (_joined(text, b) or _joined(text, e))]


def _places(value: str, text: str) -> Iterator[tuple[int, int]]:
    begin = text.find(value) if value else -1
    while begin >= 0:
        yield begin, begin + len(value)
        begin = text.find(value, begin + len(value))


def _joined(text: str, position: int) -> bool:
    around = text[position - 1 : position + 1] if position else ""
    return len(around) == 2 and all(c.isalnum() and not "\u3400" <= c <= "\u9fff" for c in around)


def value_spans(attribute: str, value: str, offer: ProductOffer) -> list[Span]:
    """Where the offer has the value: as whole words of the title, else of the description, else at the beginning of a word
    ("Print" in "Printed")."""
    for find in (occurrences, _beginnings):
        for field, text in offer.texts().items():
            if places := find(value.strip(), text):
                return [Span(attribute, field, begin, end) for begin, end in places]
    return []


def _beginnings(value: str, text: str) -> list[tuple[int, int]]:
    if len(value) < 3:  # "O" stands in every title
        return []
    return [(b, e) for b, e in _places(value, text) if not _joined(text, b)]


def gold_spans(offer: LabelledOffer, counts: Mapping[str, int] | None = None) -> list[Span]:
    """Every place where a gold value stands, none overlapping another: longest first, of equal ones that of the attribute with
    more labels by `counts`."""
    found = [s for name, values in offer.attributes.items() for v in values for s in value_spans(name, v, offer)]
    return without_overlaps(sorted(found, key=lambda s: (s.begin - s.end, -(counts or {}).get(s.attribute, 0))))


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """The spans in their order, less those that touch an earlier one."""
    kept: list[Span] = []
    for span in spans:
        if all(s.field != span.field or span.end <= s.begin or s.end <= span.begin for s in kept):
            kept.append(span)
    return kept


def schema_for(offer: ProductOffer, schemas: Sequence[AttributeSchema]) -> AttributeSchema:
    """The schema of the offer's category; the only one there is serves every category."""
    by_category = {category_key(s.category): s for s in schemas}
    return by_category.get(category_key(offer.category)) or schemas[0]


def span_values(offer: ProductOffer, spans: Iterable[Span]) -> dict[str, list[AttributeValue]]:
    """The values of each attribute; one that several spans give stands once, the first one best."""
    texts = offer.texts()
    values: dict[str, dict[str, AttributeValue]] = {}
    for span in spans:
        text = texts[span.field][span.begin : span.end]
        evidence = Evidence(field=span.field, begin=span.begin, end=span.end)  # type: ignore[arg-type]
        value = AttributeValue(value=text, status="verbatim", confidence=span.confidence, evidence=evidence)
        values.setdefault(span.attribute, {}).setdefault(text, value)
    return {attribute: list(found.values()) for attribute, found in values.items()}


def record(
    offer: ProductOffer, schema: AttributeSchema, values: Mapping[str, list[AttributeValue]], name: str
) -> Extraction:
    """An extraction by the baseline `name`; attributes that the schema does not ask for are left out."""
    return Extraction(
        offer_id=offer.id,
        category=offer.category,
        title=offer.title,
        description=offer.description,
        attributes={a.name: values.get(a.name, []) for a in schema.attributes},
        provenance=Provenance.model_construct(
            model=name,
            engine="baseline",
            template="none",
            template_sha256="",
            schema_=schema.reference,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
        usage=Usage(prompt_tokens=0, cached_tokens=0, output_tokens=0),
    )


def attribute_counts(offers: Iterable[LabelledOffer]) -> Counter[str]:
    """How many offers have a value of each attribute."""
    return Counter(name for o in offers for name, values in o.attributes.items() if values)


def by_attribute(offers: Iterable[LabelledOffer]) -> Mapping[str, set[str]]:
    """The values of each attribute in training labels."""
    values: dict[str, set[str]] = {}
    for offer in offers:
        for name, found in offer.attributes.items():
            values.setdefault(name, set()).update(v.strip() for v in found)
    return values
