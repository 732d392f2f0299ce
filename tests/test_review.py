"""Review over HTTP: people with keys of their own at one queue, on SQLite and on PostgreSQL."""

from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import pytest
from conftest import HOSTILE
from reviewing import TITLE, desk_at, put, waiting
from serving import OFFER, SCHEMAS, problem, serving
from test_feedback import record, value

from extractor import Attribute, AttributeSchema, AttributeValue, Evidence, ProductOffer
from extractor.client import Client
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import ConflictError, InputError, StorageError
from extractor.feedback import Store, Thresholds
from extractor.service import metrics
from extractor.service.auth import TOKEN
from extractor.sessions import csrf
from extractor.wire import Selected


def test_a_value_from_the_queue_to_a_label(desk):
    kept = waiting(3)
    assert put(desk, kept).json() == {"added": 3, "known": 0} and put(desk, kept).json() == {"added": 0, "known": 3}
    ann, ben = desk.client("ann"), desk.client("ben")
    (first, second), (third,) = ann.claim(2), ben.claim(2)
    assert [i.offer_id for i in (first, second, third)] == ["o0", "o1", "o2"]
    assert (first.category, first.attribute, first.title, first.alike) == ("Shoes", "Brand", TITLE, 3)
    assert first.values == [value(TITLE, "Diesel", 0.1)] and first.definition.type == "text"
    done = ann.decide("o0", "Brand", [Evidence(field="title", begin=7, end=11)])
    assert done.decision == "changed" and ann.decide("o0", "Brand", ["boot"]) == done
    with pytest.raises(ConflictError, match=r"409 .* ann \(\w+\) is at it; take the next"):
        ben.decide("o1", "Brand", [])
    with pytest.raises(ConflictError, match=r"ann \(\w+\) decided at .*; take the next"):
        ben.decide("o0", "Brand", ["Diesel"])
    assert ben.decide("o0", "Brand", ["Diesel"], revise=True).decision == "accepted"
    assert ann.decide("o1", "Brand", []).decision == "rejected"
    counts = ann.counts("Shoes", "Brand")
    assert (counts.waiting, counts.mine.today, counts.all.today, counts.all.pace) == (1, 2, 3, 0.3)
    labels = {o.id: (o.attributes, o.absent) for o in ann.labelled()}
    assert labels == {"o0": ({"Brand": ["Diesel"]}, []), "o1": ({}, ["Brand"])}
    assert list(ann.labelled("Tea")) == []
    found = desk.ask("GET", "/v1/feedback/records/o0").json()
    assert found["attributes"]["Brand"][0]["value"] == "Diesel" and found["provenance"]["schema"] == "s@1"


def test_what_is_alike_is_decided_at_once_and_undone_at_once(desk):
    put(desk, [*waiting(5), record("tea", category="Tea/Green", Brand=("boot", 0.2), Weight=("red", 0.3))])
    ann, ben = desk.client("ann"), desk.client("ben")
    shown = desk.ask("GET", "/v1/feedback/filters").json()
    assert [(c["category"], c["waiting"], len(c["attributes"])) for c in shown] == [
        ("Shoes", 5, 1),
        ("Tea/Green", 2, 2),
    ]
    assert [i.alike for i in ben.claim(1, "frequent")] == [5]
    done = ann.decide_alike("Shoes", "Brand", ["Diesel"])
    assert done.count == 4 and ann.decide_alike("Shoes", "Brand", ["Diesel"]).count == 0
    assert ben.undo(done.act).count == 0, "not an act of his"
    for n in (4, 0):
        restored = ann.undo(done.act)
        assert restored.count == n and [i.offer_id for i in restored.items] == ["o1", "o2", "o3", "o4"]
    assert ben.claim(9, category="Shoes") == []
    assert desk.ask("POST", "/v1/feedback/release").status_code == 204
    assert len(ben.claim(9, category="Shoes")) == 4
    assert desk.ask("POST", "/v1/feedback/undo", {}).json() == {"count": 0, "items": []}
    ann.decide("tea", "Brand", ["boot"])
    assert desk.ask("POST", "/v1/feedback/undo", {}).json()["count"] == 1
    noted = [
        (e.who.split(" ")[0], e.what, e.about) for e in desk.running.service.journal.entries() if "keys" not in e.what
    ]
    assert noted[::-1] == [
        ("ann", "accept alike", "4 values of Brand in Shoes"),
        ("ann", "undo", "4 values of Brand in Shoes"),
        ("ann", "undo", "1 values of Brand in Tea/Green"),
    ]


