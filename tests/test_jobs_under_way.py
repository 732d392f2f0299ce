"""Jobs of the service while they run: watched, cancelled, beside other clients, without an engine or a store, and killed."""

import gc
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import pytest
from serving import OFFER, SHOES, begun, ended, gate, problem, records, serving, table, values

from extractor.database import Database
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineUnavailable, StorageError
from extractor.feedback import Store
from extractor.job import open_job
from extractor.service.reports import STATES


def heard(running, job):
    """All that the events say."""
    found = []
    with running.http.stream("GET", f"/v1/jobs/{job['id']}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response.iter_lines():
            if line.startswith("data: "):
                found.append(json.loads(line[6:]))
    return found


def test_events_tell_of_a_job_until_it_ends(monkeypatch):
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.2)
    engine, opened = gate("Brand30 ")
    with serving(engine, watching=1, queue=80) as running, ThreadPoolExecutor(1) as pool:
        job = begun(running, table(64))
        said = pool.submit(heard, running, job)
        running.until(lambda: running.service.watched)
        running.until(lambda: running.http.get(f"/v1/jobs/{job['id']}").json()["counts"]["rows"])
        problem(running.http.get(f"/v1/jobs/{job['id']}/events"), 429, "watching")
        assert 0 < len(records(running, job)) < 64, "what is finished so far"
        opened.set()
        found = said.result()
        states = [f["state"] for f in found]
        assert states[-1] == "finished" and set(states[:-1]) <= {"waiting", "running"} and len(states) > 1
        assert found[-1]["counts"]["total"] == 64
        running.until(lambda: not running.service.watched)


def test_events_end_where_the_job_is_deleted(monkeypatch):
    monkeypatch.setattr("extractor.service.api.jobs.LOOK", 2.0)  # so that it is gone by then
    engine, opened = gate("Brand1 ")
    with serving(engine) as running, ThreadPoolExecutor(1) as pool:
        job = begun(running, table(3))
        said = pool.submit(heard, running, job)
        running.until(lambda: running.service.watched)
        running.http.post(f"/v1/jobs/{job['id']}/cancel")
        opened.set()
        assert running.http.delete(f"/v1/jobs/{job['id']}").status_code == 204
        assert said.result(10) is not None
        running.until(lambda: not running.service.watched)


def test_a_client_that_hangs_up_is_not_told_more():
    engine, opened = gate("Brand1 ")
    with serving(engine) as running:
        job = begun(running, table(3))
        with (
            httpx.Client(base_url=running.url, trust_env=False) as http,
            http.stream("GET", f"/v1/jobs/{job['id']}/events") as response,
        ):
            lines = response.iter_lines()
            assert next(lines) == "event: progress" and running.service.watched == 1
        running.until(lambda: not running.service.watched)
        opened.set()


def test_a_job_is_cancelled_and_goes_on_where_it_stopped():
    engine, opened = gate("Brand100 ")
    with serving(engine, queue=80) as running:
        job = begun(running, table(300))
        running.until(lambda: running.http.get(f"/v1/jobs/{job['id']}").json()["counts"]["rows"] >= 80)
        later = [begun(running, table(3, 1_000 * n)) for n in range(1, 4)]
        cancelled = running.http.post(f"/v1/jobs/{job['id']}/cancel").json()
        assert cancelled["state"] == "cancelled"
        opened.set()
        running.until(lambda: job["id"] not in running.service.jobs._running)
        stopped = running.http.get(f"/v1/jobs/{job['id']}").json()
        assert stopped["state"] == "cancelled" and 80 <= stopped["counts"]["rows"] < 300
        assert len(records(running, job)) == stopped["counts"]["rows"]
        for one in later:
            ended(running, one)
        calls = engine.calls
        assert running.http.post(f"/v1/jobs/{job['id']}/resume").json()["state"] in ("waiting", "running")
        ended(running, job)
        assert [r["offer_id"] for r in records(running, job)] == [*map(str, range(300))]
        assert engine.calls > calls
        assert running.metric("shelfwise_job_rows_total") == 309
        assert [running.metric("shelfwise_jobs", state=s) for s in STATES] == [0, 0, 0, 0, 4]


