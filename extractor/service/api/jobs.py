"""Durable jobs over files that were sent."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Depends, Query, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from extractor.columns import FIELDS, guess, sample
from extractor.journal import JobEntry
from extractor.keys import name_of
from extractor.records import Failure
from extractor.schema import AttributeSchema
from extractor.service.api.common import BODY, Asking, Served, asked_schema, problems, router
from extractor.service.api.uploads import Mapped, no_upload, own_upload, refuse_elsewhere
from extractor.service.jobs import KIND
from extractor.service.models import Asked, Body
from extractor.service.problems import Problem, retry
from extractor.service.reports import RUNNING, STATES, WAITING
from extractor.service.served import Service
from extractor.service.uploads import TooMuch

working = router("extract")
MOST_SHOWN = 1_000
LOOK = 0.5  # seconds between two looks at a job that somebody watches


class JobRequest(Asked):
    """A file that was sent (POST /v1/uploads), which of its columns are what, and what to extract."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"upload": "5b0a3c0d9f6e4a21", "columns": {"id": "sku", "title": "Product name"}, "schema": "Shoes"},
                {"upload": "5b0a3c0d9f6e4a21", "schema": {"attributes": ["Brand", "Color"]}},
            ]
        }
    )

    upload: str = Field(max_length=100)
    columns: Mapped | None = Field(default=None, description="Without it, as guessed.")


class JobCounts(Body):
    """Of rows: each that was read has a record or is dead, which is a failure."""

    rows: int = 0
    records: int = 0
    reused: int = Field(default=0, description="Records of offers that equal another one.")
    dead: int = 0
    reasons: dict[str, int] = Field(default={})
    total: int | None = Field(default=None, description="Known once all have been read.")
    prompt_tokens: int = 0
    output_tokens: int = 0
    not_reviewable: int = Field(default=0, description="Records with an id or a category too long for reviews.")


class JobView(Body):
    """`state` is waiting (behind others: `ahead`), running, cancelled, failed (`problem` says what to do) or finished."""

    id: str
    name: str = Field(description="Of the file.")
    state: str = Field(json_schema_extra={"enum": list(STATES)})
    who: str
    created: str
    finished: str | None
    schema_: str | None = Field(serialization_alias="schema", description="None: by each offer's category.")
    columns: Mapped
    counts: JobCounts
    fraction: float | None = Field(description="Of the file that has been read.")
    rate: float | None = Field(description="Records a second.")
    seconds_left: int | None
    ahead: int | None = Field(description="Jobs that began earlier and are not finished, of one that waits.")
    problem: str | None


class JobList(Body):
    jobs: list[JobView]


class Page(Body):
    limit: int = Field(default=100, ge=1, le=MOST_SHOWN)
    offset: int = Field(default=0, ge=0, le=100_000_000)


class FailedRow(Body):
    row: int = Field(description="Place in the file, from 0.")
    attempts: int
    failure: Failure


class FailedRows(Body):
    total: int
    failures: list[FailedRow]


@working.post("/jobs", status_code=202, responses=BODY | problems(404, 409))
def submit(body: JobRequest, service: Served, key: Asking) -> JobView:
    """Begin a job over a file. It goes on until all rows are done, whatever happens to the service. Asking the same again is no
    second job."""
    taken = service.jobs.job(body.upload)
    entry = taken if taken and taken.who in key.owners else own_upload(service, key.who, body.upload)
    refuse_elsewhere(service, entry)
    columns = _columns(service, entry, body.columns)
    chosen = asked_schema(service, body.schema_)
    schemas = [chosen] if chosen else list(service.schemas)
    if len(schemas) > 1 and columns["category"] is None:
        detail = "say which column names the category, or choose one schema for all offers"
        raise Problem(422, "no-category", "No schema for these offers", detail)
    asked = {"columns": columns, "schema": _name(chosen)}
    try:
        job = service.jobs.submit(key.who, entry, asked, schemas)
    except TooMuch as error:
        raise Problem(429, "jobs", "Too many jobs are not finished", str(error), retry(60)) from error
    if job is None:
        if service.jobs.job(entry.id) is None:
            raise no_upload()
        detail = f"job {entry.id} has taken this file, and asks for something else; send the file again"
        raise Problem(409, "taken", "The file has its job", detail)
    return _now(service, job)


@working.get("/jobs", responses=problems(422))
def jobs(service: Served, key: Asking, page: Annotated[Page, Query()]) -> JobList:
    """Newest first: your own or, for an admin, all. They belong to the key: another one of the same name has its own."""
    who = None if key.allows("admin") else key.owners
    entries = service.journal.jobs(who=who, kind=KIND, limit=page.limit, offset=page.offset)
    places = service.jobs.places()
    return JobList(jobs=[_view(entry, places) for entry in entries])


def own_job(job: str, service: Served, key: Asking) -> JobEntry:
    """Raises Problem 404, whether there is none or it is somebody else's."""
    entry = service.jobs.job(job)
    if entry is None or (entry.who not in key.owners and not key.allows("admin")):
        raise no_job()
    return entry


def no_job() -> Problem:
    return Problem(404, "unknown-job", "No such job", "you have no job of this id; GET /v1/jobs lists them")


Own = Annotated[JobEntry, Depends(own_job)]


@working.get("/jobs/{job}", responses=problems(404, 422))
def one_job(entry: Own, service: Served) -> JobView:
    """Where a job stands."""
    return _now(service, entry)


