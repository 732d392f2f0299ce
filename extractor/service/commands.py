"""Commands of the command line that the service runs, each in a process of its own at low priority.

log         what they said
printed     what the last one printed
lock        held by the service that is at work in the folder
process     held by the command, which outlives a service that is killed; its process
"""

import fcntl
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import TextIO

from extractor.config import Settings, kept
from extractor.errors import ConflictError, InputError
from extractor.service.engine import Stopped

LOG, PRINTED = "log", "printed"
NICE = 10
TICK, GRACE = 0.5, 10.0  # seconds between two looks at a command; until one that does not stop is killed
_STEP = re.compile(rb"step (\d+)/(\d+)")
_ERROR = re.compile(r"^error: ", re.MULTILINE)


class Killed(InputError):
    """By somebody else: it may go on where it was."""


@contextmanager
def alone(place: Path, stop: Event) -> Iterator[TextIO]:
    """What commands in the folder hold. Ends one that has outlived its service. Raises ConflictError where another service is at
    work, Stopped."""
    with (place / "lock").open("a") as lock, (place / "process").open("a+") as held:
        if not _locked(lock):
            raise ConflictError(f"{place}: another service is at work")
        while not _locked(held):
            held.seek(0)
            if pid := held.read():
                _end(int(pid), signal.SIGKILL)
            if stop.wait(TICK):
                raise Stopped
        yield held


def environment(settings: Settings) -> dict[str, str]:
    """That of commands which ask as the service does: without the adapters that serve, and without secrets but the engine's."""
    asked = {
        name: value for name, value in kept(settings).items() if name not in ("adapter", "adapters", "calibration")
    }
    if settings.api_key:
        asked["api_key"] = settings.api_key
    others = {name: value for name, value in os.environ.items() if not name.startswith("SHELFWISE_")}
    return others | {f"SHELFWISE_{name.upper()}": str(value) for name, value in asked.items()}


def run(
    command: Sequence[str],
    place: Path,
    environment: Mapping[str, str],
    held: TextIO,
    stop: Event,
    progress: Callable[[dict[str, int]], None],
) -> None:
    """To its end; `progress` hears of its last step, and of how many. Raises InputError with what a command that failed said, and
    Stopped once it has ended, with all processes that it began."""
    with (place / LOG).open("a+b") as said, (place / PRINTED).open("wb") as printed:
        begin = said.seek(0, os.SEEK_END)
        held.truncate(0)
        process = subprocess.Popen(
            command,
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=said,
            start_new_session=True,
            pass_fds=[held.fileno()],
        )
        try:
            held.write(str(process.pid))
            held.flush()
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PGRP, process.pid, NICE)
            told: dict[str, int] | None = None
            while process.poll() is None:
                said.seek(begin)
                steps = _STEP.findall(said.read())
                now = {"step": int(steps[-1][0]), "steps": int(steps[-1][1])} if steps else {}
                if now != told:
                    progress(now)
                    told = now
                if stop.wait(TICK):
                    raise Stopped
        finally:
            if process.poll() is None:
                _end(process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE)
                _end(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode < 0:
            raise Killed(f"its process was killed (signal {-process.returncode}), perhaps for want of memory")
        if process.returncode:
            said.seek(begin)
            last = _ERROR.split(said.read().decode(errors="replace"))[-1][-1_000:].strip()
            raise InputError(last or f"its process ended with status {process.returncode}")


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _end(group: int, how: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, how)