def test_a_job_that_stops_before_its_next_part_is_as_far_as_it_was():
    engine, opened = gate("Brand250 ")
    with serving(engine) as running, ThreadPoolExecutor(1) as pool:
        job = begun(running, table(900))  # far more than the chunks that the engine may have begun with
        look = lambda: running.http.get(f"/v1/jobs/{job['id']}").json()  # noqa: E731
        stopped = lambda: job["id"] not in running.service.jobs._running  # noqa: E731
        running.until(lambda: look()["counts"]["rows"])
        running.http.post(f"/v1/jobs/{job['id']}/cancel")
        opened.set()
        running.until(stopped)
        before = look()["fraction"]
        assert 0 < before < 1
        opened.clear()
        pool.submit(running.extract, OFFER | {"title": "Brand250 Boot"})
        running.until(lambda: running.service.batcher.extracting)
        running.http.post(f"/v1/jobs/{job['id']}/resume")
        running.until(lambda: running.service.batcher.waiting)
        running.http.post(f"/v1/jobs/{job['id']}/cancel")
        running.until(stopped)
        opened.set()
        assert look()["state"] == "cancelled" and look()["fraction"] == before


def test_a_job_goes_on_where_another_service_has_drained(tmp_path, monkeypatch):
    monkeypatch.setattr("extractor.service.jobs.PAUSE", 0.05)
    engine, opened = gate("Brand100 ")
    with closing(Database(tmp_path / "store.sqlite")) as database, ExitStack() as stack:
        store = Store(database)
        with serving(engine, store=store, folder=tmp_path, queue=80) as running:
            job = begun(running, table(300))
            running.until(lambda: running.http.get(f"/v1/jobs/{job['id']}").json()["counts"]["rows"])
            other = stack.enter_context(serving(ScriptedEngine(), store=store, folder=tmp_path))
            other.until(lambda: other.service.jobs._running)
            running.server.should_exit = True
            running.until(running.service.jobs.closing.is_set)
            opened.set()
        ended(other, job)
        assert [r["offer_id"] for r in records(other, job)] == [*map(str, range(300))]


def test_a_job_that_waits_says_behind_how_many():
    engine, opened = gate("Brand1 ")
    with serving(engine) as running:
        jobs = [begun(running, table(3, schema)) for schema in (0, 0, 0, 0, 0)]
        running.until(lambda: len(running.service.jobs._running) == 3)
        look = lambda job: running.http.get(f"/v1/jobs/{job['id']}").json()  # noqa: E731
        assert [look(j)["state"] for j in jobs] == ["running"] * 3 + ["waiting"] * 2
        assert [look(j)["ahead"] for j in jobs] == [None] * 3 + [3, 4]
        running.http.post(f"/v1/jobs/{jobs[4]['id']}/cancel")
        opened.set()
        for job in jobs[:4]:
            ended(running, job)
        ended(running, jobs[4], "cancelled")


def test_interactive_requests_go_between_the_chunks_of_jobs():
    with serving(ScriptedEngine(delay=0.05), batch=64) as running:
        job = begun(running, table(3_000))
        running.until(lambda: running.service.batcher.extracting)
        started = time.monotonic()
        assert running.extract({"id": "1", "title": "Velmora x", "category": "Shoes"}).status_code == 200
        assert time.monotonic() - started < 1
        assert running.http.get(f"/v1/jobs/{job['id']}").json()["state"] == "running"
        running.http.post(f"/v1/jobs/{job['id']}/cancel")


def test_an_engine_that_is_away_is_waited_for():
    away = threading.Event()

    def script(request):
        if away.is_set():
            raise EngineUnavailable("the server is down")
        return first_words(request)

    with serving(ScriptedEngine(script), patience=0.1, queue=80) as running:
        away.set()
        job = begun(running, table(40))
        running.until(
            lambda: "goes on by itself" in (running.http.get(f"/v1/jobs/{job['id']}").json()["problem"] or "")
        )
        away.clear()
        deadline = time.monotonic() + 20
        while running.http.get(f"/v1/jobs/{job['id']}").json()["state"] != "finished" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert ended(running, job)["problem"] is None and len(records(running, job)) == 40


