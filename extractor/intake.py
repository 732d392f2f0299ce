"""Extractions into a store: each once, and of an offer's the one made last counts."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import Connection, bindparam, delete, insert, select, update

from extractor.cells import NONE, alike, dumped, lowest
from extractor.database import Database
from extractor.database.tables import Cell, among, cells, extractions, offers, parts
from extractor.errors import InputError, explain
from extractor.records import Extraction, ProductOffer

LONGEST = {"id": 500, "category": 100, "attribute": 100}  # characters: PostgreSQL's indexes take rows of 2,700 bytes


def keep(database: Database, connection: Connection, records: Sequence[Extraction]) -> int:
    """How many of them were new."""
    made: dict[Cell, tuple[str, Extraction, str]] = {}
    for record in records:
        text = _written(_checked(record))
        made[record.offer_id, hashlib.sha256(text.encode()).hexdigest()] = (_created(record), record, text)
    extracted = _locked(database, connection, [record for _, record, _ in made.values()])
    there = select(extractions.c.offer, extractions.c.digest).where(extractions.c.offer.in_(extracted))
    known = {tuple(row) for row in connection.execute(there)}
    new = {key: row for key, row in made.items() if key not in known}
    if not new:
        return 0
    rows = [
        {"offer": offer, "digest": digest, "created": created, "record": text}
        for (offer, digest), (created, _, text) in new.items()
    ]
    connection.execute(insert(extractions), rows)
    newest: dict[str, Extraction] = {}
    for created, record, _ in new.values():
        if created >= extracted[record.offer_id]:
            newest[record.offer_id], extracted[record.offer_id] = record, created
    if newest:
        changed = [{"key": o, **_texts(r), "extracted": extracted[o]} for o, r in newest.items()]
        connection.execute(update(offers).where(offers.c.id == bindparam("key")), changed)
        _count(database, connection, newest, extracted)
    return len(new)


def _locked(database: Database, connection: Connection, records: Sequence[Extraction]) -> dict[str, str]:
    """The offers, for us alone and in one order, so that nobody waits in a circle: id -> when its newest extraction was made."""
    first = {
        r.offer_id: {"id": r.offer_id, **_texts(r), "first_seen": database.now(), "extracted": ""} for r in records
    }
    rows = [first[offer] for offer in sorted(first)]
    connection.execute(database.upsert(offers).on_conflict_do_nothing(), rows)
    query = select(offers.c.id, offers.c.extracted).where(offers.c.id.in_(first)).order_by(offers.c.id)
    return {row.id: row.extracted for row in connection.execute(query.with_for_update(key_share=True))}


def _count(
    database: Database, connection: Connection, newest: Mapping[str, Extraction], extracted: Mapping[str, str]
) -> None:
    """From now on these extractions are the newest of their offers. What they do not ask for has no value now; what people said
    of it stays."""
    rows = [
        {
            "offer": record.offer_id,
            "attribute": name,
            "category": record.category or "",
            "predicted": dumped(values),
            "confidence": lowest(values),
            "extracted": extracted[record.offer_id],
            "alike": alike(record.category or "", name, [v.value for v in values]),
        }
        for record in (newest[offer] for offer in sorted(newest))
        for name, values in sorted(record.attributes.items())
    ]
    if rows:
        upsert = database.upsert(cells)
        renewed = {name: upsert.excluded[name] for name in rows[0] if name not in ("offer", "attribute")}
        connection.execute(upsert.on_conflict_do_update(index_elements=["offer", "attribute"], set_=renewed), rows)
    asked = {(row["offer"], row["attribute"]) for row in rows}
    held = select(cells.c.offer, cells.c.attribute).where(cells.c.offer.in_(newest))
    for part in parts([tuple(row) for row in connection.execute(held) if tuple(row) not in asked]):
        connection.execute(delete(cells).where(among(part), cells.c.review.is_(None)))
        connection.execute(update(cells).where(among(part)).values(predicted=NONE, confidence=None))


def _texts(record: Extraction) -> dict[str, Any]:
    return {"category": record.category or "", "title": record.title, "description": record.description}


def check_names(offer_id: str, category: str | None, attributes: Iterable[str]) -> None:
    """Raises InputError for those that no index takes, of a record or of one that is to be made."""
    for name, text in (("id", offer_id), ("category", category or ""), *(("attribute", a) for a in attributes)):
        if not text and name != "category":
            raise InputError(f"offer {offer_id[:60]!r}: its {name} has no name; give it one")
        if len(text) > LONGEST[name]:
            raise InputError(f"offer {offer_id[:60]}: its {name} has more than {LONGEST[name]} characters; shorten it")


def _checked(record: Extraction) -> Extraction:
    check_names(record.offer_id, record.category, record.attributes)
    try:  # what comes from outside is no more than an offer may be
        ProductOffer(id=record.offer_id, **record.model_dump(include={"title", "description", "category"}))
    except ValidationError as error:
        raise InputError(f"offer {record.offer_id[:60]!r}: {explain(error)}") from error
    return record


def _written(record: Extraction) -> str:
    try:
        "".join(record.attributes).encode()  # keys are written whatever they are
        return record.model_dump_json(by_alias=True)
    except (PydanticSerializationError, UnicodeEncodeError) as error:
        raise InputError(f"offer {record.offer_id[:60]!r}: half a surrogate pair, which is no text") from error


def _created(record: Extraction) -> str:
    try:
        made = datetime.fromisoformat(record.provenance.created)
        return (made if made.tzinfo else made.replace(tzinfo=UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError) as error:  # the latter for the first and the last day that there is
        raise InputError(f"offer {record.offer_id}: `created` of its provenance is no time: {error}") from error
