"""The same jobs on Ray: actors extract, the driver keeps the job. One Ray for all of these."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import run_cli
from jobs import bare, made, offers, once, opener, poisonous, troubled

from extractor import ProductOffer
from extractor.batch import retry, work
from extractor.cluster import TRIES, Cluster, Worker
from extractor.engines.scripted import first_words
from extractor.errors import EngineUnavailable, InputError, MissingExtraError
from extractor.job import open_job

ray = pytest.importorskip("ray")
pytestmark = [
    # Ray's own: sockets and files that its processes take over, and names it gives up.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]
TWO = Cluster("local", (2, 2), cpus=0.5)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # actors find what is pickled by its name here
        ray.init("local", num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        yield
        ray.shutdown()


def pids() -> set[int]:
    """Of the actors that extract."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_text()
        except OSError:  # it has just ended
            continue
        if name.startswith("ray::MapWorker"):
            found.add(int(process.name))
    return found


def slow(request):
    time.sleep(0.02)
    return first_words(request)


def test_a_job_gives_the_same_on_ray_and_survives_the_death_of_an_actor(tmp_path):
    lines = troubled()
    with made(tmp_path, lines, "here") as job:
        work(job, opener(poisonous))
        expected, counts = bare(job), job.counts()
    killed = []

    def kill(counts, fraction):
        if counts.rows >= 40 and not killed:
            killed.append(min(pids()))
            os.kill(killed[0], signal.SIGKILL)

    def script(request):
        slow(request)
        return poisonous(request)

    with made(tmp_path, lines, "ray") as job:
        found = work(job, opener(script), extract=TWO, report=kill)
        assert killed and bare(job) == expected
        assert (found.records, found.reused, found.reasons) == (counts.records, 1, counts.reasons)
        letters = {letter.row: letter for letter in job.letters()}
        assert letters.keys() == {7, 40, 90} and once(job, 160)[1] == ["7", "line-41", "90"]
        assert "POISON" in letters[90].prompt[-1]["content"] and letters[90].attempts == 4
        assert retry(job, opener(), extract=TWO).reasons == {"invalid_offer": 1}
        once(job, 160)


class Stop(Exception):
    pass


def after(rows):
    def report(counts, fraction):
        if counts.rows >= rows:
            raise Stop

    return report


def test_a_job_goes_on_from_one_machine_to_a_cluster_and_back(tmp_path):
    with made(tmp_path, offers(120)) as job:
        with pytest.raises(Stop):
            work(job, opener(), report=after(32))
        with pytest.raises(Stop):
            work(job, opener(slow), extract=Cluster("local", (1, 2), cpus=0.5), report=after(64))
        kept = {p: p.read_bytes() for p in (job.folder / "parts").iterdir()}
        work(job, opener())
        assert {p: p.read_bytes() for p in kept} == kept
        assert once(job, 120) == ([str(i) for i in range(120)], [])
    with open_job(tmp_path / "job") as job:
        assert work(job, opener(), extract=TWO).finished  # and has nothing to do any more


def test_offers_under_way_are_extracted_once_and_what_is_known_not_at_all(tmp_path):
    lines = [line.replace(f"Brand{i}", f"Brand{i % 5}") for i, line in enumerate(offers(40))]
    with made(tmp_path, lines) as job:
        counts = work(job, opener(slow), extract=TWO)
        assert counts.output_tokens == 5 and counts.reused == 35
        assert once(job, 40)[0] == [str(i) for i in range(40)]
        with made(tmp_path, lines, "again") as again:
            assert work(again, opener(), reuse=[job], extract=TWO).reused == 40


def test_retries_have_a_budget_wherever_they_are_made(tmp_path):
    with made(tmp_path, [line.replace("Loafer", "POISON") for line in offers(40)]) as job:
        with pytest.raises(InputError, match=r"all 10 retries are spent, the last on: RuntimeError.*--retries 20"):
            work(job, opener(poisonous), extract=TWO, retries=10)
        assert job.noted("retries") == 10
        work(job, opener(poisonous), extract=TWO, retries=100)
        assert len(once(job, 40)[1]) == 40


def test_errors_of_engines_and_chunks_that_kill_their_process_stop_a_job(tmp_path):
    def down(request):
        raise EngineUnavailable("no answer from the server")

    with made(tmp_path, offers(8)) as job:
        with pytest.raises(EngineUnavailable, match="no answer"):
            work(job, opener(down), extract=TWO, patience=0)
        work(job, opener())
        once(job, 8)
    answer = Worker(None, opener(), 0)._answer([ProductOffer(id=i, title="Loafer") for i in "ab"], 10, TRIES + 1)
    assert not answer.outcomes and "the process that extracts offers a … b was lost 4 times" in str(answer.error)


def test_what_is_no_cluster_says_what_to_do(tmp_path):
    with made(tmp_path, offers(8)) as job:
        with pytest.raises(InputError, match="--gpus 4: this machine has 2 and 0"):
            work(job, opener(), extract=Cluster("local", gpus=4))
        with pytest.raises(InputError, match="a job runs on a node of its cluster"):
            work(job, opener(), extract=Cluster("ray://head:10001"))
    source = tmp_path / "offers.jsonl"
    common = (
        "batch",
        "run",
        str(source),
        "--attributes",
        "Brand",
        "--engine",
        "scripted",
        "--out",
        str(tmp_path / "x"),
    )
    refused = run_cli(*common, "--ray", "127.0.0.1:1")
    assert refused.returncode == 2 and "no cluster there" in refused.stderr and "`local` starts one" in refused.stderr


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        made(tmp_path, offers(8)) as job,
        pytest.raises(MissingExtraError, match=r"ray is not installed; .*shelfwise\[ray\]"),
    ):
        work(job, opener(), extract=TWO)
