"""What bodies of requests are made of, with the limits of what is taken."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, StringConstraints, ValidationError, field_validator

from extractor.errors import explain
from extractor.extract import OwnOffer
from extractor.records import Failure, FailureDetail, ProductOffer
from extractor.schema import Attribute, AttributeSchema

MOST_OFFERS, MOST_ATTRIBUTES, MOST_SCHEMA = 1_000, 100, 65_536  # the last in characters of JSON
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Number = Annotated[int, Field(strict=True, ge=0, le=999_999_999)]  # of a version
AttributeName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
EXAMPLE: JsonValue = {"id": "1", "category": "Shoes", "title": "Velmora Suede Loafer, Tan, EU 42"}


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Offer(Body):
    """A product offer. One without any text is answered by a failure, as one that the model cannot answer is."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    id: Name
    title: str = Field(max_length=20_000)
    description: str | None = Field(default=None, max_length=200_000)
    category: Name | None = None

    def read(self, schema: AttributeSchema | None) -> ProductOffer | Failure:
        """The offer, asked by this schema or, where it is None, by that of its category."""
        fields: dict[str, Any] = self.model_dump()
        fields["description"] = fields["description"] or None
        try:
            return ProductOffer(**fields) if schema is None else OwnOffer(**fields, asked_by=schema)
        except ValidationError as error:
            detail = FailureDetail(reason="invalid_offer", message=explain(error))
            return Failure(offer_id=self.id, category=self.category, failure=detail)


class InlineSchema(Body):
    """What to extract, for this request alone: attributes by their names, or as schemas describe them."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"attributes": ["Brand", "Color", "Size"]}]})

    category: Name | None = None
    description: str | None = Field(default=None, max_length=2_000)
    attributes: list[AttributeName | Attribute] = Field(min_length=1, max_length=MOST_ATTRIBUTES)

    @field_validator("attributes")
    @classmethod
    def _bounded(cls, attributes: list[str | Attribute]) -> list[str | Attribute]:
        if sum(len(a if isinstance(a, str) else a.model_dump_json()) for a in attributes) > MOST_SCHEMA:
            raise ValueError(f"a schema of more than {MOST_SCHEMA} characters; serve it as a file instead")
        names = [a if isinstance(a, str) else a.name for a in attributes]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"attribute {twice[0]!r} stands twice")
        return attributes

    def read(self) -> AttributeSchema:
        attributes = tuple(Attribute(name=a) if isinstance(a, str) else a for a in self.attributes)
        return AttributeSchema(category=self.category, description=self.description, attributes=attributes)


class Asked(Body):
    schema_: Name | InlineSchema | None = Field(
        default=None,
        alias="schema",
        description="The category of a served schema, or attributes; without it each offer's category picks its schema.",
    )
