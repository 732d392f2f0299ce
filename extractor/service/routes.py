"""The API, version 1."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request, Response, Security
from fastapi.security import HTTPBearer

from extractor.adapters import Adapter
from extractor.prompts import released
from extractor.records import Extraction, Failure
from extractor.schema import AttributeSchema
from extractor.service.batching import Record, Ticket
from extractor.service.guard import gone, guarded
from extractor.service.models import (
    AdapterSummary,
    ExtractAnswer,
    ExtractRequest,
    Health,
    InlineSchema,
    PreviewAnswer,
    PreviewRequest,
    SchemaSummary,
    ShownMessage,
    TemplateSummary,
)
from extractor.service.problems import HUNG_UP, MEDIA, Document, Problem, retry
from extractor.service.served import Service


async def _service(request: Request) -> Service:  # a plain function would be run in a thread
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA: {"schema": Document.model_json_schema()}}
    return {status: {"description": "A problem (RFC 9457).", "content": content} for status in statuses}


_BEARER = [Security(HTTPBearer(auto_error=False, description="A key of `shelfwise keys create`."))]
_BODY = _problems(400, 408, 413, 415, 422)
extracting = APIRouter(
    prefix="/v1", route_class=guarded("extract"), dependencies=_BEARER, responses=_problems(401, 403, 429, 503)
)
reviewing = APIRouter(
    prefix="/v1", route_class=guarded("review"), dependencies=_BEARER, responses=_problems(401, 403, 429, 503)
)
watching = APIRouter(route_class=guarded("extract"), dependencies=_BEARER, responses=_problems(401, 403, 429, 503))
probing = APIRouter()

Timeout = Annotated[
    float | None,
    Header(ge=0.1, le=600, allow_inf_nan=False, description="Seconds after which the answer is of no use."),
]


@extracting.post("/extract", response_model=ExtractAnswer, responses=_BODY | _problems(504))
async def extract(body: ExtractRequest, request: Request, service: Served, x_timeout: Timeout = None) -> Response:
    """Extract the attributes of offers."""
    schema = _asked(service, body.schema_)
    read = [offer.read(schema) for offer in body.offers]
    request.state.facts["offers"] = len(read)
    ticket = service.batcher.submit([offer for offer in read if not isinstance(offer, Failure)])
    seconds = service.limits.timeout if x_timeout is None else x_timeout
    answers = iter(await _answered(service, ticket, request, seconds))
    records = [row if isinstance(row, Failure) else next(answers) for row in read]
    usages = [r.usage for r in records if isinstance(r, Extraction)]
    request.state.facts["prompt_tokens"] = sum(u.prompt_tokens for u in usages)
    request.state.facts["output_tokens"] = sum(u.output_tokens for u in usages)
    text = ",".join(r.model_dump_json(by_alias=True) for r in records)
    return Response(f'{{"results":[{text}]}}', media_type="application/json")


async def _answered(service: Service, ticket: Ticket, request: Request, seconds: float) -> list[Record]:
    """What the engine's thread makes of the ticket; a client that hangs up, or whose time is over, gives up its places."""
    done = asyncio.wrap_future(ticket.done)
    left = asyncio.ensure_future(gone(request))
    try:
        await asyncio.wait((done, left), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
    finally:
        left.cancel()
        done.cancel()  # what comes of it later is of no use
        service.batcher.forget(ticket)
    if left.done():
        raise Problem(HUNG_UP, "hung-up", "The client hung up", "nobody reads this")
    detail = f"no answer within {seconds:g} s; send fewer offers at once, or give more time with X-Timeout (seconds)"
    raise Problem(504, "deadline", "The time is over", detail)


def _asked(service: Service, asked: str | InlineSchema | None) -> AttributeSchema | None:
    match asked:
        case None:
            return None
        case InlineSchema():
            return asked.read()
    if (schema := service.schema(asked)) is None:
        known = ", ".join(sorted(str(s.category) for s in service.schemas))
        raise Problem(422, "unknown-schema", "No such schema", f"no schema for {asked!r}; there are {known}")
    return schema


@extracting.get("/schemas")
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


@extracting.get("/schemas/{category:path}", responses=_problems(404, 422))
async def schema(category: str, service: Served) -> AttributeSchema:
    """The schema of a category."""
    if (found := service.schema(category)) is None:
        raise Problem(404, "unknown-schema", "No such schema", "no schema of this name; GET /v1/schemas lists them")
    return found


@reviewing.get("/templates")
def templates(service: Served) -> list[TemplateSummary]:
    """The prompt templates."""
    record = released()
    return [
        TemplateSummary(reference=t.reference, sha256=t.sha256, released=record.get(t.reference) == t.sha256)
        for t in service.templates()
    ]


@reviewing.post("/templates/preview", responses=_BODY)
def preview(body: PreviewRequest, service: Served) -> PreviewAnswer:
    """The prompt that a template makes of an offer."""
    schema = _asked(service, body.schema_)
    offer = body.offer.read(schema)
    if isinstance(offer, Failure):
        raise Problem(422, "invalid", "The offer cannot be used", offer.failure.message)
    prompter = service.prompter(body.template)
    if (found := prompter.schema_for(offer)) is None:
        raise Problem(
            422, "unknown-schema", "No such schema", "name the category of a served schema, or give attributes"
        )
    return PreviewAnswer(schema_=found.reference, messages=[ShownMessage(**m) for m in prompter.prompt(offer, found)])


@reviewing.get("/adapters")
def adapters(service: Served) -> list[AdapterSummary]:
    """The adapters of the registry, and what they serve."""
    if service.registry is None:
        return []
    serving = service.registry.serving()
    found = [_summary(a, [c for c, r in serving.items() if r == a.reference]) for a in service.registry.adapters()]
    return [summary for summary in found if summary]


def _summary(adapter: Adapter, serves: list[str]) -> AdapterSummary | None:
    if (card := adapter.card) is None:
        return None
    return AdapterSummary(
        reference=adapter.reference,
        categories=list(card.schemas),
        serves=serves,
        base=card.base,
        labels=card.labels,
        scores=card.scores,
        created=card.created,
    )


@watching.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: Served) -> Response:
    """For Prometheus."""
    return Response(service.metrics.written(), media_type="text/plain; version=0.0.4; charset=utf-8")


@probing.get("/healthz", responses=_problems(503))
async def healthz(service: Served) -> Health:
    """Whether the process is alive; where it is not, it should be started again."""
    if not service.batcher.alive:
        raise Problem(503, "dead", "The engine's thread has ended", "start the service again")
    return Health(status="alive")


@probing.get("/readyz", responses=_problems(503))
async def readyz(service: Served) -> Health:
    """Whether the engine has answered, and requests are taken."""
    if not service.batcher.answering:
        # Anybody may ask: why it does not answer, with its address, is for the log.
        detail = "the engine starts or is down, or the service is being stopped; the log says which"
        raise Problem(503, "not-ready", "No engine answers", detail, retry(5))
    return Health(status="ready")
