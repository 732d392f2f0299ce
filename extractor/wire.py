"""What the service and its client say to each other about reviews."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from extractor.records import AttributeValue, Evidence
from extractor.schema import AttributeType


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


class Definition(_Said):
    """What can be a value of an attribute: of an enum one of `values`, of a number one in `unit`, of a text a part of the
    offer."""

    type: AttributeType
    description: str | None
    values: tuple[str, ...]
    unit: str | None
    multiple: bool


class Selected(Evidence):
    """A span, and what stood there when it was selected: the offer may have another text since."""

    text: str | None = None


class ReviewItem(_Said):
    """The values of an attribute of an offer, to decide about; `alike` cells, this one included, wait with the same values."""

    offer_id: str
    category: str = Field(description='"" for offers without one.')
    attribute: str
    definition: Definition
    title: str
    description: str | None
    values: list[AttributeValue] = Field(
        description="What the model said; the places count code points, `end` exclusive."
    )
    alike: int


class Decided(_Said):
    decision: Literal["accepted", "rejected", "changed"] = Field(description="Of what the model had said.")
    act: str = Field(description="By which it can be undone.")


class DecidedAlike(_Said):
    count: int
    act: str | None = Field(description="By which all of them can be undone; null where there was none.")


class Restored(_Said):
    """Decisions that were taken back, and the first of these items, which are claimed for the reviewer again."""

    count: int
    items: list[ReviewItem]


class Progress(_Said):
    today: int = Field(description="Values decided since midnight (UTC).")
    pace: float = Field(description="Acts a minute, in the last ten minutes.")


class ReviewCounts(_Said):
    waiting: int
    mine: Progress
    all: Progress
