"""What goes in and what comes out: offers, values with their evidence, extractions and failures."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

TEXT_FIELDS: tuple[Literal["title"], Literal["description"]] = ("title", "description")

FailureReason = Literal[
    "invalid_offer",  # not JSON, no title, nothing in it, not UTF-8
    "duplicate_id",  # an earlier offer of the same input has this id
    "unknown_category",  # no schema serves the offer's category
    "context_overflow",  # prompt and answer do not fit the model's context
    "output_truncated",  # the answer reached its token limit
    "invalid_output",  # the answer does not parse, or breaks the schema
    "engine_error",  # the engine refused this one request
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ProductOffer(_Frozen):
    """An offer as a seller wrote it. `title` may be empty only where there is a description."""

    id: str = Field(min_length=1)
    title: str
    description: str | None = None
    category: str | None = None

    @field_validator("id", "title", "description", "category")
    @classmethod
    def _is_unicode(cls, text: str | None) -> str | None:
        try:
            (text or "").encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"half a surrogate pair at character {error.start}, which is no text") from error
        return text

    @model_validator(mode="after")
    def _has_text(self) -> Self:
        if not self.title.strip() and not (self.description or "").strip():
            raise ValueError("the offer has no text: title and description are empty")
        return self

    def texts(self) -> dict[str, str]:
        """The fields that hold text, title first."""
        return {"title": self.title, "description": self.description} if self.description else {"title": self.title}


class LabelledOffer(ProductOffer):
    """An offer with gold values. An attribute in neither `attributes` nor `absent` is unknown."""

    attributes: dict[str, list[str]]
    absent: list[str] = []


class Evidence(_Frozen):
    """Where a value stands: `begin` and `end` in Unicode code points of the original text, `end` exclusive."""

    field: Literal["title", "description"]
    begin: int = Field(ge=0, strict=True)
    end: int = Field(gt=0, strict=True)


class AttributeValue(_Frozen):
    """One value. `verbatim` means that the offer's text between `begin` and `end` is exactly `value`;
    `normalized` that a vocabulary or a rule made it from the text at the evidence; `inferred` that it stands nowhere.
    `confidence` is in 0..1, or None where the engine gave no log-probabilities."""

    value: str
    normalized_value: str | None = None
    status: Literal["verbatim", "normalized", "inferred"]
    confidence: float | None = Field(default=None, ge=0, le=1)
    evidence: Evidence | None = None


class Provenance(_Frozen):
    """What made a record: enough to make it again. `model` and `template` are name@version, `schema` category@hash,
    `calibration` method@hash, or None where confidences are the model's own."""

    model: str
    adapter: str | None = None
    engine: str
    template: str
    template_sha256: str
    schema_: str = Field(serialization_alias="schema", validation_alias="schema")
    calibration: str | None = None
    created: str


class Usage(_Frozen):
    """Tokens of one request; `cached_tokens` is the part of the prompt that the prefix cache served."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class Extraction(_Frozen):
    """The record of one offer. Every attribute of the schema is a key; a missing value is an empty list."""

    offer_id: str
    category: str | None
    title: str
    description: str | None
    attributes: dict[str, list[AttributeValue]]
    truncated: bool = False
    provenance: Provenance
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)


class FailureDetail(_Frozen):
    reason: FailureReason
    message: str


class Failure(_Frozen):
    """An offer that gave no record, and why. What the model wrote, if anything, is in `output`."""

    offer_id: str
    category: str | None = None
    title: str | None = None
    description: str | None = None
    failure: FailureDetail
    output: str | None = None
    provenance: Provenance | None = None

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)
