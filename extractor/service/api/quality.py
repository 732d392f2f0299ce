"""How good the records are, as far as people have looked at them."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from extractor import quality
from extractor.service.api.common import Served, problems, router
from extractor.service.models import Body

reviewing = router("review")


class AttributeQuality(Body):
    """Of the offers that were asked for an attribute; `valued` by people where they decided, else by the model."""

    category: str
    attribute: str
    offers: int
    valued: int
    waiting: int
    reviewed: int
    agreed: int = Field(description="Reviewed values in which people agreed with the model.")
    coverage: float | None = Field(description="`valued` of `offers`.")
    agreement: float | None = Field(description="`agreed` of `reviewed`.")


class DayQuality(Body):
    """Of what was extracted on a day (UTC), and of what was decided on it."""

    day: str = Field(examples=["2026-11-26"])
    category: str
    attribute: str
    offers: int
    valued: int
    reviewed: int
    agreed: int
    coverage: float | None
    agreement: float | None


class Days(Body):
    days: int = Field(default=90, ge=1, le=3_660, description="The last ones, today included.")


class Labels(Body):
    category: str
    labelled: int = Field(description="Offers to learn from.")
    enough: bool = Field(description=f"Whether an adapter can be trained: from {quality.ENOUGH} on.")


class QualityAnswer(Body):
    attributes: list[AttributeQuality]
    categories: list[Labels]


@reviewing.get("/quality")
def now(service: Served) -> QualityAnswer:
    """Coverage and agreement by category and attribute, and how much there is to learn from."""
    rows, labels = quality.quality(service.store), quality.learnable(service.store)
    categories = [
        Labels(category=c, labelled=labels.get(c, 0), enough=labels.get(c, 0) >= quality.ENOUGH)
        for c in sorted({row.category for row in rows})
    ]
    return QualityAnswer(
        attributes=[AttributeQuality(**_fields(AttributeQuality, q)) for q in rows], categories=categories
    )


@reviewing.get("/quality/days", responses=problems(422))
def by_day(service: Served, of: Annotated[Days, Query()]) -> list[DayQuality]:
    """Coverage and agreement by day, of the last ones."""
    since = service.store.database.now(-86_400 * (of.days - 1))[:10]
    return [DayQuality(**_fields(DayQuality, q)) for q in quality.quality_by_day(service.store, since)]


def _fields(model: type[Body], found: quality.Quality) -> dict[str, Any]:
    return {name: getattr(found, name) for name in model.model_fields}
