"""A browser's way in: who shows a key gets a cookie that stands for it."""

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool

from extractor.keys import Role
from extractor.service.api.common import Asking, Served, problems, router
from extractor.service.auth import COOKIE
from extractor.service.models import Body
from extractor.service.problems import Problem
from extractor.sessions import HOURS

entering = router("extract")


class Entered(Body):
    name: str
    role: Role


@entering.post("/session", responses=problems(409))
async def sign_in(request: Request, response: Response, service: Served, key: Asking) -> Entered:
    """Begin a session: the key of the request goes on as a cookie, for twelve hours."""
    if service.access.sessions is None:
        raise Problem(
            409, "no-keys", "There are no keys here", "this service takes anybody on this machine; just go on"
        )
    token = await run_in_threadpool(service.access.sessions.begin, key)
    # Only the proxy that ends TLS knows of it; whoever makes that header up is refused nothing but their own cookie.
    secure = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
    response.set_cookie(COOKIE, token, max_age=int(HOURS * 3600), httponly=True, samesite="lax", secure=secure)
    return Entered(name=key.name, role=key.role)


@entering.delete("/session", status_code=204)
async def sign_out(request: Request, service: Served) -> Response:
    """End the session of the cookie, if there is one."""
    token = request.cookies.get(COOKIE)
    if token and service.access.sessions:
        await run_in_threadpool(service.access.leave, token)
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response
