"""The training values of the attribute that occur in the offer, the longest first: no learning, and the floor for everything
that learns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from eval.baselines import folder
from eval.baselines.recipe import Recipe
from eval.baselines.spans import Span, by_attribute, occurrences, record, schema_for, span_values
from extractor.records import Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema


class Lookup:
    """`values` of each attribute, the longest first."""

    RECIPE = Recipe()

    def __init__(self, schemas: Sequence[AttributeSchema], values: dict[str, list[str]]) -> None:
        self.schemas, self.values = schemas, values

    @classmethod
    def train(
        cls,
        training: Sequence[LabelledOffer],
        schemas: Sequence[AttributeSchema],
        out: Path,
        encoder: str = "minilm",
        recipe: Recipe | None = None,
    ) -> Self:
        """Gather the values, and write a folder that `load` reads. There is no encoder and no recipe; they are ignored."""
        found = by_attribute(training)
        values = {name: sorted(v, key=lambda value: (-len(value), value)) for name, v in found.items()}
        folder.write(out, "lookup", schemas, values=values)
        return cls(schemas, values)

    @classmethod
    def load(cls, path: Path) -> Self:
        content = folder.read(path)
        return cls(content["schemas"], content["values"])

    def extract(self, offers: Sequence[ProductOffer]) -> list[Extraction | Failure]:
        return [self._record(offer) for offer in offers]

    def _record(self, offer: ProductOffer) -> Extraction:
        schema = schema_for(offer, self.schemas)
        spans = [
            Span(attribute.name, field, *places[0])
            for attribute in schema.attributes
            for value in self.values.get(attribute.name, ())
            for field, text in offer.texts().items()
            if (places := occurrences(value, text))
        ]
        return record(offer, schema, span_values(offer, spans), "lookup@1")
