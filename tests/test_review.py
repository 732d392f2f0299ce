"""Review over HTTP: people with keys of their own at one queue, on SQLite and on PostgreSQL."""

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from itertools import count
from urllib.parse import quote

import httpx
import pytest
from conftest import HOSTILE
from serving import OFFER, SCHEMAS, problem, serving
from test_feedback import record, value

from extractor import Attribute, AttributeSchema, AttributeValue, Evidence, ProductOffer
from extractor.client import Client
from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine
from extractor.errors import ConflictError, EngineUnavailable, InputError, StorageError
from extractor.feedback import Store, Thresholds
from extractor.keys import Keys
from extractor.service import metrics
from extractor.service.auth import TOKEN
from extractor.sessions import csrf

TITLE = "Diesel boot, red and wide"
MARKUP = "<script>alert(1)</script>"


class Desk:
    """A service with keys, and a client for each reviewer by name."""

    def __init__(self, running, keys):
        self.running, self._keys, self._secrets, self._clients = running, keys, {}, {}

    def secret(self, name, role="review"):
        return self._secrets.setdefault(name, self._keys.create(name, role, None, "test")[1])

    def client(self, name):
        if name not in self._clients:
            self._clients[name] = Client(self.running.url, self.secret(name))
        return self._clients[name]

    def ask(self, method, path, body=None, name="ann", role="review"):
        headers = {"Authorization": f"Bearer {self.secret(name, role)}"}
        return self.running.http.request(method, path, json=body, headers=headers)

    def close(self):
        for client in self._clients.values():
            client.close()


@contextmanager
def desk_at(place, **limits):
    with closing(Database(place)) as database:
        keys = Keys(database)
        with (
            serving(ScriptedEngine(), keys, store=Store(database), **limits) as running,
            closing(Desk(running, keys)) as desk,
        ):
            yield desk


@pytest.fixture
def desk(address):
    with desk_at(address) as opened:
        yield opened


@pytest.fixture
def here(tmp_path):
    """Where the database does not matter."""
    with desk_at(tmp_path / "store.sqlite") as opened:
        yield opened


def waiting(n, title=TITLE, **values):
    return [record(f"o{i}", title, **values or {"Brand": ("Diesel", 0.1 + 0.5 * i / n)}) for i in range(n)]


def put(desk, records):
    rows = [json.loads(r.model_dump_json(by_alias=True)) for r in records]
    return desk.ask("POST", "/v1/feedback/records", {"records": rows})


def test_a_value_from_the_queue_to_a_label(desk):
    kept = waiting(3)
    assert put(desk, kept).json() == {"added": 3, "known": 0} and put(desk, kept).json() == {"added": 0, "known": 3}
    ann, ben = desk.client("ann"), desk.client("ben")
    (first, second), (third,) = ann.claim(2), ben.claim(2)
    assert [i.offer_id for i in (first, second, third)] == ["o0", "o1", "o2"]
    assert (first.category, first.attribute, first.title, first.alike) == ("Shoes", "Brand", TITLE, 3)
    assert first.values == [value(TITLE, "Diesel", 0.1)] and first.definition.type == "text"
    assert desk.running.service.access.keys.all()[0].name == "ann"
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


def test_eight_reviewers_at_once_share_nothing_and_miss_nothing(desk):
    put(desk, waiting(200))
    names = [f"r{i}" for i in range(8)]
    for name in names:
        desk.client(name)

    def review(name):
        client, mine = desk.client(name), []
        while items := client.claim(3, random.choice(["uncertain", "frequent"])):
            for item in items:
                mine.append(item.offer_id)
                assert client.decide(item.offer_id, "Brand", ["Diesel"]).decision == "accepted"
        return mine

    with ThreadPoolExecutor(len(names)) as pool:
        decided = list(pool.map(review, names))
    assert Counter(offer for mine in decided for offer in mine) == Counter(f"o{i}" for i in range(200))
    with desk.running.service.store.database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT offer, count(*) FROM reviews GROUP BY offer").all()
    assert len(rows) == 200 and all(n == 1 for _, n in rows)
    counts = desk.client("r0").counts()
    assert (counts.waiting, counts.all.today, counts.mine.today) == (0, 200, len(decided[0]))


