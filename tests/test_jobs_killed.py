"""Jobs of a service that is killed or stopped, and one with the bundled model."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import table
from sqlalchemy import NullPool, create_engine, text

from extractor.client import Client
from extractor.job import open_job


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


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path, address):
    """Killed right after acknowledgements, and in the middle of jobs; every row is there once at the end."""
    n, submitted, waiting = 1_500, [], []
    source, data = tmp_path / "offers.csv", tmp_path / "data"
    for kill, moment in enumerate((0, 1, 500)):
        source.write_bytes(table(n, kill * n))
        with process(data, "--store", address) as (running, url), Client(url) as client:
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
    with process(data, "--store", address) as (running, url), Client(url) as client:
        for kill, identity in enumerate(submitted):
            assert client.wait(identity, timeout=60).state == "finished"
            client.results(identity, tmp_path / "r.jsonl")
            rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
            assert [r["offer_id"] for r in rows] == [str(i) for i in range(kill * n, (kill + 1) * n)]
            assert all("failure" not in r for r in rows)
        uploads = httpx.get(f"{url}/v1/uploads", trust_env=False).json()["uploads"]
        assert [u["id"] for u in uploads] == waiting
    engine = create_engine(address, poolclass=NullPool)
    with engine.connect() as store:
        counted = text("SELECT count(*), count(DISTINCT offer) FROM extractions")
        assert store.execute(counted).one() == (3 * n, 3 * n)
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
