"""What a store says about the model and its reviewers: how much is done, how often they agree, and what can be learned from."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, select

from extractor.cells import NONE, loaded
from extractor.database.tables import cells, offers, reviews
from extractor.feedback import Store
from extractor.records import LabelledOffer, ProductOffer

RECENT = 600.0  # seconds over which pace is taken
LEAST = 30  # offers on either side: with fewer to learn from prompting is as good, of fewer held out the paired test says nothing
ENOUGH = 2 * LEAST  # labelled offers of a category, from which on an adapter can be trained
_HELD_OUT = 0.2  # share of many
_PAGE = 500


@dataclass(frozen=True)
class Pace:
    """Values decided today (UTC), several at once counted each; and acts a minute in the last ten."""

    today: int
    pace: float


@dataclass(frozen=True)
class Quality:
    """Of an attribute: `offers` that were asked for it, those `valued` (by people where they decided, else by the model), those
    `waiting`, those `reviewed`, and those of them in which people `agreed` with the model. With a `day` (UTC): of what was
    extracted, or decided, on it."""

    category: str
    attribute: str
    offers: int = 0
    valued: int = 0
    waiting: int = 0
    reviewed: int = 0
    agreed: int = 0
    day: str | None = None

    @property
    def coverage(self) -> float | None:
        return self.valued / self.offers if self.offers else None

    @property
    def agreement(self) -> float | None:
        return self.agreed / self.reviewed if self.reviewed else None


def waiting(store: Store, category: str | None = None, attribute: str | None = None) -> int:
    """How many values wait."""
    query = select(func.count()).select_from(cells).where(store.waiting(category, attribute))
    with store.database.reading() as connection:
        return connection.scalar(query) or 0


def pace(store: Store, who: str | None = None) -> Pace:
    """Of one reviewer, or of all."""
    now = store.database.now()
    done = and_(reviews.c.undone.is_(None), *([reviews.c.who == who] if who is not None else []))
    acts = func.count(reviews.c.act.distinct())
    with store.database.reading() as connection:
        today = connection.scalar(select(func.count()).select_from(reviews).where(done, reviews.c.at >= now[:10]))
        recent = connection.scalar(select(acts).where(done, reviews.c.at > store.database.now(-RECENT)))
    return Pace(today or 0, (recent or 0) * 60 / RECENT)


def queue(store: Store) -> list[tuple[str, str, int]]:
    """Category, attribute, and how many of its values wait, where any do."""
    group = (cells.c.category, cells.c.attribute)
    query = select(*group, func.count()).where(store.waiting()).group_by(*group).order_by(*group)
    with store.database.reading() as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def learnable(store: Store) -> dict[str, int]:
    """By category, the offers that `labelled` gives, and those that it leaves out because their text has changed."""
    query = select(offers.c.category, func.count()).where(_done(store)).group_by(offers.c.category)
    with store.database.reading() as connection:
        return {row[0]: row[1] for row in connection.execute(query)}


def quality(store: Store) -> list[Quality]:
    """By category and attribute."""
    valued = case((cells.c.review.is_(None), cells.c.confidence.is_not(None)), else_=reviews.c.after != NONE)
    columns = (valued, store.waiting(), cells.c.review.is_not(None), reviews.c.decision == "accepted")
    group = (cells.c.category, cells.c.attribute)
    query = select(*group, func.count(), *map(_number, columns)).join(
        reviews, cells.c.review == reviews.c.id, isouter=True
    )
    with store.database.reading() as connection:
        return [Quality(*row) for row in connection.execute(query.group_by(*group).order_by(*group))]


def quality_by_day(store: Store, since: str = "0001-01-01") -> list[Quality]:
    """By day, category and attribute, from a day on."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for table, at, condition, columns in (
        (
            cells,
            cells.c.extracted,
            cells.c.extracted >= since,
            {"offers": None, "valued": cells.c.confidence.is_not(None)},
        ),
        (
            reviews,
            reviews.c.at,
            and_(reviews.c.undone.is_(None), reviews.c.at >= since),
            {"reviewed": None, "agreed": reviews.c.decision == "accepted"},
        ),
    ):
        group = (func.substr(at, 1, 10), table.c.category, table.c.attribute)
        sums = [func.count() if c is None else _number(c) for c in columns.values()]
        query = select(*group, *sums).where(condition).group_by(*group)
        with store.database.reading() as connection:
            for row in connection.execute(query):
                found.setdefault(tuple(row[:3]), {}).update(zip(columns, row[3:], strict=True))
    return [Quality(c, a, day=day, **sums) for (day, c, a), sums in sorted(found.items(), key=lambda pair: pair[0])]


