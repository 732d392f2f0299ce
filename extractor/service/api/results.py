"""What came of a job, as a file: also of one that still runs, as far as it is."""

from collections.abc import Generator
from contextlib import closing
from itertools import islice
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Query
from fastapi.responses import StreamingResponse
from pydantic import AfterValidator, Field
from starlette.types import Receive, Scope, Send

from extractor.io import FORMATS
from extractor.journal import JobEntry
from extractor.records import Extraction, Failure
from extractor.service.api.common import Served, problems, router
from extractor.service.api.jobs import Own
from extractor.service.api.uploads import refuse_elsewhere
from extractor.service.models import Body
from extractor.service.served import Service
from extractor.writers import open_writer

downloading = router("extract")
MEDIA = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
WRITTEN = sorted(set(FORMATS.values()))
AT_END = ("xlsx",)  # formats whose file changes behind what was written, until it is whole
BLOCK = 1 << 20


def _known(format: str) -> str:
    if format not in WRITTEN:
        raise ValueError(f"{format!r} is none of {', '.join(WRITTEN)}")
    return format


class Download(Body):
    format: Annotated[str, AfterValidator(_known)] = Field(default="jsonl", json_schema_extra={"enum": [*WRITTEN]})
    reviewed: bool = Field(default=True, description="With what reviewers decided, in the place of what was extracted.")
    failures: bool = Field(default=True, description="With the rows that gave no record, at the end.")


class _Download(StreamingResponse):
    """Leaves nothing on the disk or open, also where the client hung up."""

    def __init__(self, content: Generator[bytes], **more: Any) -> None:
        super().__init__(content, **more)
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(self._content):
            await super().__call__(scope, receive, send)


@downloading.get(
    "/jobs/{job}/results",
    response_class=StreamingResponse,
    responses=problems(404, 409, 422) | {200: {"content": {MEDIA[name].partition(";")[0]: {} for name in WRITTEN}}},
)
def results(
    entry: Own,
    service: Served,
    asked: Annotated[Download, Query()],
) -> StreamingResponse:
    """The job's own records, in the order of the file. A decision of a reviewer counts where the store's newest text of the offer
    is that of the record: of an offer whose text is another by now, and of another one with its id, it says nothing."""
    refuse_elsewhere(service, entry)
    names = list(dict.fromkeys(a.name for s in service.jobs.schemas(entry) for a in s.attributes))
    content = _streamed(_rows(service, entry, asked), asked.format, names)
    shown = f"{PurePosixPath(entry.name).stem}-records.{asked.format}"
    disposition = f"attachment; filename=\"records.{asked.format}\"; filename*=UTF-8''{quote(shown, safe='')}"
    return _Download(content, media_type=MEDIA[asked.format], headers={"Content-Disposition": disposition})


def _rows(service: Service, entry: JobEntry, asked: Download) -> Generator[list[Extraction | Failure]]:
    if (job := service.jobs.opened(entry)) is None:
        return
    with job:
        for _, records in job.parts():
            yield [*(service.store.reviewed(records) if asked.reviewed else records)]
        if asked.failures:
            letters = job.letters()
            while part := list(islice(letters, 500)):
                yield [letter.failure for letter in part]


def _streamed(rows: Generator[list[Extraction | Failure]], format: str, names: list[str]) -> Generator[bytes]:
    """The file, as it is written: what has been sent stays on the disk until all has."""
    with closing(rows), TemporaryDirectory(prefix="shelfwise-") as folder:
        path = Path(folder) / f"records.{format}"
        with open_writer(path, names) as writer:
            at = 0
            for part in rows:
                writer.write(part)
                if format not in AT_END:
                    with path.open("rb") as written:
                        written.seek(at)
                        if more := written.read():
                            at += len(more)
                            yield more
        with path.open("rb") as written:
            written.seek(at)
            yield from iter(lambda: written.read(BLOCK), b"")
