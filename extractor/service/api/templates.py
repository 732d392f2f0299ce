"""How offers are asked about."""

from pydantic import ConfigDict, Field

from extractor.prompts import released
from extractor.records import Failure
from extractor.service.api.common import BODY, Served, asked_schema, router
from extractor.service.models import EXAMPLE, Asked, Body, Name, Offer
from extractor.service.problems import Problem

reviewing = router("review")


class TemplateSummary(Body):
    reference: str
    sha256: str
    released: bool


class PreviewRequest(Asked):
    """An offer, and the template that is to show it; without one, that of the service."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"offer": EXAMPLE, "template": "extract"}]})

    offer: Offer
    template: Name | None = None


class ShownMessage(Body):
    role: str
    content: str


class PreviewAnswer(Body):
    schema_: str = Field(serialization_alias="schema")
    messages: list[ShownMessage]


@reviewing.get("/templates")
def templates(service: Served) -> list[TemplateSummary]:
    """The prompt templates."""
    record = released()
    return [
        TemplateSummary(reference=t.reference, sha256=t.sha256, released=record.get(t.reference) == t.sha256)
        for t in service.templates()
    ]


@reviewing.post("/templates/preview", responses=BODY)
def preview(body: PreviewRequest, service: Served) -> PreviewAnswer:
    """The prompt that a template makes of an offer."""
    schema = asked_schema(service, body.schema_)
    offer = body.offer.read(schema)
    if isinstance(offer, Failure):
        raise Problem(422, "invalid", "The offer cannot be used", offer.failure.message)
    prompter = service.prompter(body.template)
    if (found := prompter.schema_for(offer)) is None:
        raise Problem(
            422, "unknown-schema", "No such schema", "name the category of a served schema, or give attributes"
        )
    return PreviewAnswer(schema_=found.reference, messages=[ShownMessage(**m) for m in prompter.prompt(offer, found)])
