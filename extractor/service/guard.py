"""What a request has to pass before its body is read, and how it is read."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from extractor.keys import Role
from extractor.service.problems import HUNG_UP, Problem

CLOSE = {"Connection": "close"}  # what of the body has not been read stays unread


def guarded(role: Role) -> type[APIRoute]:
    """The class of routes for keys with this role. FastAPI reads a body before it runs dependencies, so that these would come
    too late."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            takes_body = self.body_field is not None

            async def handled(request: Request) -> Response:
                request.state.key = await request.app.state.service.access.admit(request, role)
                if takes_body:
                    limits = request.app.state.service.limits
                    await _read(request, limits.body, limits.reading)
                return await handle(request)

            return handled

    return Guarded


async def _read(request: Request, most: int, seconds: float) -> None:
    """The body, kept in the request. Raises Problem 413, 415 or 408, and reads no further."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Problem(415, "media-type", "Not JSON", "send JSON, with Content-Type: application/json", CLOSE)
    too_large = Problem(
        413, "too-large", "The body is too large", f"at most {most} bytes; send fewer offers at once", CLOSE
    )
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Problem(408, "slow", "The body did not come", f"send it within {seconds:g} s", CLOSE) from None
    except ClientDisconnect:
        raise Problem(HUNG_UP, "hung-up", "The client hung up", "nobody reads this") from None
    request._body = bytes(body)  # where Request.body() keeps what it has read


async def gone(request: Request) -> None:
    """Returns when the client hangs up. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
