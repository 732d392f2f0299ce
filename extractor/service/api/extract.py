"""Offers in, records out."""

from typing import Annotated

from fastapi import Header, Request, Response
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from extractor.intake import check_names
from extractor.pii import masked
from extractor.records import Extraction, Failure
from extractor.service.api.common import BODY, Served, answered, asked_schema, problems, router
from extractor.service.models import EXAMPLE, MOST_OFFERS, Asked, Body, Offer

extracting = router("extract")


class ExtractRequest(Asked):
    """Offers to extract, answered in this order."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"offers": [EXAMPLE]}, {"offers": [EXAMPLE], "schema": {"attributes": ["Brand", "Color"]}}]
        }
    )

    offers: list[Offer] = Field(min_length=1, max_length=MOST_OFFERS)
    keep: bool = Field(default=False, description="Whether the records are kept for review, before they are answered.")


class ExtractAnswer(Body):
    """For each offer its record or its failure, in order, as `shelfwise extract` writes them."""

    results: list[Extraction | Failure]


Timeout = Annotated[
    float | None,
    Header(ge=0.1, le=600, allow_inf_nan=False, description="Seconds after which the answer is of no use."),
]


@extracting.post("/extract", response_model=ExtractAnswer, responses=BODY | problems(504))
async def extract(body: ExtractRequest, request: Request, service: Served, x_timeout: Timeout = None) -> Response:
    """Extract the attributes of offers."""
    schema = asked_schema(service, body.schema_)
    read = [offer.read(schema) for offer in body.offers]
    if service.mask_pii:  # in a thread, for others wait for this one
        read = await run_in_threadpool(lambda rows: [masked(row) for row in rows], read)
    read = [service.own(row) for row in read]
    if body.keep:  # before an engine has worked for nothing
        for offer in read:
            if not isinstance(offer, Failure):
                check_names(offer.id, offer.category, ())  # those of attributes are checked with a schema
    request.state.facts["offers"] = len(read)
    ticket = service.batcher.submit([offer for offer in read if not isinstance(offer, Failure)])
    seconds = service.limits.timeout if x_timeout is None else x_timeout
    answers = iter(await answered(service, ticket, request, seconds))
    records = [row if isinstance(row, Failure) else next(answers) for row in read]
    extractions = [r for r in records if isinstance(r, Extraction)]
    if body.keep:
        await run_in_threadpool(service.store.add, extractions)
    usages = [r.usage for r in extractions]
    request.state.facts["prompt_tokens"] = sum(u.prompt_tokens for u in usages)
    request.state.facts["output_tokens"] = sum(u.output_tokens for u in usages)
    text = ",".join(r.model_dump_json(by_alias=True) for r in records)
    return Response(f'{{"results":[{text}]}}', media_type="application/json")
