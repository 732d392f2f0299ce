"""Around every request: its id, secure headers, one line of the log, and metrics. What is logged holds no text of an offer, and
no key: names and numbers alone."""

import json
import logging
import re
import secrets
import sys
import time
import traceback
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from extractor.service.metrics import Metrics
from extractor.service.problems import HUNG_UP, plain, respond

log = logging.getLogger("shelfwise.service")
_SANE = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_SECURE = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Observed:
    """An application in the same place; what it raises becomes a problem, and is logged without its message."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(scope)
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=request_id, facts=facts)
        begun, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = {name for name, _ in message["headers"]}
                secure = [header for header in _SECURE if header[0] not in given]
                message["headers"] = [*message["headers"], *secure, (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self.app(scope, receive, sent)
        except Exception as error:  # noqa: BLE001  # whatever it is, its message may hold an offer's text
            facts["error"] = _places(error)
            if not status:
                await respond(request_id, plain(500))(scope, receive, sent)
        finally:
            self._note(scope, request_id, status or HUNG_UP, time.perf_counter() - begun, facts)

    def _note(self, scope: Scope, request_id: str, status: int, seconds: float, facts: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "")
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.answered(method, route, status, seconds)
        fields = {"id": request_id, "method": method, "route": route, "status": status, "ms": round(1000 * seconds, 1)}
        log.log(logging.ERROR if status == 500 else logging.INFO, "request", extra={"facts": fields | facts})


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"")
    return given.decode() if _SANE.fullmatch(given) else secrets.token_hex(8)


def _places(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " < ".join(
        [type(error).__name__, *(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames))]
    )


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        facts = getattr(record, "facts", {})
        error = {"error": record.exc_info[0].__name__} if record.exc_info and record.exc_info[0] else {}
        return json.dumps({"at": at, "level": record.levelname.lower(), "what": record.getMessage()} | facts | error)


def log_as_json() -> None:
    """One line of JSON a record on standard error: the service's own, and what uvicorn has to say."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json())
    for name in ("shelfwise.service", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
