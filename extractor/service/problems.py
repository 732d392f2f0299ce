"""Everything that goes wrong in the service, as documents of RFC 9457 that say what to do."""

import json
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from extractor.errors import ConflictError, EngineError, InputError, ShelfwiseError
from extractor.sandbox import NoRoom
from extractor.service.tickets import NotReady, QueueFull

MEDIA = "application/problem+json"
HUNG_UP = 499  # nobody reads it; the log and the metrics tell it from an answer
ADVICE = {
    400: "the body cannot be read; send JSON in UTF-8",
    404: "there is nothing here; /openapi.json says what there is",
    405: "this path takes other methods; the Allow header names them",
    500: "the service made a mistake; report the request id to whoever runs it",
}


class Document(BaseModel):
    """A problem (RFC 9457): `detail` says what to do; `errors` where a body is wrong; `request_id` finds the line in the log."""

    type: str = Field(examples=["urn:shelfwise:problem:queue-full"])
    title: str = Field(examples=["Too many offers wait"])
    status: int = Field(examples=[429])
    detail: str
    request_id: str
    errors: list[str] = []


class Problem(HTTPException):
    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[str] = (),
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind, self.title, self.errors = kind, title, list(errors)


def retry(seconds: int) -> dict[str, str]:
    return {"Retry-After": str(seconds)}


def as_problem(error: ShelfwiseError) -> Problem:
    match error:
        case QueueFull():
            return Problem(429, "queue-full", "Too many offers wait", str(error), retry(error.seconds))
        case NoRoom():
            return Problem(429, "busy", "Too many templates are tried", str(error), retry(2))
        case NotReady():
            return Problem(503, "not-ready", "No engine answers", str(error), retry(5))
        case ConflictError():
            return Problem(409, "conflict", "Somebody else was first", str(error))
        case InputError():
            return Problem(422, "input", "The request cannot be used as it is", str(error))
        case EngineError():
            return Problem(503, "engine", "No engine answers", str(error), retry(5))
    return Problem(503, "storage", "The store cannot be reached", "the store cannot be reached; try again", retry(5))


def respond(request_id: str, problem: Problem) -> Response:
    document = Document(
        type=f"urn:shelfwise:problem:{problem.kind}" if problem.kind else "about:blank",
        title=problem.title,
        status=problem.status_code,
        detail=problem.detail,
        request_id=request_id,
        errors=problem.errors,
    )
    # ASCII, so that what a client wrote, even half a surrogate pair, can be said back.
    body = json.dumps(document.model_dump(exclude_defaults=True))
    return Response(body, problem.status_code, problem.headers, MEDIA)


def plain(status: int, headers: Mapping[str, str] | None = None) -> Problem:
    title = HTTPStatus(status).phrase
    return Problem(status, "", title, ADVICE.get(status, title), headers)


def invalid(found: Sequence[str]) -> Problem:
    """Of a body in which these places are wrong."""
    detail = f"correct the request: {found[0]}" + (f" (and {len(found) - 1} more, in errors)" if found[1:] else "")
    return Problem(422, "invalid", "The request is not valid", detail, errors=found)


def register(app: FastAPI, page: Callable[[Request, Problem], Response]) -> None:
    """`page` shows a problem to a person."""

    @app.exception_handler(StarletteHTTPException)
    async def _http(request: Request, error: StarletteHTTPException) -> Response:
        problem = error if isinstance(error, Problem) else plain(error.status_code, error.headers)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):  # who typed an address
            return page(request, problem)
        return respond(request.state.request_id, problem)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        return respond(request.state.request_id, invalid([_said(e) for e in error.errors()[:20]]))

    @app.exception_handler(ShelfwiseError)
    async def _ours(request: Request, error: ShelfwiseError) -> Response:
        return respond(request.state.request_id, as_problem(error))

    @app.exception_handler(Exception)
    async def _mistake(request: Request, error: Exception) -> Response:
        return respond(request.state.request_id, plain(500))


def _said(error: Mapping[str, object]) -> str:
    location = error["loc"]
    where = ".".join(str(part)[:100] for part in location if part != "body") if isinstance(location, tuple) else ""
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{where}: {message}" if where else message