def test_a_full_queue_is_waited_for():
    engine, opened = gate()
    with serving(engine, queue=8, batch=4) as running, ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(running.extract, *[{"id": str(i), "title": "slow x", "category": "Shoes"} for i in range(8)])
            for _ in range(2)
        ]
        running.until(lambda: running.service.batcher.waiting == 4)
        job = begun(running, table(20))
        time.sleep(0.3)
        opened.set()
        ended(running, job)
        assert len(records(running, job)) == 20 and {a.result().status_code for a in asked} <= {200, 429}


def test_a_store_that_fails_is_tried_again_and_then_said(monkeypatch):
    with serving(ScriptedEngine()) as running:
        running.service.jobs.pause = 0.01
        add, failing = running.service.store.add, [3]

        def stumbling(found):
            failing[0] -= 1
            if failing[0] > 0:
                raise StorageError("locked")
            return add(found)

        monkeypatch.setattr(running.service.store, "add", stumbling)
        job = begun(running, table(100))
        ended(running, job)
        assert len(running.service.store.records([str(i) for i in range(100)])) == 100
        failing[0] = 1_000
        job = begun(running, table(100, 500))
        assert "resume the job" in ended(running, job, "failed")["problem"]
        failing[0] = 0
        running.http.post(f"/v1/jobs/{job['id']}/resume")
        ended(running, job)
        assert len(running.service.store.records([str(i) for i in range(500, 600)])) == 100


def test_a_download_that_breaks_off_leaves_nothing_open(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with serving(ScriptedEngine(), folder=tmp_path / "disk") as running:
        job = begun(running, table(3_000))
        ended(running, job)
        before = len([*Path("/proc/self/fd").iterdir()])
        gc.disable()  # which would close what is left
        try:
            with running.http.stream("GET", f"/v1/jobs/{job['id']}/results") as response:
                next(response.iter_raw())
                assert list(tmp_path.glob("shelfwise-*"))
            running.until(lambda: not list(tmp_path.glob("shelfwise-*")))
            running.until(lambda: len([*Path("/proc/self/fd").iterdir()]) <= before)
        finally:
            gc.enable()


def test_a_file_that_breaks_in_the_middle_fails_its_job_with_a_reason():
    with serving(ScriptedEngine()) as running:
        job = begun(running, table(300))
        ended(running, job)
        folder = running.service.uploads.place(job["id"]) / "work" / "parts"
        part = folder / "00001.jsonl"
        part.write_bytes(part.read_bytes().replace(b"Brand", b"Brend"))
        with pytest.raises(httpx.RemoteProtocolError):
            running.http.get(f"/v1/jobs/{job['id']}/results")
        running.service.journal.move(job["id"], ["finished"], state="failed")
        with open_job(folder.parent) as opened:
            opened.note("stored", 0)
        running.http.post(f"/v1/jobs/{job['id']}/resume")
        found = ended(running, job, "failed")["problem"]
        assert "take it from a backup" in found and str(running.service.folder) not in found


def test_the_schemas_of_a_job_stay_as_they_were():
    engine, opened = gate("Brand1 ")
    with serving(engine, queue=8) as running:
        job = begun(running, table(6))
        running.until(lambda: running.service.jobs._running)
        draft = {"category": "Shoes", "attributes": [{"name": "Sole"}]}
        saved = running.http.put("/v1/schemas/Shoes", json={"schema": draft, "from_version": 0})
        assert saved.status_code == 200
        opened.set()
        ended(running, job)
        assert values(running.extract(OFFER).json()["results"][0]) == {"Sole": ["Velmora"]}
        assert {tuple(r["attributes"]) for r in records(running, job)} == {("Brand", "Color")}
        entry = running.service.jobs.job(job["id"])
        assert SHOES in running.service.jobs.schemas(entry) and len(running.service.jobs.schemas(entry)) == 3
