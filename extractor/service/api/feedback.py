"""Review: what waits for people, what they decide, and what can be learned from it."""

from collections.abc import Iterator
from itertools import chain, groupby, islice
from typing import Annotated, Any

from fastapi import Depends, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field, JsonValue, StringConstraints
from pydantic.json_schema import SkipJsonSchema

from extractor import quality
from extractor.cells import Item
from extractor.feedback import Order
from extractor.pii import masked_record
from extractor.records import Extraction, LabelledOffer
from extractor.schema import Attribute
from extractor.service.api.common import BODY, Asking, Served, problems, router
from extractor.service.models import Body
from extractor.service.problems import Problem
from extractor.service.served import Service
from extractor.wire import Decided, DecidedAlike, Definition, Progress, Restored, ReviewCounts, ReviewItem, Selected

reviewing = router("review")
MOST_ITEMS, MOST_VALUES, MOST_RECORDS = 100, 100, 1_000
JSONL = "application/jsonl"

OfferId = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Category = Annotated[str, Field(max_length=100, description='"" for offers without one.')]
AttributeName = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Value = Annotated[str, StringConstraints(max_length=20_000)]
RECORD: JsonValue = {
    "offer_id": "1",
    "category": "Shoes",
    "title": "Velmora Suede Loafer",
    "description": None,
    "attributes": {
        "Brand": [
            {
                "value": "Velmora",
                "status": "verbatim",
                "confidence": 0.6,
                "evidence": {"field": "title", "begin": 0, "end": 7},
            }
        ]
    },
    "provenance": {
        "model": "base@5",
        "engine": "vllm",
        "template": "extract@2",
        "template_sha256": "0",
        "schema": "shoes@0",
        "created": "2026-11-26T12:00:00+00:00",
    },
    "usage": {"prompt_tokens": 65, "cached_tokens": 0, "output_tokens": 12},
}


async def _who(key: Asking) -> str:
    return key.who


Reviewer = Annotated[str, Depends(_who)]


class InCategory(Body):
    # No anyOf with null: a query cannot say null.
    category: str | SkipJsonSchema[None] = Field(
        default=None, max_length=100, description='Of this one alone; "" for offers without one.'
    )


class InAttribute(InCategory):
    attribute: str | SkipJsonSchema[None] = Field(
        default=None, min_length=1, max_length=100, description="Of this one alone."
    )


class ClaimRequest(Body):
    """Items that nobody else gets for ten minutes: the most uncertain ones, or one of each of the most frequent values."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"n": 20, "order": "uncertain"}, {"order": "frequent", "category": "Shoes"}]}
    )

    n: int = Field(default=20, ge=1, le=MOST_ITEMS, strict=True)
    order: Order = "uncertain"
    category: Category | None = None
    attribute: AttributeName | None = None


class Claimed(Body):
    items: list[ReviewItem]


class DecideRequest(Body):
    """Which values are right; none for no value. `revise` a decision that stands already."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "offer_id": "1",
                    "attribute": "Brand",
                    "values": [{"field": "title", "begin": 0, "end": 7, "text": "Velmora"}],
                },
                {"offer_id": "1", "attribute": "Color", "values": ["Tan"]},
                {"offer_id": "1", "attribute": "Size", "values": [], "revise": True},
            ]
        }
    )

    offer_id: OfferId
    attribute: AttributeName
    values: list[Value | Selected] = Field(
        max_length=MOST_VALUES,
        description="Texts, or spans of the offer, `end` exclusive. Spans count Unicode code points, where JavaScript's strings "
        "count UTF-16 units: behind an emoji the two differ; `[...text.slice(0, i)].length` makes one of the other. "
        "A span with its `text` is refused where the offer has another text by now.",
    )
    revise: bool = False


class DecideAlikeRequest(Body):
    """The values of the model that are right, wherever it said just these of this attribute, in this category."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"category": "Shoes", "attribute": "Brand", "values": ["Velmora"]}]}
    )

    category: Category
    attribute: AttributeName
    values: list[Value] = Field(min_length=1, max_length=MOST_VALUES)


class UndoRequest(Body):
    """The last act of the reviewer, or the one that is named, which is taken back once however often it is asked for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}, {"act": "0b5e7c1f6d0b4c5a8c6d7e8f9a0b1c2d"}]})

    act: str | None = Field(default=None, pattern="^[0-9a-f]{32}$")


class AttributeWaiting(Body):
    attribute: str
    waiting: int


class CategoryWaiting(Body):
    category: str
    waiting: int
    attributes: list[AttributeWaiting]


class Text(Body):
    title: str
    description: str | None


