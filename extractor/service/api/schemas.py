"""What is asked of offers: the schemas of files and their versions, which merchandisers try and admins save."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Path, Query, Request
from pydantic import ConfigDict, Field, JsonValue, ValidationError
from starlette.concurrency import run_in_threadpool

from extractor.definitions import readable, written
from extractor.lint import Finding
from extractor.lint_schemas import lint_schema
from extractor.pii import masked
from extractor.records import AttributeValue, Extraction, Failure
from extractor.schema import AttributeSchema, category_key, reason
from extractor.service.api.common import BODY, Asking, Served, answered, problems, router
from extractor.service.current import Defined
from extractor.service.models import EXAMPLE, MOST_ATTRIBUTES, Body, Number, Offer
from extractor.service.problems import Problem, invalid
from extractor.service.served import Service

reading, trying, saving = router("extract"), router("review"), router("admin")

MOST_WRITTEN = 1 << 20  # characters of a schema, its known values among them
MOST_TRIED = 10
MATERIAL: JsonValue = {"name": "Material", "description": "Of the upper.", "examples": ["Suede"]}
SHOES: JsonValue = {"category": "Shoes", "attributes": [{"name": "Brand", "description": "As printed."}, MATERIAL]}
Category = Annotated[str, Path(max_length=200, examples=["Shoes"])]


class SchemaSummary(Body):
    category: str | None = Field(description="None serves offers of every category.")
    reference: str
    description: str | None
    attributes: list[str]
    version: int = Field(description="0 is the file that the service was started with.")
    who: str | None
    at: str | None


class OfVersion(Body):
    version: int | None = Field(default=None, ge=0, le=999_999_999, description="By default the newest; 0 is the file.")


class DraftSchema(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"schema": SHOES}]})

    schema_: dict[str, Any] = Field(alias="schema", description="A schema, which may be wrong.")


class Place(Body):
    place: str = Field(description="The path of a field.", examples=["attributes.0.examples.1"])
    message: str


class Validation(Body):
    """A schema with problems is not saved; one with warnings is."""

    problems: list[Place]
    warnings: list[Place]


class TryRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"schema": SHOES, "offers": [EXAMPLE]}]})

    schema_: AttributeSchema = Field(alias="schema")
    offers: list[Offer] = Field(min_length=1, max_length=MOST_TRIED)


class Change(Body):
    attribute: str
    change: Literal["added", "removed", "changed"]
    before: list[str]
    after: list[str]


class Tried(Body):
    before: Extraction | Failure | None = Field(description="None where nothing is served of the category.")
    after: Extraction | Failure
    changes: list[Change]


class TryAnswer(Body):
    """For each offer, in order, its records by the served schema and by the draft, and the attributes whose values differ."""

    results: list[Tried]


class SaveRequest(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"schema": SHOES, "from_version": 0}]})

    schema_: AttributeSchema = Field(alias="schema")
    from_version: Number = Field(description="That the editor started from; 0 for the file, or for a new category.")


class SavedSchema(SchemaSummary):
    adapter_left: str | None = Field(
        description="An adapter serves the category that was trained for another version: until one is trained for this, "
        "prompting answers."
    )
    warnings: list[Place]


@reading.get("/schemas")
def schemas(service: Served) -> list[SchemaSummary]:
    """The schemas that are served: the newest version of each category."""
    return [SchemaSummary(**_summary(defined)) for defined in service.current.all()]


@reading.get("/schemas/{category:path}", responses=problems(404, 422))
def schema(
    category: str,
    service: Served,
    of: Annotated[OfVersion, Query()],
) -> AttributeSchema:
    """The schema of a category."""
    found = service.current.of(category) if of.version is None else service.current.version(category, of.version)
    if found is None:
        raise _unknown()
    return found.schema


@reading.get("/schema-versions/{category:path}", responses=problems(404, 422))
def versions(category: str, service: Served) -> list[SchemaSummary]:
    """The versions of a category's schema, the newest first."""
    found = service.definitions.versions("schema", category_key(category))
    saved = [Defined(schema, version) for schema, version in readable(found)]
    if file := service.current.version(category, 0):
        saved.append(file)
    if not saved:
        raise _unknown()
    return [SchemaSummary(**_summary(defined)) for defined in saved]


@trying.post("/schemas/validate", responses=BODY)
def validate(body: DraftSchema, service: Served) -> Validation:
    """What is wrong with a schema, by the fields in which it is."""
    try:
        draft = AttributeSchema.model_validate(body.schema_)
    except ValidationError as error:
        errors = error.errors(include_input=False)
        # A list without its wrong members may seem too short.
        errors = [e for e in errors if e["type"] != "too_short" or not e["ctx"]["actual_length"] == 0 < len(errors) - 1]
        found = [Finding(".".join(map(str, e["loc"])), reason(e)) for e in errors]
    else:
        found = _findings(service, draft)
    return Validation(problems=_places(found, note=False), warnings=_places(found, note=True))