def some(store: Store, category: str, n: int) -> list[ProductOffer]:
    """Offers of a category to try something on: any, for to find the newest would read all."""
    query = select(offers.c.id, offers.c.category, offers.c.title, offers.c.description)
    with store.database.reading() as connection:
        rows = connection.execute(query.where(offers.c.category == category).limit(n)).mappings()
        return [ProductOffer(**row | {"category": row["category"] or None}) for row in map(dict, rows)]


def labelled(store: Store, category: str | None = None) -> Iterator[LabelledOffer]:
    """Offers to learn from: those with a decision, and with no value that still waits for one. Their labels are the decisions and
    the values above their thresholds; `absent` are the attributes of which a person said so, and not those where only the model
    found nothing.

    Whole offers, because training takes an attribute without a label for an absent one where no offer says what is absent. An
    offer whose text has changed so that a decided value no longer stands in it is left out.
    """
    query = select(offers.c.id).where(_done(store), *([offers.c.category == category] if category is not None else []))
    query, last = query.order_by(offers.c.id).limit(_PAGE), ""
    while True:
        with store.database.reading() as connection:
            ids = connection.scalars(query.where(offers.c.id > last)).all()
            decided = store.standing(connection, ids)
        if not ids:
            return
        absent: dict[str, list[str]] = {}
        spans: dict[str, list[str]] = {}
        for row in decided:
            values = loaded(row.after)
            spans.setdefault(row.offer, []).extend(v.value for v in values if v.status == "verbatim")
            absent.setdefault(row.offer, []).extend([] if values else [row.attribute])
        for record in store.records(ids):
            texts = (record.title, record.description or "")
            if all(any(span in text for text in texts) for span in spans.get(record.offer_id, ())):
                yield LabelledOffer(
                    id=record.offer_id,
                    category=record.category,
                    title=record.title,
                    description=record.description,
                    attributes={name: [v.value for v in vs] for name, vs in record.attributes.items() if vs},
                    absent=sorted(absent.get(record.offer_id, ())),
                )
        last = ids[-1]


def likeness(title: str) -> str:
    """What near-equal titles have in common: their words without case, punctuation and digits, hashed."""
    words = " ".join(re.findall(r"[^\W\d_]+", title.casefold()))
    return hashlib.sha256(words.encode()).hexdigest()[:16]


def sides(
    offers: Sequence[LabelledOffer], learned: Collection[str] = (), held: Collection[str] = ()
) -> tuple[list[LabelledOffer], list[LabelledOffer]]:
    """Offers to learn from, and those held out: LEAST, or a fifth of many. Titles that are alike are on one side; `learned` and
    `held` (by `likeness`) stay where they were, for what an adapter has learned from tells nothing of it later."""
    groups = defaultdict(list)
    for offer in offers:
        groups[likeness(offer.title)].append(offer)
    out = {key for key in groups if key in held and key not in learned}
    count, wanted = sum(len(groups[key]) for key in out), max(LEAST, round(_HELD_OUT * len(offers)))
    for key in sorted(groups.keys() - out - set(learned)):
        if count + len(groups[key]) <= wanted:
            out.add(key)
            count += len(groups[key])
    divided = [[o for o in offers if (likeness(o.title) in out) is held_out] for held_out in (False, True)]
    return divided[0], divided[1]


def _done(store: Store) -> ColumnElement[bool]:
    """Condition: of the offer something is decided, and nothing waits."""
    mine = cells.c.offer == offers.c.id
    decided = select(cells.c.offer).where(mine, cells.c.review.is_not(None)).exists()
    return and_(decided, ~select(cells.c.offer).where(mine, store.waiting()).exists())


def _number(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return func.coalesce(func.sum(case((condition, 1), else_=0)), 0)
