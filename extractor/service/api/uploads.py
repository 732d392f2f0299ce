"""Files of offers, as they come: stored, looked into, and waiting for the job that takes them."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from extractor.columns import guess, sample
from extractor.errors import InputError
from extractor.journal import JobEntry
from extractor.pii import mask
from extractor.service.api.common import Asking, Served, problems, router
from extractor.service.guard import CLOSE
from extractor.service.models import Body
from extractor.service.problems import HUNG_UP, Problem, retry
from extractor.service.served import Service
from extractor.service.uploads import KINDS, TooMuch

sending = router("extract")
SHOWN, LONGEST_CELL = 10, 500  # rows of a preview, characters of a cell
_EXAMPLE = 'sku,title,category\n1,"Velmora Suede Loafer, Tan, EU 42",Shoes\n'
BINARY = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS} | {
    "text/csv": {"schema": {"type": "string", "format": "binary"}, "example": _EXAMPLE}
}


class File(Body):
    name: str = Field(default="", max_length=1_000, description="Of the file; its ending says how it is read.")


class Mapped(Body):
    """Which columns the fields of an offer are, None for none."""

    id: str | None = Field(default=None, max_length=1_000, description="None: rows are named by where they stand.")
    title: str = Field(max_length=1_000)
    description: str | None = Field(default=None, max_length=1_000)
    category: str | None = Field(default=None, max_length=1_000)


class Guessed(Body):
    id: str | None
    title: str | None
    description: str | None
    category: str | None


class UploadView(Body):
    """A file that no job has taken: its columns, what they seem to be, and its first rows, with cells cut short."""

    id: str
    name: str
    size: int = Field(description="In bytes.")
    created: str
    columns: list[str]
    guessed: Guessed
    rows: list[dict[str, str]]


class UploadSummary(Body):
    id: str
    name: str
    size: int
    created: str


class UploadList(Body):
    uploads: list[UploadSummary]


@sending.post(
    "/uploads",
    status_code=201,
    responses=problems(408, 413, 415, 422),
    openapi_extra={"requestBody": {"required": True, "content": BINARY}},
)
async def upload(
    request: Request,
    service: Served,
    key: Asking,
    file: Annotated[File, Query()],
) -> UploadView:
    """Send a file of offers: CSV, JSON lines, Parquet or XLSX, as it is. It is deleted after a day if no job takes it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in KINDS:
        detail = f"send the file itself as the body, with Content-Type: {', '.join(KINDS)}"
        raise Problem(415, "media-type", "Not a file of offers", detail, CLOSE)
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else None
    try:
        entry = await service.uploads.take(key.who, file.name, kind, length, request.stream())
        return await run_in_threadpool(_shown, service, entry)
    except TooMuch as error:
        if error.pending:
            raise Problem(429, "uploads", "Too many files wait", str(error), CLOSE | retry(60)) from error
        raise Problem(413, "too-large", "The file is too large", str(error), CLOSE) from error
    except InputError as error:
        raise Problem(422, "file", "The file cannot be used", str(error), CLOSE) from error
    except TimeoutError:
        raise Problem(408, "slow", "The file did not come", "it came too slowly; send it again", CLOSE) from None
    except ClientDisconnect:
        raise Problem(HUNG_UP, "hung-up", "The client hung up", "nobody reads this") from None


@sending.get("/uploads")
def uploads(service: Served, key: Asking) -> UploadList:
    """Your files that no job has taken, newest first."""
    return UploadList(uploads=[UploadSummary(**_summary(entry)) for entry in service.uploads.pending(key.who)])


@sending.get("/uploads/{upload}", responses=problems(404, 409, 422))
def one_upload(upload: str, service: Served, key: Asking) -> UploadView:
    """A file that no job has taken."""
    return _shown(service, own_upload(service, key.who, upload))


@sending.delete("/uploads/{upload}", status_code=204, responses=problems(404, 409, 422))
def delete_upload(upload: str, service: Served, key: Asking) -> Response:
    """Delete a file that no job has taken."""
    if not service.uploads.delete(own_upload(service, key.who, upload).id):
        raise no_upload()
    return Response(status_code=204)


def own_upload(service: Service, who: str, identity: str) -> JobEntry:
    """Raises Problem 404, whether there is none or it is somebody else's, and 409."""
    if (entry := service.uploads.upload(identity)) is None or entry.who != who:
        raise no_upload()
    refuse_elsewhere(service, entry)
    return entry


def refuse_elsewhere(service: Service, entry: JobEntry) -> None:
    """Raises Problem 409."""
    if not service.jobs.here(entry):
        detail = "the files are on the disk of another instance of the service; ask that one"
        raise Problem(409, "elsewhere", "Not on this instance", detail)


def no_upload() -> Problem:
    detail = "no file of this id waits for a job; a job may have taken it, or it was deleted after a day: send it again"
    return Problem(404, "unknown-upload", "No such file", detail)


def _summary(entry: JobEntry) -> Mapping[str, Any]:
    return {"id": entry.id, "name": entry.name, "size": entry.asked["size"], "created": entry.created}


def _cell(service: Service, text: str) -> str:
    beyond = text[: LONGEST_CELL + 99]  # with the rest of what is cut in two
    return (mask(beyond) if service.mask_pii else beyond)[:LONGEST_CELL]


def _shown(service: Service, entry: JobEntry) -> UploadView:
    seen = sample(service.uploads.file(entry))
    rows = [{name: _cell(service, cell) for name, cell in row.items()} for row in seen.rows[:SHOWN]]
    guessed = Guessed(**guess(seen, lambda category: service.schema(category) is not None))
    return UploadView(**_summary(entry), columns=seen.columns, guessed=guessed, rows=rows)