def test_two_keys_of_one_name_are_two_people_and_sessions_of_a_key_are_one(here):
    put(here, waiting(4))
    secrets = [here._keys.create("same", "review", None, "test")[1] for _ in range(2)]
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


def test_items_say_what_can_be_decided(tmp_path):
    wide = Attribute(name="Width", type="enum", values=("narrow", "wide"), description="How wide.")
    size = Attribute(name="Size", type="number", unit="EU", multiple=True)
    boots = AttributeSchema(category="Boots", attributes=(wide, size))
    SCHEMAS.append(boots)
    try:
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
                desk.running.metric("shelfwise_reviews_total", category="Boots", attribute="Width", decision="changed")
                == 1
            )
    finally:
        SCHEMAS.remove(boots)


def test_spans_count_code_points(here):
    title = "🔥👩‍👩‍👧 Diesel é"
    put(here, [record("a", title, Brand=("é", 0.1))])
    begin = title.index("Diesel")
    here.client("ann").decide("a", "Brand", [Evidence(field="title", begin=begin, end=begin + 6)])
    (found,) = here.ask("GET", "/v1/feedback/records/a").json()["attributes"]["Brand"]
    assert found["value"] == "Diesel" and title[found["evidence"]["begin"] : found["evidence"]["end"]] == "Diesel"


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


INJECTIONS = [
    "'; DROP TABLE cells; --",
    "' OR '1'='1",
    '" OR 1=1 --',
    "%",
    "_",
    "a\0b",
    "\\",
    "${7*7}{{7*7}}",
    MARKUP,
    "é" * 80,
]


@pytest.mark.parametrize("text", INJECTIONS)
def test_text_is_nothing_but_text(desk, text):
    put(desk, waiting(2))
    for field in ("category", "attribute"):
        assert desk.ask("POST", "/v1/feedback/claim", {field: text}).json() == {"items": []}
    alike = {"category": "Shoes", "attribute": "Brand", "values": ["Diesel"]}
    for changed in ({"category": text}, {"attribute": text}, {"values": [text]}):
        assert desk.ask("POST", "/v1/feedback/decide-alike", alike | changed).json() == {"count": 0, "act": None}
    body = {"offer_id": "o0", "attribute": "Brand", "values": [text]}
    for changed in ({}, {"offer_id": text}, {"attribute": text}):
        problem(desk.ask("POST", "/v1/feedback/decide", body | changed), 422, "input")
    quoted = httpx.QueryParams({"category": text, "attribute": text})
    assert desk.ask("GET", f"/v1/feedback/counts?{quoted}").json()["waiting"] == 0
    assert desk.ask("GET", f"/v1/feedback/labelled?{httpx.QueryParams({'category': text})}").text == ""
    problem(desk.ask("POST", "/v1/feedback/undo", {"act": text[:32]}), 422, "invalid")
    assert desk.client("ann").counts().waiting == 2


def test_markup_stays_json(here):
    put(here, [record(MARKUP, f"{MARKUP} boot", category=MARKUP, **{MARKUP: (MARKUP, 0.1)})])
    (item,) = here.client("ann").claim()
    assert item.values[0].value == item.attribute == MARKUP
    quoted = "/v1/feedback/records/%3Cscript%3Ealert(1)%3C%2Fscript%3E"
    body = {"offer_id": MARKUP, "attribute": MARKUP, "values": ["<img src=x>"]}
    for response in (
        here.ask("GET", quoted),
        here.ask("POST", "/v1/feedback/decide", body),
        here.ask("POST", "/v1/feedback/decide", body | {"values": []}),
        here.ask("GET", "/v1/feedback/labelled"),
        here.ask("GET", "/v1/feedback/filters"),
        here.ask("GET", "/v1/quality"),
    ):
        assert response.headers["content-type"].startswith(
            ("application/json", "application/problem+json", "application/jsonl")
        )
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]