def test_two_keys_of_one_name_are_two_people_and_sessions_of_a_key_are_one(here):
    put(here, waiting(4))
    secrets = [here.keys.create("same", "review", None, "test")[1] for _ in range(2)]
    with Client(here.running.url, secrets[0]) as one, Client(here.running.url, secrets[1]) as other:
        (item,) = one.claim(1)
        with pytest.raises(ConflictError):
            other.decide(item.offer_id, "Brand", [])
    answer = here.running.http.post("/v1/session", headers={"Authorization": f"Bearer {secrets[0]}"})
    here.running.http.cookies.clear()
    assert answer.status_code == 200
    (cookie,) = answer.cookies.jar
    body = {"offer_id": item.offer_id, "attribute": "Brand", "values": []}
    with httpx.Client(base_url=here.running.url, cookies={cookie.name: cookie.value}, trust_env=False) as tab:
        problem(tab.post("/v1/feedback/decide", json=body), 403, "csrf")
        assert tab.post("/v1/feedback/decide", json=body, headers={TOKEN: csrf(cookie.value)}).status_code == 200


def test_without_keys_everybody_is_anonymous(tmp_path):
    with (
        closing(Database(tmp_path / "store.sqlite")) as database,
        serving(ScriptedEngine(), store=Store(database, Thresholds(None))) as running,
        Client(running.url) as client,
    ):
        client.extract([ProductOffer(**OFFER)], keep=True)
        assert client.decide(client.claim()[0].offer_id, "Brand", []).decision == "rejected"
        with database.reading() as connection:
            assert connection.exec_driver_sql("SELECT who FROM reviews").scalar() == "anonymous"


def test_items_say_what_can_be_decided(tmp_path, monkeypatch):
    wide = Attribute(name="Width", type="enum", values=("narrow", "wide"), description="How wide.")
    size = Attribute(name="Size", type="number", unit="EU", multiple=True)
    boots = AttributeSchema(category="Boots", attributes=(wide, size))
    monkeypatch.setattr("serving.SCHEMAS", [*SCHEMAS, boots])
    with desk_at(tmp_path / "store.sqlite") as desk:
        inferred = [AttributeValue(value="x", status="inferred", confidence=0.1)]
        made = record("a", TITLE, category="boots", Width=None).model_copy(
            update={"attributes": {"Width": inferred, "Size": inferred, "Sole": inferred}}
        )
        put(desk, [made])
        ann = desk.client("ann")
        found = {i.attribute: i.definition for i in ann.claim()}
        assert (found["Width"].type, found["Width"].values) == ("enum", ("narrow", "wide"))
        assert (found["Size"].type, found["Size"].unit, found["Size"].multiple) == ("number", "EU", True)
        assert found["Width"].description == "How wide." and found["Sole"].type == "text"
        for attribute, values, says in (
            ("Width", ["wider"], "is not among"),
            ("Size", ["big"], "is not a number"),
            ("Sole", ["rubber"], "not in the offer's text"),
            ("Sole", ["Diesel", "boot"], "takes one value, not 2"),
        ):
            with pytest.raises(InputError, match=f"422 .*{says}"):
                ann.decide("a", attribute, values)
        assert ann.decide("a", "Width", ["wide"]).decision == "changed"
        assert ann.decide("a", "Size", ["41", "42"]).decision == "changed"
        assert (
            desk.running.metric("shelfwise_reviews_total", category="Boots", attribute="Width", decision="changed") == 1
        )


def test_spans_count_code_points(here):
    title = "🔥👩‍👩‍👧 Diesel é"
    put(here, [record("a", title, Brand=("é", 0.1))])
    begin = title.index("Diesel")
    here.client("ann").decide("a", "Brand", [Evidence(field="title", begin=begin, end=begin + 6)])
    (found,) = here.ask("GET", "/v1/feedback/records/a").json()["attributes"]["Brand"]
    assert found["value"] == "Diesel" and title[found["evidence"]["begin"] : found["evidence"]["end"]] == "Diesel"


def test_a_span_of_another_text_is_not_taken(here):
    put(here, [record("a", "Diesel boot", Brand=("boot", 0.1))])
    put(here, [record("a", "SALE! Diesel boot", "2026-11-02T00:00:00+00:00", Brand=("boot", 0.1))])
    for field, begin, text in (("title", 0, "Diesel"), ("title", 90, "Diesel"), ("description", 0, "Diesel")):
        span = Selected(field=field, begin=begin, end=begin + 6, text=text)
        with pytest.raises(ConflictError, match="extracted again; load it again"):
            here.client("ann").decide("a", "Brand", [span])
    span = Selected(field="title", begin=6, end=12, text="Diesel")
    assert here.client("ann").decide("a", "Brand", [span]).decision == "changed"
    (found,) = here.ask("GET", "/v1/feedback/records/a").json()["attributes"]["Brand"]
    assert found["value"] == "Diesel" and found["evidence"] == {"field": "title", "begin": 6, "end": 12}


