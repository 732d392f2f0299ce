"""A client of the service.

with Client("http://127.0.0.1:8000", key) as client:
    records = client.extract([ProductOffer(id="1", category="Shoes", title="Velmora Suede Loafer, EU 42")])
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import httpx
from pydantic import BaseModel

from extractor.errors import ConflictError, EngineError, EngineUnavailable, InputError
from extractor.records import Evidence, Extraction, Failure, LabelledOffer, ProductOffer
from extractor.schema import AttributeSchema
from extractor.wire import Decided, DecidedAlike, Restored, ReviewCounts, ReviewItem

MOST_OFFERS, LARGEST = 1_000, 4 << 20  # of a request: offers, and bytes of their JSON; a service takes twice as many
AGAIN = (429, 503)


class ServedSchema(BaseModel):
    """What a service extracts of the offers of a category, None for those of every category; version 0 is that of a file."""

    category: str | None
    reference: str
    description: str | None
    attributes: list[str]
    version: int
    who: str | None
    at: str | None


class SavedSchema(ServedSchema):
    """`adapter_left` served the version before, and does not serve this one; `warnings` are of `place` and `message`."""

    adapter_left: str | None
    warnings: list[dict[str, str]]


class ServedTemplate(BaseModel):
    """A prompt template by name@version; `who` is None for one of a file."""

    reference: str
    sha256: str
    released: bool
    who: str | None
    at: str | None


class ServedJob(BaseModel):
    """A job of a service: `state` is waiting, running, cancelled, failed (`problem` says what to do) or finished; `rate` is in
    records a second."""

    id: str
    name: str
    state: str
    created: str
    finished: str | None
    counts: dict[str, Any]
    fraction: float | None
    rate: float | None
    seconds_left: int | None
    problem: str | None


class Client:
    """`timeout` is in seconds for each request; `patience`, how many seconds a service may be overloaded, starting or gone before
    EngineUnavailable is raised. Other problems raise InputError (ConflictError where another reviewer was first), or EngineError
    where the service made a mistake. Threads may share a client."""

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        key: str | None = None,
        *,
        timeout: float = 60.0,
        patience: float = 60.0,
    ) -> None:
        if not base_url.lower().startswith(("http://", "https://")):
            raise InputError(f"{base_url}: an address of a service begins with http:// or https://")
        self._patience = patience
        self._http = httpx.Client(
            base_url=base_url,
            headers={"X-Timeout": f"{timeout:g}"} | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=httpx.Timeout(timeout + 5, connect=5.0),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def extract(
        self, offers: Sequence[ProductOffer], schema: str | AttributeSchema | None = None, keep: bool = False
    ) -> list[Extraction | Failure]:
        """One record or failure for each offer, in order. `schema` is the category of a served one, or one of your own; without
        it each offer's category picks a served one. `keep` the records for review."""
        asked = _named(schema)
        records: list[Extraction | Failure] = []
        for part in _parts(offers):
            body = {"offers": part, "keep": keep} | ({"schema": asked} if asked else {})
            answer = self._asked("POST", "/v1/extract", body)
            records += [(Failure if "failure" in r else Extraction).model_validate(r) for r in answer["results"]]
        return records

    def schemas(self) -> list[ServedSchema]:
        return [ServedSchema.model_validate(row) for row in self._asked("GET", "/v1/schemas")]

    def schema(self, category: str, version: int | None = None) -> AttributeSchema:
        """The schema that offers of a category are asked by, or an older version of it."""
        asked = "" if version is None else f"?version={version}"
        return AttributeSchema.model_validate(self._asked("GET", f"/v1/schemas/{quote(category, safe='')}{asked}"))

    def save_schema(self, schema: AttributeSchema, from_version: int) -> SavedSchema:
        """The next version of its category's schema, for one that was made from `from_version`: from then on offers are asked by
        it. Raises ConflictError where somebody has saved another since."""
        body = {"schema": schema.written(), "from_version": from_version}
        path = f"/v1/schemas/{quote(schema.category or '', safe='')}"
        return SavedSchema.model_validate(self._asked("PUT", path, body))

    def templates(self) -> list[ServedTemplate]:
        return [ServedTemplate.model_validate(row) for row in self._asked("GET", "/v1/templates")]

    def claim(
        self,
        n: int = 20,
        order: Literal["uncertain", "frequent"] = "uncertain",
        category: str | None = None,
        attribute: str | None = None,
    ) -> list[ReviewItem]:
        """Items to decide about, which nobody else gets for ten minutes; `category` "" is that of offers without one."""
        body = {"n": n, "order": order, "category": category, "attribute": attribute}
        answer = self._asked("POST", "/v1/feedback/claim", body)
        return [ReviewItem.model_validate(item) for item in answer["items"]]

    def decide(self, offer_id: str, attribute: str, values: Sequence[str | Evidence], revise: bool = False) -> Decided:
        """Say which values are right, as texts or as spans of the offer; none for no value."""
        said = [v if isinstance(v, str) else v.model_dump() for v in values]
        body = {"offer_id": offer_id, "attribute": attribute, "values": said, "revise": revise}
        return Decided.model_validate(self._asked("POST", "/v1/feedback/decide", body))

    def decide_alike(self, category: str, attribute: str, values: Sequence[str]) -> DecidedAlike:
        """Accept these values of the model wherever they wait and nobody else looks at them."""
        body = {"category": category, "attribute": attribute, "values": list(values)}
        return DecidedAlike.model_validate(self._asked("POST", "/v1/feedback/decide-alike", body))

    def undo(self, act: str) -> Restored:
        """Take back what `decide` or `decide_alike` called by this name."""
        return Restored.model_validate(self._asked("POST", "/v1/feedback/undo", {"act": act}))

    def counts(self, category: str | None = None, attribute: str | None = None) -> ReviewCounts:
        """What waits, and what was decided."""
        asked = {"category": category, "attribute": attribute}
        params = {name: value for name, value in asked.items() if value is not None}
        return ReviewCounts.model_validate(self._asked("GET", f"/v1/feedback/counts?{httpx.QueryParams(params)}"))

    def labelled(self, category: str | None = None) -> Iterator[LabelledOffer]:
        """Offers that people are done with. Raises EngineUnavailable where the service breaks off."""
        params = {} if category is None else {"category": category}
        try:
            with closing(self._answer("GET", "/v1/feedback/labelled", stream=True, params=params)) as response:
                rest = b""
                for chunk in response.iter_bytes():
                    *lines, rest = (rest + chunk).split(b"\n")  # alone: titles hold other signs that end lines
                    yield from map(LabelledOffer.model_validate_json, lines)
        except httpx.TransportError as error:
            raise EngineUnavailable(f"{self._http.base_url}: broke off: {error or type(error).__name__}") from error

    def submit(
        self, path: Path, schema: str | AttributeSchema | None = None, columns: Mapping[str, str] | None = None
    ) -> ServedJob:
        """A durable job over a file of offers, `schema` as for `extract`. `columns`: which are `id`, `title`, `description` and
        `category`; without it they are guessed."""
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        kind = {"Content-Type": "application/octet-stream"}
        sent = self._asked("POST", "/v1/uploads", file=path, params={"name": path.name}, headers=kind)
        asked = {"upload": sent["id"], "columns": columns and dict(columns), "schema": _named(schema)}
        return ServedJob.model_validate(self._asked("POST", "/v1/jobs", asked))  # asked twice it is one job

    def job(self, identity: str) -> ServedJob:
        return ServedJob.model_validate(self._asked("GET", f"/v1/jobs/{identity}"))

    def wait(self, identity: str, timeout: float | None = None) -> ServedJob:
        """When it is finished, cancelled or failed. Raises EngineUnavailable where that takes more than `timeout` seconds."""
        begun = time.monotonic()
        while (job := self.job(identity)).state in ("waiting", "running"):
            if timeout is not None and time.monotonic() - begun > timeout:
                raise EngineUnavailable(f"job {identity} has not ended within {timeout:g} s; it goes on")
            time.sleep(0.5)
        return job

    def delete(self, identity: str) -> None:
        """A job that is over, with its file and its results; what it extracted stays with the reviews."""
        self._asked("DELETE", f"/v1/jobs/{identity}")

    def results(self, identity: str, path: Path, format: str | None = None, reviewed: bool = True) -> None:
        """Into a file, of the format that its ending says; of a job that still runs, what there is so far."""
        asked: dict[str, str | bool] = {"format": format or path.suffix.removeprefix("."), "reviewed": reviewed}
        with closing(self._answer("GET", f"/v1/jobs/{identity}/results", stream=True, params=asked)) as response:
            aside = path.with_name(f"{path.name}.part")
            try:
                with aside.open("wb") as file:
                    file.writelines(response.iter_bytes())
            except httpx.TransportError as error:
                aside.unlink()
                raise EngineUnavailable(f"{path}: the download broke off ({error}); try again") from error
            aside.replace(path)

    def ready(self) -> bool:
        """Whether the service takes requests, now."""
        try:
            return self._http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def _asked(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        response = self._answer(method, path, body, **more)
        return response.json() if response.content else None

    def _answer(
        self, method: str, path: str, body: Any = None, *, file: Path | None = None, stream: bool = False, **more: Any
    ) -> httpx.Response:
        """What is no problem; a `stream` is not read yet."""
        begun, wait = time.monotonic(), 1.0
        while True:
            try:
                with file.open("rb") if file else nullcontext() as content:
                    request = self._http.build_request(method, path, json=body, content=content, **more)
                    response = self._http.send(request, stream=stream)
                if response.is_success:
                    return response
                response.read()
                problem, wait = _detail(response), _wait(response)
                if response.status_code not in AGAIN:
                    raise _error(response.status_code, problem)
            except httpx.TransportError as error:
                problem = f"no answer: {error or type(error).__name__}"
            waited = time.monotonic() - begun
            if waited + wait > self._patience:
                raise EngineUnavailable(f"{self._http.base_url}: {problem}; waited {waited:.0f} s in vain")
            time.sleep(wait)


def _parts(offers: Sequence[ProductOffer]) -> Iterator[list[dict[str, str | None]]]:
    """As many offers as a request holds."""
    part, size = list[dict[str, str | None]](), 0
    for o in offers:
        row = {"id": o.id, "title": o.title, "description": o.description, "category": o.category}
        length = len(json.dumps(row))
        if part and (len(part) == MOST_OFFERS or size + length > LARGEST):
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    if part:
        yield part


def _named(schema: str | AttributeSchema | None) -> Any:
    return schema.written() if isinstance(schema, AttributeSchema) else schema


def _error(status: int, problem: str) -> Exception:
    if status in (*AGAIN, 504):
        return EngineUnavailable(problem)
    if status == 409:
        return ConflictError(problem)
    return InputError(problem) if status < 500 else EngineError(problem)


def _wait(response: httpx.Response) -> float:
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else 1.0


def _detail(response: httpx.Response) -> str:
    try:
        problem = response.json()
        return f"{response.status_code} {problem['title']}: {problem['detail']} (request {problem['request_id']})"
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}, and no word why"
