"""The same jobs in several processes of this machine: an engine's death takes no offer and no job along."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from jobs import SCHEMA, bare, made, offers, once, poisonous, troubled

from extractor import Extractor
from extractor.batch import in_process, work
from extractor.batch_options import extract_by
from extractor.cluster import Cluster
from extractor.engines.scripted import ScriptedEngine, first_words
from extractor.errors import EngineUnavailable, InputError
from extractor.processes import Engines, shares

TWO = Engines(2)


@contextmanager
def scripted(script=first_words):
    yield Extractor(ScriptedEngine(script), [SCHEMA])


def slow(request):
    time.sleep(0.02)
    return poisonous(request)


def deadly(request):
    """Takes its process along."""
    if "DEADLY" in request.messages[-1]["content"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return first_words(request)


def down(request):
    raise EngineUnavailable("no answer from the server")


def children() -> list[int]:
    found = []
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended since
            found += [int(p) for p in (task / "children").read_text().split()]
    return [p for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]


def test_a_job_gives_the_same_apart_and_survives_the_death_of_an_engine(tmp_path):
    lines = troubled()
    with made(tmp_path, lines, "here") as job:
        work(job, partial(scripted, poisonous))
        expected, counts = bare(job), job.counts()
    killed, said = [], []

    def kill(counts, fraction):
        if counts.rows >= 40 and not killed:
            killed.append(min(children()))
            os.kill(killed[0], signal.SIGKILL)

    with made(tmp_path, lines, "apart") as job:
        found = work(job, partial(scripted, slow), extract=TWO, report=kill, say=said.append)
        assert killed and bare(job) == expected
        assert (found.records, found.reused, found.reasons) == (counts.records, 1, counts.reasons)
        assert [letter.row for letter in job.letters()] == [7, 40, 90]
        once(job, 160)
    assert said == ["the engine died, and is started again: EngineError: its process ended with status -9"]
    assert children() == []


def test_an_offer_that_kills_its_process_is_found(tmp_path):
    lines = [line.replace("Loafer", "DEADLY") if i == 5 else line for i, line in enumerate(offers(24))]
    with made(tmp_path, lines) as job:
        work(job, partial(scripted, deadly), extract=TWO)
        assert once(job, 24)[1] == ["5"]
        (letter,) = job.letters()
        assert "status -9" in letter.failure.failure.message and "DEADLY" in letter.prompt[-1]["content"]


def test_a_small_job_starts_one_engine(tmp_path):
    seen = []
    with made(tmp_path, offers(8)) as job:
        work(job, scripted, extract=Engines(4), report=lambda *_: seen.append(len(children())))
    assert seen == [1]


def test_what_ends_a_job_ends_its_engines(tmp_path):
    with made(tmp_path, offers(40)) as job:
        with pytest.raises(EngineUnavailable, match="no answer"):
            work(job, partial(scripted, down), extract=TWO, patience=0)
        assert children() == []
        with pytest.raises(InputError, match=r"all 3 retries are spent, the last on: RuntimeError"):
            poison = [line.replace("Loafer", "POISON") for line in offers(40)]
            with made(tmp_path, poison, "poison") as other:
                work(other, partial(scripted, poisonous), extract=TWO, retries=3)
        assert children() == []

        def interrupt(counts, fraction):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            work(job, partial(scripted, slow), extract=TWO, report=interrupt)
        assert children() == []
        work(job, scripted, extract=TWO)
        once(job, 40)


def test_a_killed_job_leaves_no_engine_behind(tmp_path):
    code = """
import sys, time
from functools import partial
from pathlib import Path
import jobs, test_processes
from extractor.batch import in_process, work
from extractor.batch_options import extract_by
from extractor.cluster import Cluster
if __name__ == "__main__":
    with jobs.made(Path(sys.argv[1]), jobs.offers(400)) as job:
        work(job, partial(test_processes.scripted, test_processes.slow), extract=test_processes.TWO,
             report=lambda *_: print(*test_processes.children(), flush=True))
"""
    script = tmp_path / "job.py"
    script.write_text(code)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, env=environment) as process:
        engines = process.stdout.readline().split()
        assert engines
        process.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{int(p)}").exists() for p in engines):
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize("engines", ["8:2", "0:2", "two", "", "1:2:3", "-1"])
def test_a_number_of_engines_that_is_none_says_what_to_give(tmp_path, engines):
    with pytest.raises(InputError, match="give one number from 1, or MIN:MAX"):
        extract_by(None, engines, 1, 0)


def test_engines_go_where_they_are_asked_for():
    assert extract_by(None, "1", 1, 0) is in_process
    assert extract_by(None, "2:8", 1, 0) == Engines(8)
    assert extract_by("auto", "2:8", 4, 1) == Cluster("auto", (2, 8), 4, 1)


def test_engines_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {2, 3, 5, 7, 11})
    assert shares(2) == [[2, 5, 11], [3, 7]]
    assert shares(7) == [[2], [3], [5], [7], [11], [2], [3]]
