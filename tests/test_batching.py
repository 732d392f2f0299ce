"""Offers of many clients in one engine: shared calls, a bounded queue, deadlines, and engines that die."""

import json
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from serving import ANSWERED, OFFER, POST, gate, problem, serving, values

from extractor import AttributeSchema, Extraction, ProductOffer
from extractor.client import Client
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineError, EngineUnavailable


def test_offers_of_many_clients_share_calls():
    engine = ScriptedEngine(delay=0.05)
    with serving(engine) as running, ThreadPoolExecutor(50) as pool, Client(running.url) as client:
        before = engine.calls
        asked = [ProductOffer(id=f"o{i}", title=f"Brand{i} x", category="Shoes") for i in range(200)]
        schema = AttributeSchema.from_names(["Sole"])
        ask = lambda i: client.extract([asked[i]], schema if i % 2 else None)[0]  # noqa: E731
        records = list(pool.map(ask, range(200)))
        assert [r.offer_id for r in records] == [o.id for o in asked]
        assert [next(iter(r.attributes.values()))[0].value for r in records] == [f"Brand{i}" for i in range(200)]
        assert [next(iter(r.attributes)) for r in records[:2]] == ["Brand", "Sole"]
        assert engine.calls - before <= 80
        assert running.metric("shelfwise_batch_offers_sum") == 200


def test_one_request_is_split_and_others_go_between():
    engine, opened = gate()
    sizes = []
    generate = engine.generate
    engine.generate = lambda requests: sizes.append(len(requests)) or generate(requests)
    with serving(engine, batch=10) as running, ThreadPoolExecutor(3) as pool:
        first = pool.submit(running.extract, OFFER | {"title": "slow"})
        running.until(lambda: running.service.batcher.extracting)
        many = pool.submit(running.extract, *[OFFER | {"id": f"{i}", "title": f"T{i} x"} for i in range(100)])
        running.until(lambda: running.service.batcher.waiting == 100)
        one = pool.submit(running.extract, OFFER)
        running.until(lambda: running.service.batcher.waiting == 101)
        opened.set()
        assert first.result().status_code == 200 and values(one.result().json()["results"][0]) == ANSWERED
        assert [r["offer_id"] for r in many.result().json()["results"]] == [str(i) for i in range(100)]
        assert sizes == [1, 1, *[10] * 10, 1] and not running.service.batcher._queue


def test_a_round_takes_about_a_second(monkeypatch):
    """So that the title which somebody tries does not wait for a job; here a tenth of it, at 1 ms an offer."""
    monkeypatch.setattr("extractor.service.batching.TURN", 0.1)
    sizes = []

    def script(request):
        time.sleep(0.001)
        return first_words(request)

    class Counted(ScriptedEngine):
        def generate(self, requests):
            sizes.append(len(requests))
            return super().generate(requests)

    offers = [OFFER | {"id": str(i)} for i in range(1000)]
    with serving(Counted(script), batch=1000) as running:
        assert len(running.http.post("/v1/extract", json={"offers": offers}).json()["results"]) == 1000
    assert sizes[:2] == [1, 64] and min(sizes[2:-1]) >= 16 and max(sizes) <= 128


def test_beyond_the_queue_is_429():
    engine, opened = gate()
    with serving(engine, queue=3) as running, ThreadPoolExecutor(8) as pool:
        first = pool.submit(running.extract, OFFER | {"title": "slow"})
        running.until(lambda: running.service.batcher.extracting)
        waiting = [pool.submit(running.extract, OFFER) for _ in range(3)]
        running.until(lambda: running.service.batcher.waiting == 3)
        refused = running.extract(OFFER)
        assert "3 offers wait" in problem(refused, 429, "queue-full")["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        with (
            Client(running.url, patience=0.5) as client,
            pytest.raises(EngineUnavailable, match="429 Too many offers wait"),
        ):
            client.extract([ProductOffer(**OFFER)])
        with Client(running.url) as client:
            patient = pool.submit(client.extract, [ProductOffer(**OFFER)])
            time.sleep(0.2)
            opened.set()
            assert isinstance(patient.result()[0], Extraction)
        assert {f.result().status_code for f in (first, *waiting)} == {200}
        # Nobody waits, so that more than may wait are taken.
        assert running.extract(*[OFFER] * 10).status_code == 200