@working.delete("/jobs/{job}", status_code=204, responses=problems(404, 409, 422))
def delete_job(entry: Own, service: Served, key: Asking) -> Response:
    """Delete a job that is finished, was cancelled or has failed, with its file and its results. What it extracted stays with the
    reviews."""
    if not service.jobs.delete(key.who, entry.id):
        if service.jobs.job(entry.id) is None:
            raise no_job()
        detail = "only a job that is over can be deleted; cancel it first, and wait until it has stopped"
        raise Problem(409, "state", "The job is not over", detail)
    return Response(status_code=204)


@working.post("/jobs/{job}/cancel", responses=problems(404, 409, 422))
def cancel(entry: Own, service: Served, key: Asking) -> JobView:
    """Stop a job that waits or runs. What is finished stays, and it can be resumed."""
    if not service.jobs.cancel(key.who, entry.id):
        raise Problem(409, "state", "The job is over", "only a job that waits or runs can be cancelled")
    return _now(service, entry)


@working.post("/jobs/{job}/resume", responses=problems(404, 409, 422))
def resume(entry: Own, service: Served, key: Asking) -> JobView:
    """Go on with a job that was cancelled or has failed, where it stopped."""
    refuse_elsewhere(service, entry)
    if not service.jobs.resume(key.who, entry.id):
        raise Problem(409, "state", "The job has not stopped", "only a job that was cancelled or has failed can go on")
    return _now(service, entry)


@working.get("/jobs/{job}/failures", responses=problems(404, 409, 422))
def failures(entry: Own, service: Served, page: Annotated[Page, Query()]) -> FailedRows:
    """The rows that gave no record so far, and why."""
    refuse_elsewhere(service, entry)
    if (job := service.jobs.opened(entry)) is None:
        return FailedRows(total=0, failures=[])
    with job:
        letters = list(job.letters(page.offset, page.limit))
        rows = [FailedRow(row=one.row, attempts=one.attempts, failure=one.failure) for one in letters]
        return FailedRows(total=job.counts().dead, failures=rows)


@contextmanager
def _watching(service: Service) -> Iterator[None]:
    """Raises Problem 429 where too many watch already."""
    if service.watched >= service.limits.watching:
        detail = "too many watch jobs at once; look at GET /v1/jobs/ID now and then instead"
        raise Problem(429, "watching", "Too many watch", detail, {"Retry-After": "10"})
    service.watched += 1
    try:
        yield
    finally:
        service.watched -= 1


async def _place(service: Served) -> AsyncIterator[None]:
    with _watching(service):
        yield


@working.get(
    "/jobs/{job}/events",
    response_class=EventSourceResponse,
    responses=problems(404, 422),
    dependencies=[Depends(_place)],
)
async def events(entry: Own, service: Served) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `progress` with the job, whenever it has changed; the last one says how it ended, unless it was deleted
    before. Made for EventSource, which the last event should close, or else it begins anew."""
    last: JobView | None = None
    while not service.jobs.closing.is_set():
        shown = await run_in_threadpool(_found, service, entry.id)
        if shown is None:
            return
        if shown != last:
            last = shown
            yield ServerSentEvent(event="progress", data=shown.model_dump(mode="json", by_alias=True))
        if shown.state not in (WAITING, RUNNING):
            return
        await asyncio.sleep(LOOK)


def _columns(service: Service, entry: JobEntry, asked: Mapped | None) -> dict[str, str | None]:
    """Raises Problem 422 for a column that there is not."""
    seen = sample(service.uploads.file(entry))
    if asked is None:
        columns = guess(seen, lambda category: service.schema(category) is not None)
        if columns["title"] is None:
            raise Problem(422, "no-title", "No title", "say which column holds the titles, in `columns`")
        return columns
    columns = asked.model_dump()
    for field in FIELDS:
        if columns[field] is not None and columns[field] not in seen.columns:
            detail = f"columns.{field}: no such column; there are {', '.join(seen.columns[:20])}"
            raise Problem(422, "unknown-column", "No such column", detail)
    return columns


def _name(schema: AttributeSchema | None) -> str | None:
    if schema is None:
        return None
    return schema.category or ", ".join(a.name for a in schema.attributes)[:200]


def _now(service: Service, entry: JobEntry) -> JobView:
    return _found(service, entry.id) or _view(entry, {})


def _found(service: Service, identity: str) -> JobView | None:
    if (entry := service.jobs.job(identity)) is None:
        return None
    return _view(entry, service.jobs.places() if entry.state == WAITING else {})


def _view(entry: JobEntry, places: Mapping[str, int]) -> JobView:
    counts: dict[str, Any] = entry.counts
    running = entry.state == RUNNING
    return JobView(
        id=entry.id,
        name=entry.name,
        state=entry.state,
        who=name_of(entry.who),
        created=entry.created,
        finished=entry.finished,
        schema_=entry.asked["schema"],
        columns=Mapped(**entry.asked["columns"]),
        counts=JobCounts(**{name: counts[name] for name in JobCounts.model_fields if name in counts}),
        fraction=1.0 if counts.get("finished") else counts.get("fraction"),
        rate=counts.get("records_per_s") if running else None,
        seconds_left=counts.get("seconds_left") if running else None,
        ahead=places.get(entry.id) if entry.state == WAITING else None,
        problem=entry.problem,
    )
