"""Files here, and objects at `s3://`, `gs://` and `hdfs://` addresses, through Arrow.

    s3://bucket/feed/*.jsonl?region=eu-central-1

An address is percent-encoded, so a key with a blank, `*` or `?` in it has %20, %2A or %3F there. Behind the `?` stands what
Arrow's `FileSystem.from_uri` takes: `region`, `endpoint_override`, `scheme`, …; credentials stand in the environment.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from extractor.errors import InputError

STORES = {
    "s3": "credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from ~/.aws, or from the machine's role",
    "gs": "credentials come from GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "hdfs": "it takes Java: JAVA_HOME, HADOOP_HOME and CLASSPATH=$(hadoop classpath --glob)",
}
BLOCK = 8 << 20  # bytes of one request


def local(source: str | Path) -> Path | None:
    """The path of a file here, which may be given as `file://`; None for one elsewhere."""
    if isinstance(source, Path) or "://" not in source:
        return Path(source)
    parts = urlsplit(source)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def path_of(source: str | Path) -> str:
    """Of a file here, or an address without what stands behind the `?`, as text."""
    path = local(source)
    return unquote(str(source).partition("?")[0]) if path is None else str(path)


def name_of(source: str | Path) -> str:
    return (local(source) or PurePosixPath(unquote(urlsplit(str(source)).path))).name


def files_at(address: str, endings: tuple[str, ...]) -> list[str]:
    """The addresses of a file, of a folder's files with these endings, or of a glob (`*`, `**/`, `[ab]`), in order. Raises
    InputError."""
    from pyarrow.fs import FileSelector, FileType

    bare, mark, options = address.partition("?")
    wild = re.search(r"[*[]", bare)
    folder = (bare[: bare.rfind("/", 0, wild.start())] if wild else bare).rstrip("/")
    with reaching(address):
        store, root = _store(folder + mark + options)
        if not wild and store.get_file_info(root).type == FileType.File:
            return [address]
        infos = store.get_file_info(FileSelector(root, allow_not_found=True, recursive=wild is not None))
        if not infos and store.get_file_info(bucket := root.split("/")[0]).type == FileType.NotFound and bucket:
            raise InputError(f"{address}: there is no {bucket!r}; look at the name, and at the region")
    names = sorted(quote(i.path[len(root) :].lstrip("/")) for i in infos if i.type == FileType.File)
    pattern = _pattern(bare[len(folder) + 1 :]) if wild else None
    chosen = (n for n in names if (pattern.fullmatch(n) if pattern else n.lower().endswith(endings)))
    return [f"{folder}/{n}{mark}{options}" for n in chosen]


def _pattern(glob: str) -> re.Pattern[str]:
    """`*` stays within a folder, `**/` is any number of them."""
    wild = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    parts = re.split(r"(\*\*/|\*\*|\*|\[[^]/]+\])", glob)
    return re.compile(
        "".join(wild.get(p, p.replace("[!", "[^") if p[:1] == "[" else re.escape(quote(unquote(p)))) for p in parts)
    )


def size_of(source: str | Path) -> int:
    """In bytes. Raises InputError where there is no such file."""
    path = local(source)
    if path is None:
        return int(_info(str(source)).size)
    if not path.is_file():
        raise InputError(f"{source}: no such file")
    return path.stat().st_size


def version_of(address: str) -> str:
    """What an object elsewhere is known by without being read: its size, and when it was written, to the second."""
    info = _info(address)
    return f"{info.size} bytes of {info.mtime.isoformat(timespec='seconds')}"


def opened(source: str | Path) -> io.BufferedReader:
    """Raises InputError, or an OSError that is for `reaching`."""
    path = local(source)
    if path is not None:
        return path.open("rb")
    store, at = _store(str(source))
    return io.BufferedReader(store.open_input_file(at), BLOCK)


def created(target: str | Path) -> io.BufferedWriter:
    """For writing, with the folders above. Errors are those of `opened`."""
    path = local(target)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    store, at = _store(str(target))
    return io.BufferedWriter(store.open_output_stream(at), BLOCK)


@contextmanager
def reaching(source: str | Path) -> Iterator[None]:
    """What goes wrong with a file or its store is an InputError that says where, and what to do."""
    try:
        yield
    except OSError as error:
        hint = STORES.get(urlsplit(str(source)).scheme, "")
        reason = error.strerror or str(error).splitlines()[0]  # without Java, Arrow tells of 80 places where it is not
        raise InputError(f"{source}: {reason}" + f"; {hint}" * bool(hint)) from error


def _info(address: str) -> Any:
    from pyarrow.fs import FileType

    with reaching(address):
        store, at = _store(address)
        info = store.get_file_info(at)
    if info.type != FileType.File:
        raise InputError(f"{address}: no such file")
    return info


def _store(address: str) -> tuple[Any, str]:
    """Arrow's file system for an address, and the path in it."""
    from pyarrow import ArrowInvalid
    from pyarrow.fs import FileSystem

    parts = urlsplit(address)
    if parts.scheme not in STORES:
        raise InputError(f"{address}: unknown kind of address; there are file, {', '.join(STORES)}")
    if parts.password:
        place = address.replace(f"{parts.username}:{parts.password}@", "")
        raise InputError(f"{place}: has a password, which jobs would keep; {STORES[parts.scheme]}")
    known = address
    # Left to itself, the client tries for 15 minutes.
    if parts.scheme == "gs" and "retry_limit_seconds=" not in parts.query:
        known += f"{'&' if parts.query else '?'}retry_limit_seconds=60"
    try:
        store, path = FileSystem.from_uri(known)
    except ArrowInvalid as error:
        raise InputError(f"{address}: {error}; blanks, * and ? in a name are %20, %2A and %3F") from error
    return store, path
