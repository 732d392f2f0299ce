"""The application over what is served."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from extractor.service.api import ROUTERS
from extractor.service.observe import Observed
from extractor.service.pages import PAGES, shown
from extractor.service.problems import register
from extractor.service.served import Service


def create_app(service: Service) -> Observed:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        service.current.start()
        await run_in_threadpool(service.jobs.start)
        await run_in_threadpool(service.training.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.training.close)
            await run_in_threadpool(service.jobs.close)
            await run_in_threadpool(service.batcher.close)
            await run_in_threadpool(service.current.close)

    app = FastAPI(
        title="Shelfwise",
        version=version("shelfwise"),
        description="Untidy product offers in, clean attribute records out. Problems are documents of RFC 9457.",
        lifespan=lifespan,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = service
    register(app, page=shown)
    for router in (*ROUTERS, *PAGES):
        app.include_router(router)
    return Observed(app, service.metrics)