class RecordsRequest(Body):
    """Records as `shelfwise extract` writes them, without the failures."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"records": [RECORD]}]})

    records: list[Extraction] = Field(min_length=1, max_length=MOST_RECORDS)


class RecordsAdded(Body):
    added: int
    known: int = Field(description="That the store had already.")


@reviewing.post("/feedback/claim", responses=BODY)
def claim(body: ClaimRequest, service: Served, who: Reviewer) -> Claimed:
    """Items to decide about, for this reviewer alone."""
    found = service.store.claim(who, body.n, body.order, body.category, body.attribute)
    return Claimed(items=[_item(service, item) for item in found])


@reviewing.post("/feedback/decide", responses=BODY | problems(409))
def decide(body: DecideRequest, service: Served, who: Reviewer) -> Decided:
    """Say which values are right. The same again changes nothing."""
    category = service.store.category(body.offer_id, body.attribute) or ""
    attribute = _attribute(service, category, body.attribute)
    act = service.store.decide(who, body.offer_id, attribute, body.values, body.revise)
    service.metrics.reviewed(service.asked(category), body.attribute, act.decision, act.n)
    return Decided(decision=act.decision, act=act.id)


@reviewing.post("/feedback/decide-alike", responses=BODY)
def decide_alike(body: DecideAlikeRequest, service: Served, who: Reviewer) -> DecidedAlike:
    """Accept all equal values that wait, but those that another reviewer looks at."""
    act = service.store.decide_alike(who, body.category, body.attribute, body.values)
    if act.n:
        service.journal.note(who, "accept alike", f"{act.n} values of {body.attribute} in {body.category}")
        service.metrics.reviewed(service.asked(body.category), body.attribute, act.decision, act.n)
    return DecidedAlike(count=act.n, act=act.id if act.n else None)


@reviewing.post("/feedback/undo", responses=BODY)
def undo(body: UndoRequest, service: Served, who: Reviewer) -> Restored:
    """Take decisions back. At most a hundred of the items that wait again are given to the reviewer."""
    undone = service.store.undo(who, body.act, MOST_ITEMS)
    if undone.n:
        first = undone.items[0]  # an act is about one attribute of one category
        service.journal.note(who, "undo", f"{undone.n} values of {first.attribute} in {first.category}")
        service.metrics.reviewed(service.asked(first.category), first.attribute, "undone", undone.n)
    return Restored(count=undone.n, items=[_item(service, item) for item in undone.items])


@reviewing.post("/feedback/release", status_code=204)
def release(service: Served, who: Reviewer) -> Response:
    """Give back what the reviewer has claimed and not decided."""
    service.store.release(who)
    return Response(status_code=204)


@reviewing.get("/feedback/counts", responses=problems(422))
def counts(service: Served, who: Reviewer, of: Annotated[InAttribute, Query()]) -> ReviewCounts:
    """How many values wait, and how many were decided, by the reviewer and by all."""
    waiting = quality.waiting(service.store, of.category, of.attribute)
    mine, everybody = (Progress(**vars(quality.pace(service.store, name))) for name in (who, None))
    return ReviewCounts(waiting=waiting, mine=mine, all=everybody)


@reviewing.get("/feedback/filters")
def filters(service: Served) -> list[CategoryWaiting]:
    """The categories and attributes of which values wait."""
    found = []
    for category, rows in groupby(quality.queue(service.store), lambda row: row[0]):
        attributes = [AttributeWaiting(attribute=name, waiting=n) for _, name, n in rows]
        waiting = sum(a.waiting for a in attributes)
        found.append(CategoryWaiting(category=category, waiting=waiting, attributes=attributes))
    return found


_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One labelled offer a line.",
        "content": {JSONL: {"schema": {"type": "string"}, "example": '{"id": "1", "title": "…", "attributes": {…}}\n'}},
    }
}


@reviewing.get("/feedback/labelled", response_class=StreamingResponse, responses=_LINES | problems(422))
def labelled(service: Served, who: Reviewer, of: Annotated[InCategory, Query()]) -> StreamingResponse:
    """Offers that people are done with, as labelled offers for demonstrations, training and evaluation."""
    service.journal.note(who, "export labelled", "all categories" if of.category is None else f"category {of.category}")
    offers = quality.labelled(service.store, of.category)
    first = list(islice(offers, 1))  # a store that cannot be reached is a problem, as long as nothing is sent
    headers = {"Content-Disposition": 'attachment; filename="labelled.jsonl"'}
    return StreamingResponse(_lines(chain(first, offers)), media_type=JSONL, headers=headers)


@reviewing.get("/feedback/offers", responses=problems(422))
def offers(service: Served, category: str, n: Annotated[int, Query(ge=1, le=MOST_ITEMS)] = 10) -> list[Text]:
    """Some offers of a category that were extracted, to try a schema on."""
    return [Text(title=o.title, description=o.description) for o in quality.some(service.store, category, n)]


@reviewing.post("/feedback/records", responses=BODY)
def add_records(body: RecordsRequest, service: Served) -> RecordsAdded:
    """Keep records for review; the same record twice is one."""
    added = service.store.add([masked_record(r) for r in body.records] if service.mask_pii else body.records)
    return RecordsAdded(added=added, known=len(body.records) - added)


@reviewing.get("/feedback/records/{offer_id:path}", response_model=Extraction, responses=problems(404, 422))
def record(offer_id: str, service: Served) -> Response:
    """The newest record of an offer, with what people decided on top."""
    for found in service.store.records([offer_id]):
        return Response(found.model_dump_json(by_alias=True), media_type="application/json")
    raise Problem(404, "unknown-offer", "No such offer", "the store has no record of this offer; POST it first")


def _lines(offers: Iterator[LabelledOffer]) -> Iterator[str]:
    while part := list(islice(offers, 200)):
        yield "".join(offer.model_dump_json() + "\n" for offer in part)


def _attribute(service: Service, category: str, name: str) -> Attribute:
    """As it is asked for; plain text where no schema that is served knows it."""
    schema = service.asked(category)
    return next((a for a in (schema.attributes if schema else ()) if a.name == name), Attribute(name=name))


def _item(service: Service, item: Item) -> ReviewItem:
    attribute = _attribute(service, item.category, item.attribute)
    fields = {name: getattr(attribute, name) for name in Definition.model_fields}
    return ReviewItem(**vars(item) | {"definition": Definition(**fields)})
