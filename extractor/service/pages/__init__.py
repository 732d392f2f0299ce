"""The pages: rendered here, brought to life by the modules in `static`, which speak to the API as any client does."""

import hashlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from extractor.io import FORMATS
from extractor.keys import Role
from extractor.service.auth import COOKIE
from extractor.service.guard import guarded
from extractor.service.problems import Problem
from extractor.service.uploads import TEXT
from extractor.sessions import csrf
from extractor.view import printable

HERE = Path(__file__).parent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
)
MEDIA = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
FILES = {path.name: path.read_bytes() for path in (*(HERE / "static").iterdir(), HERE.parents[1] / "look.css")}
TAGS = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in FILES.items()}
FIELDS = (
    ("title", "Title", True),
    ("description", "Description", False),
    ("category", "Category", False),
    ("id", "Id", False),
)
NAV: dict[str, tuple[str, Role]] = {  # the pages that the head of each leads to, and who may open them
    "try": ("Try it", "extract"),
    "jobs": ("Jobs", "extract"),
    "review": ("Review", "review"),
    "schemas": ("Schemas", "review"),
    "quality": ("Quality", "review"),
}

_env = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, finalize=printable, undefined=StrictUndefined
)
_env.trim_blocks = _env.lstrip_blocks = True


def rendered(request: Request, name: str, status: int = 200, **shown: Any) -> Response:
    """The page with this template, around what is shown."""
    key = getattr(request.state, "key", None)
    token = request.cookies.get(COOKIE)
    page = _env.get_template(f"{name}.html.jinja").render(
        page=name, nav=NAV, key=key, csrf=csrf(token) if token else "", **shown
    )
    return Response(page, status, {"Content-Security-Policy": POLICY}, "text/html; charset=utf-8")


def shown(request: Request, problem: Problem) -> Response:
    """The page of a problem."""
    return rendered(request, "problem", problem.status_code, problem=problem)


def paged(role: Role) -> type[APIRoute]:
    """The class of routes to pages for keys with this role: who has none is led to the way in."""

    class Paged(guarded(role)):  # type: ignore[misc]  # mypy knows no class that a function returns
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handled(request: Request) -> Response:
                try:
                    answer: Response = await handle(request)
                    return answer
                except Problem as problem:
                    if problem.kind == "key":
                        here = urlencode({"to": request.url.path})
                        return RedirectResponse(f"/sign-in?{here}", 303)
                    return shown(request, problem)

            return handled

    return Paged


def pages(role: Role) -> APIRouter:
    return APIRouter(route_class=paged(role), include_in_schema=False)


opened = APIRouter(include_in_schema=False)
extracting = pages("extract")
reviewing = pages("review")


@opened.get("/static/{name}")
async def static(name: str, request: Request) -> Response:
    if (content := FILES.get(name)) is None:
        return Response(status_code=404)
    headers = {"ETag": TAGS[name], "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == TAGS[name]:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers, media_type=MEDIA[Path(name).suffix])


@opened.get("/sign-in")
async def sign_in(request: Request) -> Response:
    if request.app.state.service.access.keys is None:
        return RedirectResponse("/", 303)
    return rendered(request, "sign-in")


@extracting.get("/")
async def try_it(request: Request) -> Response:
    return rendered(request, "try", schemas=request.app.state.service.schemas)


@extracting.get("/jobs")
async def jobs(request: Request) -> Response:
    schemas = request.app.state.service.schemas
    return rendered(request, "jobs", schemas=schemas, fields=FIELDS, endings=",".join([*FORMATS, *TEXT]))


@reviewing.get("/review")
async def review(request: Request) -> Response:
    return rendered(request, "review")


@reviewing.get("/schemas")
async def schemas(request: Request) -> Response:
    return rendered(request, "schemas")


@reviewing.get("/quality")
async def quality(request: Request) -> Response:
    return rendered(request, "quality")


PAGES = (opened, extracting, reviewing)
