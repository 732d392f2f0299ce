"""The training values of the attribute that occur in the offer, the longest first: no learning, and the floor for everything
that learns."""

from collections.abc import Iterable, Sequence
from typing import Self

from eval.baselines.spans import Span, by_attribute, occurrences, record, schema_for
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema


class Lookup:
    def __init__(self, schemas: Sequence[AttributeSchema]) -> None:
        self.schemas = schemas
        self._values: dict[str, list[str]] = {}

    def fit(self, training: Iterable[LabelledOffer]) -> Self:
        found = by_attribute(training)
        self._values = {name: sorted(values, key=lambda v: (-len(v), v)) for name, values in found.items()}
        return self

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        return [self._record(offer) for offer in offers]

    def _record(self, offer: ProductOffer) -> Extraction:
        schema = schema_for(offer, self.schemas)
        spans = [
            Span(attribute.name, field, *places[0])
            for attribute in schema.attributes
            for value in self._values.get(attribute.name, ())
            for field, text in offer.texts().items()
            if (places := occurrences(value, text))
        ]
        return record(offer, schema, spans, "lookup@1")