def test_hostile_offers_come_through_review_as_they_were(here):
    made = [record(f"{o.id}/../ü", o.title, category=o.title[:90], Brand=(o.title[:80], 0.5)) for o in HOSTILE[:100]]
    assert put(here, made).json()["added"] == len(made)
    ann = here.client("ann")
    titles = {r.offer_id: r.title for r in made}
    items = ann.claim(100)
    assert {i.offer_id: i.title for i in items} == titles
    for item in items[:40]:
        ann.decide(item.offer_id, item.attribute, [v.value for v in item.values if v.value.strip()])
    labels = list(ann.labelled())
    assert len(labels) >= 30 and all(titles[o.id] == o.title for o in labels)
    shown = here.ask("GET", f"/v1/feedback/records/{quote(made[0].offer_id, safe='')}")
    assert shown.json()["title"] == made[0].title


def test_extracting_may_keep_for_review(here):
    here.running.service.store.thresholds = Thresholds(None)
    body = {"offers": [OFFER, OFFER | {"id": "2", "title": ""}]}
    assert here.ask("POST", "/v1/extract", body, "only", "extract").status_code == 200
    assert here.client("ann").counts().waiting == 0
    answer = here.ask("POST", "/v1/extract", body | {"keep": True}, "only", "extract").json()["results"]
    assert here.ask("GET", "/v1/feedback/records/1").json() == answer[0] and "failure" in answer[1]
    assert [(i.offer_id, i.attribute) for i in here.client("ann").claim()] == [("1", "Brand")]
    long = {"offers": [OFFER | {"category": "x" * 101}], "schema": {"attributes": ["Brand"]}, "keep": True}
    problem(here.ask("POST", "/v1/extract", long, "only", "extract"), 422, "input")


def test_quality_and_what_there_is_to_learn_from(here):
    put(here, waiting(61, Brand=("boot", 0.5), Color=("red", 0.99)))
    ann = here.client("ann")
    assert ann.decide_alike("Shoes", "Brand", ["boot"]).count == 61
    ann.decide("o0", "Brand", ["Diesel"], revise=True)
    found = here.ask("GET", "/v1/quality").json()
    brand, color = found["attributes"]
    assert (brand["attribute"], brand["reviewed"], brand["agreed"], brand["coverage"]) == ("Brand", 61, 60, 1)
    assert brand["agreement"] == 60 / 61 and color["agreement"] is None
    assert found["categories"] == [{"category": "Shoes", "labelled": 61, "enough": True}]
    today = datetime.now(UTC).date().isoformat()
    days = {(d["day"], d["attribute"]): d for d in here.ask("GET", "/v1/quality/days?days=3660").json()}
    assert days[today, "Brand"]["reviewed"] >= 61 and days["2026-11-01", "Brand"]["offers"] == 61
    assert {d["day"] for d in here.ask("GET", "/v1/quality/days?days=1").json()} <= {today}
    for _ in range(2):
        here.ask("POST", "/v1/feedback/undo", {})
    assert here.ask("GET", "/v1/quality").json()["categories"] == [
        {"category": "Shoes", "labelled": 0, "enough": False}
    ]


def test_metrics_name_served_categories_alone_and_ask_the_store_now_and_then(here, monkeypatch):
    put(here, [*waiting(3), record("x", category="Made up", Brand=("boot", 0.1))])
    queue = lambda category: here.running.metric("shelfwise_review_queue", category=category)  # noqa: E731
    assert (queue("Shoes"), queue(metrics.INLINE), queue("Tea/Green"), queue("Made up")) == (3, 1, 0, None)
    ann = here.client("ann")
    act = ann.decide("o0", "Brand", ["Diesel"]).act
    ann.decide("o0", "Brand", ["Diesel"])
    ann.decide("x", "Brand", [])
    ann.undo(act)
    ann.undo(act)
    count = lambda *labels: here.running.metric(  # noqa: E731
        "shelfwise_reviews_total", **dict(zip(("category", "attribute", "decision"), labels, strict=True))
    )
    assert count("Shoes", "Brand", "accepted") == count("Shoes", "Brand", "undone") == 1
    assert count(metrics.INLINE, "", "rejected") == 1
    text = here.ask("GET", "/metrics").text
    assert queue("Shoes") == 3 and 'shelfwise_review_queue{category="Shoes"} 3.0' in text and "Made up" not in text
    monkeypatch.setattr(metrics, "AGAIN", 0.0)
    service = here.running.service

    def gone():
        raise StorageError("gone")

    collector = metrics._Queue(gone)
    assert next(collector.collect()).samples == []
    assert {s.labels["category"]: s.value for s in next(metrics._Queue(service._waiting).collect()).samples}[
        "Shoes"
    ] == 3
