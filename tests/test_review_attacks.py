"""Review, attacked: by who may not, with what is no text, no value, no record, and too much of it."""

import json

import httpx
import pytest
from reviewing import TITLE, desk_at, put, waiting
from serving import OFFER, problem
from test_feedback import record

from extractor.errors import StorageError

MARKUP = "<script>alert(1)</script>"


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
        {"attributes": {"\ud83d": []}},
        {"title": "\ud83d"},
        {"title": "", "attributes": {"Brand": []}},
        {"provenance": {"created": "0001-01-01T00:00:00+14:00"}},
    ],
)
def test_records_that_no_store_takes_are_refused_whole(reviewed, change):
    row = json.loads(record("new", TITLE, Brand=("boot", 0.1)).model_dump_json(by_alias=True))
    change = {k: row[k] | v if k == "provenance" else v for k, v in change.items()}
    problem(reviewed.ask("POST", "/v1/feedback/records", {"records": [row, row | change]}), 422, "input")
    problem(reviewed.ask("GET", "/v1/feedback/records/new"), 404, "unknown-offer")


def test_what_cannot_be_kept_is_not_extracted_first(reviewed):
    body = {"offers": [OFFER, OFFER | {"id": "2", "category": "x" * 101}], "schema": {"attributes": ["Brand"]}}
    rounds = reviewed.running.metric("shelfwise_batch_offers_count")
    document = problem(reviewed.ask("POST", "/v1/extract", body | {"keep": True}), 422, "input")
    assert "offer 2: its category has more than 100 characters" in document["detail"]
    assert reviewed.running.metric("shelfwise_batch_offers_count") == rounds
    assert reviewed.ask("POST", "/v1/extract", body).status_code == 200


def test_a_thousand_records_at_once(reviewed):
    rows = [record(f"many{i}", TITLE, Brand=("Diesel", 0.99)) for i in range(1_000)]
    assert put(reviewed, rows).json() == {"added": 1_000, "known": 0}
    big = [record(f"big{i}", "x" * 100_000, Brand=None) for i in range(100)]
    problem(put(reviewed, big), 413, "too-large")


def test_who_may_only_extract_reviews_nothing(reviewed):
    paths = reviewed.running.http.get("/openapi.json").json()["paths"]
    own = [(p, m) for p, routes in paths.items() for m in routes if p.startswith(("/v1/feedback", "/v1/quality"))]
    assert len(own) == 13
    for path, method in own:
        answer = reviewed.ask(method, path.replace("{offer_id}", "o0"), {}, "only", "extract")
        problem(answer, 403, "role")


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
