"""Jobs on disk: whatever is killed, full, gone or damaged, every row stands once."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import run_cli
from jobs import made, offers, once, opener, poisonous

from extractor.batch import work
from extractor.engines.scripted import first_words
from extractor.errors import InputError, StorageError
from extractor.job import LEDGER, MANIFEST, PARTS, create, open_job
from extractor.manifest import Manifest
from extractor.prompts import PROMPTS


class Crash(BaseException):
    pass


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the lock of who crashed
def test_a_crash_at_any_line_leaves_a_part_or_no_trace(tmp_path):
    """The process ends at the n-th line of extractor/job.py, for every n until a job gets through."""
    lines = [*offers(5), "{broken"]
    reached = 0

    def crashing(at):
        count = 0

        def trace(frame, event, arg):
            nonlocal count
            if frame.f_code.co_filename.endswith("extractor/job.py"):
                if event == "line":
                    count += 1
                    if count == at:
                        raise Crash
                return trace
            return None

        return trace

    for at in range(1, 2_000):
        folder = tmp_path / f"job{at}"
        with made(tmp_path, lines, folder.name, part=3) as job, suppress(Crash):
            sys.settrace(crashing(at))
            try:
                work(job, opener())
                reached = at
            finally:
                sys.settrace(None)
        kept = {p: p.read_bytes() for p in (folder / PARTS).glob("*.jsonl")} if (folder / PARTS).is_dir() else {}
        with open_job(folder) as job:
            counted = job.counts().rows // 3
            work(job, opener())
            assert once(job, 6)[1] == ["line-6"], at
        for path, content in kept.items():
            if int(path.stem) < counted:
                assert path.read_bytes() == content, at
        assert not list(folder.rglob("*.tmp"))
        if reached:
            break
    assert 100 < reached < 2_000


WORKER = """
import sys, time
from contextlib import contextmanager
from pathlib import Path
sys.path.insert(0, "tests")
from jobs import SCHEMA, poisonous
from extractor import Extractor, ProductOffer
from extractor.batch import work
from extractor.engines.scripted import ScriptedEngine
from extractor.job import open_job

Extractor(ScriptedEngine(), [SCHEMA]).extract([ProductOffer(id="0", title="Boot")])  # imports what is slow to import

@contextmanager
def opened():
    yield Extractor(ScriptedEngine(poisonous, delay=0.02), [SCHEMA])

with open_job(Path(sys.argv[1])) as job:
    print("ready", flush=True)
    work(job, opened)
"""


def survived(tmp_path: Path, kills: int, n: int) -> None:
    """`kill -9` at random moments, then to the end: n rows, each there once, and finished parts as they were."""
    lines = offers(n)
    lines[7], lines[n // 2] = "{", lines[n // 2].replace("Loafer", "POISON")
    made(tmp_path, lines, part=10)._ledger.close()
    rng = random.Random(11)
    kept: dict[int, bytes] = {}
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path / "job")], stdout=subprocess.PIPE, cwd=PROMPTS.parent
        )
        process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(0.0, 0.5))
            raise AssertionError(f"it ended by itself: {process.returncode}")
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with open_job(tmp_path / "job") as job:
            numbers = [number for (number,) in job._ledger.execute("SELECT number FROM parts")]
        now = {number: (tmp_path / "job" / PARTS / f"{number:05d}.jsonl").read_bytes() for number in numbers}
        assert all(now[number] == content for number, content in kept.items())
        kept = now
    with open_job(tmp_path / "job") as job:
        assert 0 < job.counts().rows < n
        work(job, opener(poisonous))
        assert sorted(once(job, n)[1]) == [str(n // 2), "line-8"]


def test_killed_at_random_moments_a_job_loses_nothing_and_doubles_nothing(tmp_path):
    survived(tmp_path, kills=12, n=4_000)


def test_who_sees_a_job_finds_its_ledger_and_a_making_that_was_killed_is_made_up_for(tmp_path, monkeypatch):
    folder, manifest = tmp_path / "job", Manifest(sources=["offers.jsonl"], part=3)

    def killed(at, what):
        assert (at / LEDGER).is_file() and not (at / MANIFEST).exists()
        raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr("extractor.job._save", killed)
        create(folder, manifest)
    with create(folder, manifest) as job, open_job(folder) as other:
        assert job.counts() == other.counts()


def test_two_processes_never_work_on_one_job(tmp_path):
    with made(tmp_path, offers(4)) as job, job.locked(), open_job(job.folder) as other:
        with pytest.raises(InputError, match=f"process {os.getpid()} is at work on this job"):
            work(other, opener())
        assert other.counts().rows == 0  # looking is allowed


def test_a_disk_that_is_full_stops_a_job_that_goes_on_later(tmp_path):
    made(tmp_path, offers(400), part=100)._ledger.close()
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\n" + WORKER
    done = subprocess.run(
        [sys.executable, "-c", limited, str(tmp_path / "job")], capture_output=True, text=True, cwd=PROMPTS.parent
    )
    assert "StorageError" in done.stderr and "cannot be written" in done.stderr and "batch resume" in done.stderr
    with open_job(tmp_path / "job") as job:
        assert job.counts().rows < 400
        work(job, opener())
        assert once(job, 400)[1] == []


def test_a_folder_that_is_gone_stops_a_job(tmp_path):
    with made(tmp_path, offers(40)) as job:
        gone = tmp_path / "gone"

        def script(request):
            if job.folder.is_dir() and job.counts().rows == 16:
                job.folder.rename(gone)
            return first_words(request)

        with pytest.raises(StorageError, match="cannot be written"):
            work(job, opener(script))
    gone.rename(tmp_path / "job")
    with open_job(tmp_path / "job") as job:
        work(job, opener())
        once(job, 40)


def test_a_damaged_job_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no manifest\.json, so there is no job"):
        open_job(tmp_path)
    with made(tmp_path, offers(20)) as job:
        work(job, opener())
        part = job.folder / PARTS / "00001.jsonl"
        part.write_bytes(part.read_bytes().replace(b"Brand9", b"Brand0"))
        with pytest.raises(InputError, match=r"00001\.jsonl: changed since it was written"):
            list(job.records())
        part.unlink()
        with pytest.raises(InputError, match="the ledger names it"):
            list(job.records())
        (job.folder / MANIFEST).write_text("{")
        with pytest.raises(InputError, match=r"manifest\.json: broken"):
            open_job(job.folder)


@pytest.mark.model
def test_a_job_in_vllm_goes_on_where_it_was_killed(tmp_path):
    folder, source = tmp_path / "job", str(PROMPTS / "samples" / "catalogue.jsonl")
    common = (sys.executable, "-m", "extractor", "batch")
    arguments = ("run", source, "--schema", str(PROMPTS / "schemas"), "--out", str(folder), "--chunk", "8")
    with subprocess.Popen([*common, *arguments], stderr=subprocess.PIPE, text=True) as process:
        while len(list((folder / PARTS).glob("*.jsonl"))) < 2 and process.poll() is None:
            time.sleep(0.1)
        process.kill()
        assert process.wait() == -signal.SIGKILL, process.stderr.read()
    done = run_cli("batch", "resume", str(folder), timeout=600)
    assert done.returncode == 1 and "72 rows: 71 records" in done.stderr, done.stderr
    with open_job(folder) as job:
        assert len(once(job, 72)[0]) == 71
        assert {r.provenance.engine for r in job.records()} == {"vllm"} and job.counts().cached_tokens > 0
