"""A PostgreSQL of the tests' own: a cluster in a temporary folder, on a socket there and no port."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from conftest import missing

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/initdb"), default=None)
USER = "postgres"


@contextmanager
def cluster() -> Iterator[str]:
    """The address of an empty database on a running server."""
    if PROGRAMS is None:
        missing(
            "no /usr/lib/postgresql/*/bin/initdb: the store was not tried on PostgreSQL (apt-get install postgresql)"
        )
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    root = os.geteuid() == 0  # whom initdb refuses
    if root:
        shutil.chown(folder, USER)

    def run(program: str, *arguments: str) -> None:
        su = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"] if root else []
        command = [*su, str(PROGRAMS.with_name(program)), "-D", str(folder / "data"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    try:
        run("initdb", "-U", USER, "-A", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C.UTF-8")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "--wait", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql+psycopg://{USER}@/{USER}?host={folder}"
        finally:
            run("pg_ctl", "--wait", "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