@trying.post("/schemas/try", responses=BODY | problems(504))
async def try_schema(body: TryRequest, request: Request, service: Served) -> TryAnswer:
    """Extract offers by a draft and by what is served of its category, to see what would change."""
    draft, served = body.schema_, service.schema(body.schema_.category)
    _refuse(await run_in_threadpool(_findings, service, draft))
    asked = [offer.read(schema) for schema in (served, draft) if schema for offer in body.offers]
    if service.mask_pii:
        asked = await run_in_threadpool(lambda rows: [masked(row) for row in rows], asked)
    ticket = service.batcher.submit([offer for offer in asked if not isinstance(offer, Failure)])
    answers = iter(await answered(service, ticket, request, service.limits.timeout))
    records = [offer if isinstance(offer, Failure) else next(answers) for offer in asked]
    n = len(body.offers)
    pairs = zip(records[:n] if served else [None] * n, records[-n:], strict=True)
    return TryAnswer(results=[Tried(before=old, after=new, changes=changes(old, new)) for old, new in pairs])


@saving.put("/schemas/{category:path}", responses=BODY | problems(404, 409))
def save(category: Category, body: SaveRequest, service: Served, key: Asking) -> SavedSchema:
    """Save the next version of a category's schema, or the first; offers are asked by it from then on, in all processes that
    share the store within a few seconds. The same schema again is no new version."""
    name, known = category_key(category), service.current.of(category)
    if not name and known is None:
        raise invalid(["category: name one; no schema that serves every category is served here"])
    draft = body.schema_
    if draft.category is None:
        draft = draft.model_copy(update={"category": known.schema.category if known else category.strip()})
    if category_key(draft.category) != name:
        raise invalid([f"schema.category: {draft.category!r} is not the category of the path"])
    found = _findings(service, draft)
    _refuse(found)
    file = service.current.version(name, 0)
    version = service.definitions.save(
        "schema", name, written(draft), body.from_version, key.name, file.version if file else None
    )
    service.current.look()
    summary, left = _summary(Defined(draft, version)), service.adapter_left(draft)
    return SavedSchema(**summary, adapter_left=left, warnings=_places(found, note=True))


def changes(before: Extraction | Failure | None, after: Extraction | Failure) -> list[Change]:
    """By attribute, in the order of the draft, then those that it has no more."""
    old, new = _values(before), _values(after)
    rows = []
    for name in [*new, *(n for n in old if n not in new)]:
        was, now = old.get(name, []), new.get(name, [])
        if was != now:
            kind: Literal["added", "removed", "changed"] = "added" if not was else "removed" if not now else "changed"
            rows.append(Change(attribute=name, change=kind, before=was, after=now))
    return rows


def _values(record: Extraction | Failure | None) -> dict[str, list[str]]:
    attributes = record.attributes if isinstance(record, Extraction) else {}
    return {name: [_said(value) for value in found] for name, found in attributes.items()}


def _said(value: AttributeValue) -> str:
    return value.value if value.normalized_value is None else str(value.normalized_value)


def _findings(service: Service, draft: AttributeSchema) -> list[Finding]:
    if len(draft.attributes) > MOST_ATTRIBUTES:
        return [Finding("attributes", f"{len(draft.attributes)}; at most {MOST_ATTRIBUTES} are asked of an offer")]
    if len(text := written(draft)) > MOST_WRITTEN:
        return [Finding("attributes", f"{len(text)} characters with all they hold; at most {MOST_WRITTEN}")]
    if len(draft.category or "") > 200:
        return [Finding("category", "at most 200 characters")]
    return lint_schema(draft, service.prompter(None).asking.demonstrations.of(draft.category))


def _refuse(findings: Sequence[Finding]) -> None:
    if faults := [f"schema.{f.where}: {f.message}" for f in findings if not f.note][:20]:
        raise invalid(faults)


def _places(findings: Sequence[Finding], note: bool) -> list[Place]:
    # What a client wrote may be half a surrogate pair, which no answer can hold.
    return [
        Place(
            place=f.where[:200].encode(errors="replace").decode(), message=f.message.encode(errors="replace").decode()
        )
        for f in findings
        if f.note == note
    ][:100]


def _summary(defined: Defined) -> dict[str, Any]:
    schema, version = defined.schema, defined.version
    return {
        "category": schema.category,
        "reference": schema.reference,
        "description": schema.description,
        "attributes": [a.name for a in schema.attributes],
        "version": version.number,
        "who": version.who,
        "at": version.at,
    }


def _unknown() -> Problem:
    return Problem(404, "unknown-schema", "No such schema", "no schema of this name; GET /v1/schemas lists them")