DECIDE = {"offer_id": "o0", "attribute": "Brand", "values": []}
SPAN = {"field": "title", "begin": 0, "end": 6}
ALIKE = {"category": "Shoes", "attribute": "Brand", "values": ["x"]}


@pytest.mark.parametrize(
    ("path", "body", "kind", "says"),
    [
        ("decide", DECIDE | {"values": [SPAN | {"end": 99}]}, "input", "no span from 0 to 99; it may have changed"),
        ("decide", DECIDE | {"values": [SPAN | {"begin": 6}]}, "input", "no span from 6 to 6"),
        ("decide", DECIDE | {"values": [SPAN | {"field": "description"}]}, "input", "description has no span"),
        ("decide", DECIDE | {"values": [SPAN | {"begin": 2**63, "end": 2**64}]}, "input", "no span"),
        ("decide", DECIDE | {"values": [SPAN | {"begin": -1}]}, "invalid", "greater than or equal to 0"),
        ("decide", DECIDE | {"values": [SPAN | {"field": "id"}]}, "invalid", "'title' or 'description'"),
        ("decide", DECIDE | {"values": ["x" * 20_001]}, "invalid", "at most 20000"),
        ("decide", DECIDE | {"values": ["Diesel"] * 101}, "invalid", "at most 100"),
        ("decide", DECIDE | {"values": None}, "invalid", "valid list"),
        ("decide", DECIDE | {"who": "ben"}, "invalid", "who"),
        ("decide", DECIDE | {"offer_id": "x" * 501}, "invalid", "at most 500"),
        ("decide", DECIDE | {"attribute": ""}, "invalid", "at least 1"),
        ("decide", DECIDE | {"offer_id": "o9"}, "input", "no extraction of 'Brand' from an offer 'o9'"),
        ("decide-alike", ALIKE | {"values": []}, "invalid", "at least 1"),
        ("decide-alike", ALIKE | {"values": ["x"] * 101}, "invalid", "at most 100"),
        ("claim", {"n": 0}, "invalid", "greater than or equal to 1"),
        ("claim", {"n": 101}, "invalid", "less than or equal to 100"),
        ("claim", {"order": "best"}, "invalid", "'uncertain' or 'frequent'"),
        ("records", {"records": []}, "invalid", "at least 1"),
        ("records", {"records": [{}] * 1_001}, "invalid", "at most 1000"),
        ("records", {"records": [{"offer_id": "x"}]}, "invalid", "category: Field required"),
    ],
)  # fmt: skip
def test_what_cannot_be_decided_is_refused(reviewed, path, body, kind, says):
    document = problem(reviewed.ask("POST", f"/v1/feedback/{path}", body), 422, kind)
    assert says in document["detail"] + " ".join(document.get("errors", []))
    assert reviewed.client("ann").counts().all.today == 0


@pytest.fixture(scope="module")
def reviewed(tmp_path_factory):
    with desk_at(tmp_path_factory.mktemp("store") / "store.sqlite") as opened:
        put(opened, waiting(1))
        yield opened


@pytest.mark.parametrize(
    "change",
    [
        {"offer_id": ""},
        {"offer_id": "x" * 501},
        {"category": "x" * 101},
        {"attributes": {"": []}},
        {"provenance": {"created": "0001-01-01T00:00:00+14:00"}},
    ],
)
def test_records_that_no_store_takes_are_refused_whole(reviewed, change):
    row = json.loads(record("new", TITLE, Brand=("boot", 0.1)).model_dump_json(by_alias=True))
    change = {k: row[k] | v if k == "provenance" else v for k, v in change.items()}
    problem(reviewed.ask("POST", "/v1/feedback/records", {"records": [row, row | change]}), 422, "input")
    problem(reviewed.ask("GET", "/v1/feedback/records/new"), 404, "unknown-offer")


def test_a_thousand_records_at_once(reviewed):
    rows = [record(f"many{i}", TITLE, Brand=("Diesel", 0.99)) for i in range(1_000)]
    assert put(reviewed, rows).json() == {"added": 1_000, "known": 0}
    big = [record(f"big{i}", "x" * 100_000, Brand=None) for i in range(100)]
    problem(put(reviewed, big), 413, "too-large")


