"""What is asked of offers."""

from pydantic import Field

from extractor.schema import AttributeSchema
from extractor.service.api.common import Served, problems, router
from extractor.service.models import Body
from extractor.service.problems import Problem

reading = router("extract")


class SchemaSummary(Body):
    category: str | None = Field(description="None serves offers of every category.")
    reference: str
    description: str | None
    attributes: list[str]


@reading.get("/schemas")
async def schemas(service: Served) -> list[SchemaSummary]:
    """The schemas that are served."""
    return [
        SchemaSummary(
            category=s.category,
            reference=s.reference,
            description=s.description,
            attributes=[a.name for a in s.attributes],
        )
        for s in service.schemas
    ]


@reading.get("/schemas/{category:path}", responses=problems(404, 422))
async def schema(category: str, service: Served) -> AttributeSchema:
    """The schema of a category."""
    if (found := service.schema(category)) is None:
        raise Problem(404, "unknown-schema", "No such schema", "no schema of this name; GET /v1/schemas lists them")
    return found
