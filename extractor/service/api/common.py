"""What all of the API's rooms share: who is let in, what is served, how problems are documented."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security
from fastapi.security import HTTPBearer

from extractor.keys import Key, Role
from extractor.schema import AttributeSchema
from extractor.service.guard import gone, guarded
from extractor.service.models import InlineSchema
from extractor.service.problems import HUNG_UP, MEDIA, Document, Problem
from extractor.service.served import Service
from extractor.service.tickets import Record, Ticket


async def _service(request: Request) -> Service:  # a plain function would be run in a thread
    service: Service = request.app.state.service
    return service


Served = Annotated[Service, Depends(_service)]


async def _key(request: Request) -> Key:
    key: Key = request.state.key  # of the guard
    return key


Asking = Annotated[Key, Depends(_key)]
_BEARER = [Security(HTTPBearer(auto_error=False, description="A key of `shelfwise keys create`."))]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {MEDIA: {"schema": Document.model_json_schema()}}
    return {status: {"description": "A problem (RFC 9457).", "content": content} for status in statuses}


BODY = problems(400, 408, 413, 415, 422)


def router(role: Role, prefix: str = "/v1") -> APIRouter:
    """Routes for keys with this role."""
    refusals = problems(401, 403, 429, 503)
    return APIRouter(prefix=prefix, route_class=guarded(role), dependencies=_BEARER, responses=refusals)


def asked_schema(service: Service, asked: str | InlineSchema | None) -> AttributeSchema | None:
    """The schema that a body names or brings, None where it does neither. Raises Problem 422."""
    match asked:
        case None:
            return None
        case InlineSchema():
            return asked.read()
    if (schema := service.schema(asked)) is None:
        known = ", ".join(sorted(str(s.category) for s in service.schemas))
        raise Problem(422, "unknown-schema", "No such schema", f"no schema for {asked!r}; there are {known}")
    return schema


async def answered(service: Service, ticket: Ticket, request: Request, seconds: float) -> list[Record]:
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