def test_a_deadline_and_a_client_that_hangs_up_give_up_their_places():
    engine, opened = gate()
    with serving(engine) as running, ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.extract, OFFER | {"title": "slow"})
        batcher = running.service.batcher
        running.until(lambda: batcher.extracting)
        problem(running.extract(OFFER, OFFER, headers={"X-Timeout": "0.2"}), 504, "deadline")
        assert batcher.waiting == 0
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            body = json.dumps({"offers": [OFFER] * 7}).encode()
            connection.sendall(f"{POST}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            running.until(lambda: batcher.waiting == 7)
        running.until(lambda: batcher.waiting == 0)
        opened.set()
        assert first.result().status_code == 200
        calls = engine.calls
        assert running.extract(OFFER).status_code == 200 and engine.calls == calls + 1
        labels = {"method": "POST", "route": "/v1/extract"}
        running.until(lambda: running.metric("shelfwise_requests_total", status="499", **labels) == 1)
        assert running.metric("shelfwise_requests_total", status="504", **labels) == 1


def test_what_is_running_is_finished_and_who_waits_is_told():
    engine, opened = gate()
    with serving(engine) as running, ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.extract, OFFER | {"title": "slow"})
        running.until(lambda: running.service.batcher.extracting)
        waiting = [pool.submit(running.extract, OFFER) for _ in range(2)]
        running.until(lambda: running.service.batcher.waiting == 2)
        running.server.should_exit = True
        for answer in waiting:
            assert "send it again" in problem(answer.result(), 503, "not-ready")["detail"]
        opened.set()
        assert values(first.result().json()["results"][0]) == ANSWERED | {"Brand": ["slow"]}


def test_engines_that_die_come_back_and_poison_stays_alone():
    engines, deaths = [], Counter()

    def script(request):
        text = request.messages[-1]["content"]
        if "kill" in text and not deaths["kill"]:
            deaths["kill"] += 1
            raise EngineError("the engine fell over")
        if "poison" in text:
            raise ValueError(text)
        return first_words(request)

    def started():
        engines.append(ScriptedEngine(script))
        return engines[-1]

    with serving(started) as running:
        records = running.extract(OFFER | {"title": "kill x"}, OFFER).json()["results"]
        assert [values(r)["Brand"] for r in records] == [["kill"], ["Velmora"]] and len(engines) == 2
        records = running.extract(*[OFFER | {"title": t} for t in ("a", "b", "poison", "d")]).json()["results"]
        assert ["failure" in r for r in records] == [False, False, True, False] and len(engines) == 2
        assert records[2]["failure"]["reason"] == "engine_error"
        assert running.metric("shelfwise_failures_total", reason="engine_error") == 1
        assert running.metric("shelfwise_engine_repeats_total") == 3
        assert running.http.get("/readyz").status_code == 200


def test_an_engine_that_stays_away(monkeypatch):
    monkeypatch.setattr("extractor.service.batching.AGAIN", 0.05)
    away = Event()

    class Away(ScriptedEngine):
        def generate(self, requests):
            if away.is_set():
                raise EngineUnavailable("the server is down")
            return super().generate(requests)

    with serving(Away(), patience=0) as running:
        assert running.extract(OFFER).status_code == 200
        away.set()
        document = problem(running.extract(OFFER), 503, "not-ready")
        assert "the server is down" in document["detail"]
        problem(running.http.get("/readyz"), 503, "not-ready")
        assert running.extract(OFFER).headers["retry-after"] == "5" and running.http.get("/healthz").status_code == 200
        with Client(running.url, patience=0) as client, pytest.raises(EngineUnavailable, match="503 No engine answers"):
            client.extract([ProductOffer(**OFFER)])
        away.clear()
        running.until(lambda: running.http.get("/readyz").status_code == 200)
        assert running.extract(OFFER).status_code == 200


@pytest.mark.parametrize("kind", [EngineError, EngineUnavailable])
def test_what_an_engine_says_of_an_offer_is_told_to_nobody_else(caplog, kind):
    secret = "ann's boot"

    def script(request):
        if secret in (text := request.messages[-1]["content"]):
            raise kind("the server answered 500", f"cannot read {text}")
        return first_words(request)

    with caplog.at_level("INFO"), serving(lambda: ScriptedEngine(script), patience=1.5) as running:
        hers = running.extract(OFFER | {"title": secret})
        running.until(lambda: running.service.batcher.ready)
        running.service.batcher._lost([], kind("the server answered 500", secret))
        later = problem(running.extract(OFFER), 503, "not-ready")
    assert hers.status_code == (503 if kind is EngineUnavailable else 200)
    assert "the server answered 500" in later["detail"] and secret not in later["detail"]
    said = [str(vars(record)) for record in caplog.records]
    assert any("the server answered 500" in line for line in said) and not any("boot" in line for line in said)


def test_ready_is_who_has_extracted_an_offer():
    engine, opened = gate("probe")
    with serving(engine, ready=False) as running, Client(running.url) as client:
        assert running.http.get("/healthz").status_code == 200 and not client.ready()
        assert "it starts" in problem(running.extract(OFFER), 503, "not-ready")["detail"]
        opened.set()
        running.until(client.ready)
        assert client.schemas()[1].attributes == ["Brand", "Weight"] and client.schemas()[1].category == "Tea/Green"
