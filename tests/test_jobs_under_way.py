"""Jobs of the service while they run: watched, cancelled, beside other clients, without an engine or a store, and killed."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest
from serving import OFFER, SHOES, begun, ended, gate, problem, records, serving, table, values

from extractor.client import Client
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineUnavailable, StorageError
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
        assert running.http.post(f"/v1/jobs/{job['id']}/resume").json()["state"] == "waiting"
        ended(running, job)
        assert [r["offer_id"] for r in records(running, job)] == [*map(str, range(300))]
        assert engine.calls > calls
        assert running.metric("shelfwise_job_rows_total") == 309
        assert [running.metric("shelfwise_jobs", state=s) for s in STATES] == [0, 0, 0, 0, 4]


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


@contextmanager
def process(folder: Path, *options: str):
    """`shelfwise serve`, when it answers, and its address."""
    command = [
        "serve",
        "--engine",
        "scripted",
        "--no-auth",
        "--port",
        "0",
        "--data-dir",
        str(folder),
        "--attributes",
        "Brand",
    ]
    running = subprocess.Popen(
        [sys.executable, "-m", "extractor", *command, *options], stderr=subprocess.PIPE, text=True
    )
    try:
        url = ""
        for line in running.stderr:
            facts = json.loads(line)
            if found := re.search(r"http://\S+:\d+", facts["what"]):
                url = found[0]
            if facts["what"] == "the engine answers":
                break
        reading = threading.Thread(target=running.stderr.read)
        reading.start()
        yield running, url
    finally:
        running.kill()
        running.wait()
        reading.join()
        running.stderr.close()


def rows_of(folder: Path) -> int:
    """Of a job that may not have begun."""
    if not (folder / "manifest.json").is_file():
        return 0
    with open_job(folder) as job:
        return job.counts().rows


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path):
    """Killed right after acknowledgements, and in the middle of jobs; every row is there once at the end."""
    n, submitted, waiting = 1_500, [], []
    source, data = tmp_path / "offers.csv", tmp_path / "data"
    for kill, moment in enumerate((0, 1, 500)):
        source.write_bytes(table(n, kill * n))
        with process(data) as (running, url), Client(url) as client:
            submitted.append(client.submit(source).id)
            if not moment:
                url += "/v1/uploads?name=w.csv"
                waiting.append(
                    httpx.post(url, content=table(2), headers={"Content-Type": "text/csv"}, trust_env=False).json()[
                        "id"
                    ]
                )
            while rows_of(data / "jobs" / submitted[-1] / "work") < moment:
                assert running.poll() is None
            running.send_signal(signal.SIGKILL)
            running.wait()
        assert moment <= rows_of(data / "jobs" / submitted[-1] / "work") < n
    with process(data) as (running, url), Client(url) as client:
        for kill, identity in enumerate(submitted):
            assert client.wait(identity, timeout=60).state == "finished"
            client.results(identity, tmp_path / "r.jsonl")
            rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
            assert [r["offer_id"] for r in rows] == [str(i) for i in range(kill * n, (kill + 1) * n)]
            assert all("failure" not in r for r in rows)
        uploads = httpx.get(f"{url}/v1/uploads", trust_env=False).json()["uploads"]
        assert [u["id"] for u in uploads] == waiting
    with closing(sqlite3.connect(data / "store.sqlite")) as store:
        counted = "SELECT count(*), count(DISTINCT offer) FROM extractions"
        assert store.execute(counted).fetchone() == (3 * n, 3 * n)
    assert not list(data.rglob("*.tmp"))


def test_a_graceful_end_leaves_a_job_that_goes_on(tmp_path):
    source = tmp_path / "offers.csv"
    source.write_bytes(table(6_000))
    with process(tmp_path) as (running, url), Client(url) as client:
        job = client.submit(source)
        with httpx.stream("GET", f"{url}/v1/jobs/{job.id}/events", trust_env=False) as events:
            lines = events.iter_lines()
            next(lines)
            started = time.monotonic()
            running.send_signal(signal.SIGTERM)
            for _ in lines:
                pass
        assert running.wait(20) in (0, -signal.SIGTERM) and time.monotonic() - started < 10
    with process(tmp_path) as (_, url), Client(url) as client:
        assert client.job(job.id).state in ("waiting", "running")
        assert client.wait(job.id, timeout=60).counts["records"] == 6_000


@pytest.mark.model
def test_a_file_through_the_bundled_model(tmp_path):
    source = tmp_path / "offers.csv"
    source.write_text('id,title\n1,"Velmora Suede Loafer, Tan, EU 42"\n')
    with process(tmp_path, "--engine", "vllm", "--attributes", "Brand,Color") as (_, url), Client(url) as client:
        job = client.wait(client.submit(source).id, timeout=120)
        assert job.state == "finished" and job.counts["records"] == 1
