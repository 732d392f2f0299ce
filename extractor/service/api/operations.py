"""For those who run the service."""

from fastapi import APIRouter, Response

from extractor.service.api.common import Served, problems, router
from extractor.service.models import Body
from extractor.service.problems import Problem, retry

watching = router("extract", prefix="")
probing = APIRouter()


class Health(Body):
    status: str
    detail: str | None = None


@watching.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(service: Served) -> Response:
    """For Prometheus."""
    return Response(service.metrics.written(), media_type="text/plain; version=0.0.4; charset=utf-8")


@probing.get("/healthz", responses=problems(503))
async def healthz(service: Served) -> Health:
    """Whether the process is alive; where it is not, it should be started again."""
    if not service.batcher.alive:
        raise Problem(503, "dead", "The engine's thread has ended", "start the service again")
    return Health(status="alive")


@probing.get("/readyz", responses=problems(503))
async def readyz(service: Served) -> Health:
    """Whether the engine has answered, and requests are taken."""
    if not service.batcher.answering:
        # Anybody may ask: why it does not answer, with its address, is for the log.
        detail = "the engine starts or is down, or the service is being stopped; the log says which"
        raise Problem(503, "not-ready", "No engine answers", detail, retry(5))
    return Health(status="ready")
