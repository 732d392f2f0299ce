"""Corrections: what the model said, what people decided about it, and what still waits for them.

The unit of review is a cell, the values of one attribute of one offer. A cell waits while it has a value whose confidence is
below its threshold and nobody has decided; a decision stands above every later extraction until it is undone or revised.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import ColumnElement, Connection, Select, and_, case, func, insert, or_, select, update

from extractor.cells import Act, Item, Undone, alike, decided, decision, loaded, placed
from extractor.database import Database
from extractor.database.tables import Cell, among, cells, extractions, offers, parts, reviews
from extractor.errors import ConflictError, InputError
from extractor.intake import keep
from extractor.records import Evidence, Extraction
from extractor.schema import Attribute

Order = Literal["uncertain", "frequent"]
LEASE = 600.0  # seconds that an item is kept for who has claimed it


@dataclass(frozen=True)
class Thresholds:
    """From which confidence on values count as accepted without review, by attribute and for all others. None accepts none."""

    default: float | None = 0.9
    attributes: Mapping[str, float | None] = field(default_factory=dict)


def thresholds_of(given: str | None) -> Thresholds:
    """A file that `shelfwise eval thresholds` wrote, or one number for all. Raises InputError."""
    if given is None:
        return Thresholds()
    try:
        if 0 <= (number := float(given)) <= 1:
            return Thresholds(number)
        raise InputError(f"threshold {given}: confidences are from 0 to 1")
    except ValueError:
        pass  # a file
    try:
        found = json.loads(Path(given).read_text(encoding="utf-8"))
        return Thresholds(found["all"]["threshold"], {n: row["threshold"] for n, row in found["attributes"].items()})
    except OSError as error:
        raise InputError(f"{given}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{given}: not thresholds; `shelfwise eval thresholds --out` writes them") from error


class Store:
    """Extractions and reviews. Each method is one transaction; threads and processes may share the database."""

    def __init__(self, database: Database, thresholds: Thresholds = Thresholds()) -> None:
        self.database, self.thresholds = database, thresholds

    def add(self, records: Iterable[Extraction]) -> int:
        """Keep extractions, and return how many were new: the same record twice is one. Of an offer's extractions the one made
        last counts. Raises InputError, and keeps none, where an id, a category or an attribute has too long a name."""
        rows = iter(records)
        with self.database.writing() as connection:
            return sum(keep(self.database, connection, part) for part in iter(lambda: list(islice(rows, 500)), []))

    def claim(
        self,
        who: str,
        n: int = 20,
        order: Order = "uncertain",
        category: str | None = None,
        attribute: str | None = None,
        lease: float = LEASE,
    ) -> list[Item]:
        """Items that nobody else gets for `lease` seconds, nor the same reviewer again: the most uncertain ones, or one of each
        of the most frequent values."""
        waiting = self.waiting(category, attribute)
        groups: Sequence[int | None] = (None,)
        if order == "frequent":
            ranked = (
                select(cells.c.alike)
                .where(waiting)
                .group_by(cells.c.alike)
                .order_by(func.count().desc(), cells.c.alike)
            )
            with self.database.reading() as connection:  # ten times as many, for others may have claimed all of a group
                groups = connection.scalars(ranked.limit(10 * n)).all()
        free = or_(cells.c.claimed_until.is_(None), cells.c.claimed_until <= self.database.now())
        query = select(cells.c.offer, cells.c.attribute).where(waiting, free)
        query = query.order_by(cells.c.confidence, cells.c.offer, cells.c.attribute).with_for_update(skip_locked=True)
        found: list[Cell] = []
        with self.database.writing() as connection:
            for group in groups:
                one = query.limit(n) if group is None else query.where(cells.c.alike == group).limit(1)
                found += [(row.offer, row.attribute) for row in connection.execute(one)]
                if len(found) == n:
                    break
            lent = {"claimed_by": who, "claimed_until": self.database.now(lease)}
            connection.execute(update(cells).where(among(found)).values(lent))
            return self._items(connection, found)

    def release(self, who: str) -> None:
        """Give back all that a reviewer has claimed and not decided."""
        with self.database.writing() as connection:
            mine = cells.c.claimed_by == who
            connection.execute(_locked(cells.c.offer).where(mine))
            connection.execute(update(cells).where(mine).values(claimed_by=None, claimed_until=None))

    def decide(
        self, who: str, offer_id: str, attribute: Attribute, values: Sequence[str | Evidence], revise: bool = False
    ) -> Act:
        """Say which values are right: spans of the offer, or texts of the attribute's type; none for no value. The model's own
        values are `accepted`, and whatever else it had said, `changed` or `rejected`. Saying the same twice counts once.

        Raises InputError for a value that no extraction could give; ConflictError where a span was `Selected` in another text,
        another reviewer has claimed the cell, or it was decided otherwise, unless to `revise` is meant.
        """
        with self.database.writing() as connection:
            query = select(cells, offers.c.title, offers.c.description).join(offers, offers.c.id == cells.c.offer)
            query = query.where(cells.c.offer == offer_id, cells.c.attribute == attribute.name)
            cell = connection.execute(query.with_for_update(of=cells)).one_or_none()
            if cell is None:
                raise InputError(f"the store has no extraction of {attribute.name!r} from an offer {offer_id!r}")
            after = decided(attribute, _texts(cell), values, cell.predicted)
            if cell.review:
                earlier = connection.execute(select(reviews).where(reviews.c.id == cell.review)).one()
                if earlier.who == who and _names(earlier.after) == _names(after):
                    return Act(earlier.act, decision(earlier.before, earlier.after), 0)
                if not revise:
                    raise ConflictError(
                        f"{offer_id}: {attribute.name}: {earlier.who} decided at {earlier.at}; take the next"
                    )
            elif cell.claimed_by not in (None, who) and cell.claimed_until > self.database.now():
                raise ConflictError(f"{offer_id}: {attribute.name}: {cell.claimed_by} is at it; take the next")
            return Act(self._review(connection, who, [(cell, after)]), decision(cell.predicted, after), 1)

    def decide_alike(self, who: str, category: str, attribute: str, values: Sequence[str]) -> Act:
        """Accept all waiting cells with just these values that no other reviewer has claimed."""
        others = and_(cells.c.claimed_by != who, cells.c.claimed_until > self.database.now())
        with self.database.writing() as connection:
            query = _locked(cells).where(
                self.waiting(category, attribute),
                cells.c.alike == alike(category, attribute, values),
                or_(cells.c.claimed_by.is_(None), ~others),
            )
            found = connection.execute(query).all()
            act = self._review(connection, who, [(cell, cell.predicted) for cell in found])
            return Act(act, "accepted", len(found))

    def undo(self, who: str, act: str | None = None, most: int = 100, lease: float = LEASE) -> Undone:
        """Take back the last act of a reviewer, or this one of theirs: all values of it, of which the first `most` are then lent
        to them again. What it had replaced counts again. An act that is named twice is taken back once."""
        mine = and_(reviews.c.who == who, reviews.c.undone.is_(None))
        last = select(reviews.c.act).where(mine).order_by(reviews.c.id.desc()).limit(1).scalar_subquery()
        with self.database.writing() as connection:
            undone = update(reviews).where(mine, reviews.c.act == (last if act is None else act))
            undone = undone.values(undone=self.database.now()).returning(reviews.c.offer, reviews.c.attribute)
            found = sorted((row.offer, row.attribute) for row in connection.execute(undone))
            if not found and act is not None:
                held = select(cells.c.offer, cells.c.attribute).where(
                    cells.c.claimed_by == who, cells.c.review.is_(None)
                )
                same = and_(reviews.c.offer == cells.c.offer, reviews.c.attribute == cells.c.attribute)
                again = held.where(
                    select(reviews.c.id).where(same, reviews.c.act == act, reviews.c.who == who).exists()
                )
                rows = connection.execute(again.order_by(cells.c.offer, cells.c.attribute).limit(most))
                return Undone(0, self._items(connection, [(row.offer, row.attribute) for row in rows]))
            standing = select(func.max(reviews.c.id)).where(
                reviews.c.offer == cells.c.offer, reviews.c.attribute == cells.c.attribute, reviews.c.undone.is_(None)
            )
            for part in parts(found):
                connection.execute(_locked(cells.c.offer).where(among(part)))
                connection.execute(update(cells).where(among(part)).values(review=standing.scalar_subquery()))
            lent = {"claimed_by": who, "claimed_until": self.database.now(lease)}
            for part in parts(found[:most]):
                connection.execute(update(cells).where(among(part)).values(lent))
            return Undone(len(found), self._items(connection, found[:most]))

    def category(self, offer_id: str, attribute: str) -> str | None:
        """The category in which a cell was extracted, "" for none; None where there is no such cell."""
        query = select(cells.c.category).where(cells.c.offer == offer_id, cells.c.attribute == attribute)
        with self.database.reading() as connection:
            return connection.scalar(query)

    def records(self, offer_ids: Sequence[str]) -> list[Extraction]:
        """The newest extraction of each offer with what people decided on top, in this order; unknown offers are left out. A
        decided value whose text has changed since keeps its value, with its new place, or as `inferred` where it has none."""
        with self.database.reading() as connection:
            return [record for part in parts(list(offer_ids)) for record in self._records(connection, part)]

    def reviewed(self, records: Sequence[Extraction]) -> list[Extraction]:
        """The same, with what people decided in its place where the store has the offer with the same text."""
        found = {record.offer_id: record for record in records}
        with self.database.reading() as connection:
            for part in parts(list(found)):
                query = select(offers.c.id, offers.c.title, offers.c.description).where(offers.c.id.in_(part))
                texts = {row.id: _texts(row) for row in connection.execute(query)}
                for row in self.standing(connection, part):
                    record = found[row.offer]
                    if row.attribute in record.attributes and _texts(record) == texts.get(row.offer):
                        found[row.offer] = _placed(record, row)
        return [found[record.offer_id] for record in records]

    def waiting(self, category: str | None = None, attribute: str | None = None) -> ColumnElement[bool]:
        """Condition: the cell waits for review."""
        limits = {name: _limit(t) for name, t in self.thresholds.attributes.items()}
        default = _limit(self.thresholds.default)
        conditions: list[ColumnElement[bool]] = [cells.c.review.is_(None)]
        if attribute is not None:
            conditions += [cells.c.attribute == attribute, cells.c.confidence < limits.get(attribute, default)]
        elif limits:
            # The first of the two is one that an index knows how to use.
            conditions += [cells.c.confidence < max(default, *limits.values())]
            conditions += [cells.c.confidence < case(limits, value=cells.c.attribute, else_=default)]
        else:
            conditions += [cells.c.confidence < default]
        return and_(*conditions, *([cells.c.category == category] if category is not None else []))

    def _review(self, connection: Connection, who: str, found: Sequence[tuple[Any, str]]) -> str:
        """The id of one act: what cells hold after it."""
        act, at = uuid4().hex, self.database.now()
        rows = [
            {
                "act": act,
                "offer": cell.offer,
                "attribute": cell.attribute,
                "category": cell.category,
                "who": who,
                "at": at,
                "decision": decision(cell.predicted, after),
                "before": cell.predicted,
                "after": after,
            }
            for cell, after in found
        ]
        for part in parts(rows):
            connection.execute(insert(reviews), part)
            own = select(func.max(reviews.c.id)).where(
                reviews.c.act == act, reviews.c.offer == cells.c.offer, reviews.c.attribute == cells.c.attribute
            )
            done = {"review": own.scalar_subquery(), "claimed_by": None, "claimed_until": None}
            connection.execute(update(cells).where(among([(r["offer"], r["attribute"]) for r in part])).values(done))
        return act

    def _items(self, connection: Connection, wanted: Sequence[Cell]) -> list[Item]:
        items: dict[Cell, Item] = {}
        for part in parts(wanted):
            query = select(cells, offers.c.title, offers.c.description).join(offers).where(among(part))
            rows = connection.execute(query).all()
            same = select(cells.c.alike, func.count()).where(self.waiting(), cells.c.alike.in_({r.alike for r in rows}))
            sizes = {row[0]: row[1] for row in connection.execute(same.group_by(cells.c.alike))}
            for r in rows:
                size = max(1, sizes.get(r.alike, 0))
                text = (r.title, r.description, loaded(r.predicted), size)
                items[r.offer, r.attribute] = Item(r.offer, r.category, r.attribute, *text)
        return [items[cell] for cell in wanted]

    def _records(self, connection: Connection, part: Sequence[str]) -> list[Extraction]:
        newest = select(func.max(extractions.c.id)).join(offers).where(offers.c.id.in_(part))
        newest = newest.where(extractions.c.created == offers.c.extracted).group_by(offers.c.id)
        query = select(extractions.c.offer, extractions.c.record).where(extractions.c.id.in_(newest))
        found = {row.offer: Extraction.model_validate_json(row.record) for row in connection.execute(query)}
        for row in self.standing(connection, part):
            found[row.offer] = _placed(found[row.offer], row)
        return [found[offer] for offer in part if offer in found]

    @staticmethod
    def standing(connection: Connection, part: Sequence[str]) -> Sequence[Any]:
        """The reviews that count, of these offers: offer, attribute, after."""
        query = select(reviews.c.offer, reviews.c.attribute, reviews.c.after).join(
            cells, cells.c.review == reviews.c.id
        )
        return connection.execute(query.where(cells.c.offer.in_(part))).all()


def _locked(*columns: Any) -> Select[Any]:
    """Cells that are to be written, in one order for all, so that nobody waits in a circle."""
    return select(*columns).order_by(cells.c.offer, cells.c.attribute).with_for_update()


def _placed(record: Extraction, decision: Any) -> Extraction:
    values = [placed(decision.attribute, v, _texts(record)) for v in loaded(decision.after)]
    return record.model_copy(update={"attributes": {**record.attributes, decision.attribute: values}})


def _limit(threshold: float | None) -> float:
    return 2.0 if threshold is None else threshold  # no confidence is as high


def _texts(row: Any) -> dict[str, str]:
    return {"title": row.title, "description": row.description} if row.description else {"title": row.title}


def _names(values: str) -> list[str]:
    return [v.value for v in loaded(values)]