def test_who_may_only_extract_reviews_nothing(reviewed):
    paths = reviewed.running.http.get("/openapi.json").json()["paths"]
    own = [(p, m) for p, routes in paths.items() for m in routes if p.startswith(("/v1/feedback", "/v1/quality"))]
    assert len(own) == 12
    for path, method in own:
        answer = reviewed.ask(method, path.replace("{offer_id}", "o0"), {}, "only", "extract")
        problem(answer, 403, "role")


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
    put(here, waiting(31, Brand=("boot", 0.5), Color=("red", 0.99)))
    ann = here.client("ann")
    assert ann.decide_alike("Shoes", "Brand", ["boot"]).count == 31
    ann.decide("o0", "Brand", ["Diesel"], revise=True)
    found = here.ask("GET", "/v1/quality").json()
    brand, color = found["attributes"]
    assert (brand["attribute"], brand["reviewed"], brand["agreed"], brand["coverage"]) == ("Brand", 31, 30, 1)
    assert brand["agreement"] == 30 / 31 and color["agreement"] is None
    assert found["categories"] == [{"category": "Shoes", "labelled": 31, "enough": True}]
    today = datetime.now(UTC).date().isoformat()
    days = {(d["day"], d["attribute"]): d for d in here.ask("GET", "/v1/quality/days?days=3660").json()}
    assert days[today, "Brand"]["reviewed"] >= 31 and days["2026-11-01", "Brand"]["offers"] == 31
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


def test_a_store_that_is_gone_is_a_problem(here, monkeypatch):
    service = here.running.service
    here.client("ann").counts()

    def gone():
        raise StorageError("secret place")

    monkeypatch.setattr(service.store.database, "reading", gone)
    for path in ("labelled", "filters", "counts"):
        monkeypatch.setattr(service.journal, "note", lambda *_: None)
        document = problem(here.ask("GET", f"/v1/feedback/{path}"), 503, "storage")
        assert "secret" not in document["detail"]


def started(address, folder):
    """A process of `shelfwise serve`, and where it listens."""
    options = [
        "--engine",
        "scripted",
        "--attributes",
        "Brand",
        "--no-auth",
        "--port",
        "0",
        "--store",
        address,
        "--rate",
        "0",
    ]
    command = [sys.executable, "-m", "extractor", "serve", *options]
    environment = os.environ | {"XDG_DATA_HOME": str(folder)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    url = ""
    for line in process.stderr:
        what = json.loads(line)["what"] if line.startswith("{") else line
        if found := re.search(r"http://\S+:\d+", what):
            url = found[0]
        if what == "the engine answers":
            return process, url
    ended(process)
    raise AssertionError("it did not start")


def ended(process, how=signal.SIGKILL):
    process.send_signal(how)
    process.communicate(timeout=20)


def test_a_service_that_is_killed_loses_nothing_it_acknowledged(address, tmp_path):
    with closing(Database(address)) as database:
        Store(database).add(waiting(400))
    process, url = started(address, tmp_path)
    acknowledged, numbers = {}, count()

    def review(_):
        with Client(url, timeout=5, patience=0) as client:
            try:
                for item in iter(lambda: client.claim(1), []):
                    (claimed,) = item
                    values = ["Diesel"] if (n := next(numbers)) % 2 else ["boot"]
                    client.decide(claimed.offer_id, "Brand", values)
                    acknowledged[claimed.offer_id] = values
                    if n == 60:
                        process.kill()
            except EngineUnavailable:
                return

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(review, range(4)))
    ended(process)
    assert 60 <= len(acknowledged) < 400
    process, url = started(address, tmp_path)
    try:
        with Client(url) as client:
            done = client.counts().all.today
            assert len(acknowledged) <= done <= len(acknowledged) + 4, "what was under way may be there, too"
            labels = {o.id: o.attributes["Brand"] for o in client.labelled()}
            assert {offer: labels[offer] for offer in acknowledged} == acknowledged
            offer, values = next(iter(acknowledged.items()))
            client.decide(offer, "Brand", values)  # whoever had no answer says it again
            assert client.counts().all.today == done
    finally:
        ended(process)
