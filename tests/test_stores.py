"""Object stores: Arrow's S3 client against a server on loopback that speaks the protocol."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_cli

from extractor.batch import files_of
from extractor.errors import InputError
from extractor.io import OfferReader
from extractor.job import open_job
from extractor.records import Failure

WHEN = 1_790_000_000.0
LINE = '{"id": "%s", "title": "Brand%s Loafer"}\n'


class S3(BaseHTTPRequestHandler):
    """Buckets of `key: (content, seconds of its last change)`; lists two keys a page."""

    protocol_version = "HTTP/1.1"
    buckets: dict[str, dict[str, tuple[bytes, float]]]

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        name, _, key = unquote(url.path).lstrip("/").partition("/")
        bucket = self.buckets.get(name)
        if bucket is None or (key and key not in bucket):
            return self.answer(404, _xml("Error", f"<Code>{'NoSuchKey' if bucket else 'NoSuchBucket'}</Code>"))
        if not key:
            return self.answer(200, _listing(bucket, parse_qs(url.query)))
        content, when = bucket[key]
        headers = {"Last-Modified": formatdate(when, usegmt=True), "ETag": '"0"'}
        asked = self.headers.get("Range")
        if asked is None:
            return self.answer(200, content, headers)
        begin, end = map(int, asked.removeprefix("bytes=").split("-"))
        headers["Content-Range"] = f"bytes {begin}-{min(end, len(content) - 1)}/{len(content)}"
        return self.answer(206, content[begin : end + 1], headers)

    do_HEAD = do_GET

    def do_PUT(self) -> None:
        """A part of an upload; one is enough here."""
        name, _, key = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        self.buckets[name][key] = self.rfile.read(int(self.headers["Content-Length"])), WHEN
        self.answer(200, b"", {"ETag": '"0"'})

    def do_POST(self) -> None:
        """The begin of an upload, or its end."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if unquote(self.path).lstrip("/").partition("/")[0] not in self.buckets:
            return self.answer(404, _xml("Error", "<Code>NoSuchBucket</Code>"))
        begin = urlsplit(self.path).query == "uploads"
        word = "InitiateMultipartUploadResult" if begin else "CompleteMultipartUploadResult"
        return self.answer(200, _xml(word, "<UploadId>1</UploadId>" if begin else "<ETag>0</ETag>"))

    def answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _xml(word: str, inner: str) -> bytes:
    return f'<?xml version="1.0"?><{word} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{word}>'.encode()


def _listing(bucket: dict[str, tuple[bytes, float]], query: dict[str, list[str]]) -> bytes:
    prefix, delimiter = query.get("prefix", [""])[0], query.get("delimiter", [""])[0]
    after, entries = query.get("continuation-token", [""])[0], {}
    for key, (content, _) in sorted(bucket.items()):
        if key.startswith(prefix):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if found:
                folder = prefix + head + delimiter
                entries[folder] = f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            else:
                entries[key] = f"<Contents><Key>{escape(key)}</Key><Size>{len(content)}</Size></Contents>"
    rest = [e for e in entries if e > after]
    page = rest[: min(2, int(query.get("max-keys", ["2"])[0]))]
    more = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if len(rest) > len(page) else ""
    return _xml(
        "ListBucketResult",
        f"<KeyCount>{len(page)}</KeyCount><IsTruncated>{'true' if more else 'false'}</IsTruncated>{more}"
        + "".join(entries[e] for e in page),
    )


@contextmanager
def served() -> Iterator[tuple[dict[str, dict[str, tuple[bytes, float]]], str]]:
    """Buckets, and what an address of theirs ends in."""
    handler = type("Handler", (S3,), {"buckets": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield handler.buckets, f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http"
        server.shutdown()
        thread.join()


@pytest.fixture
def store(monkeypatch):
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # else uploads come in chunks of chunks
    }.items():
        monkeypatch.setenv(name, value)
    with served() as (buckets, options):
        buckets["feed"] = {}
        yield buckets["feed"], options


def put(bucket, key: str, content: bytes | str, when: float = WHEN) -> None:
    bucket[key] = content.encode() if isinstance(content, str) else content, when


def test_files_folders_and_globs_of_a_store(store):
    bucket, options = store
    for key in ("a.jsonl", "b/x 1.csv", "b/é?.jsonl", "b/notes.txt", "b/c/d.jsonl", "b/c/e/f.jsonl", "g*.csv"):
        put(bucket, key, "x")

    def found(*sources):
        files = files_of([f"s3://feed{source}{options}" for source in sources])
        assert all(f.startswith("s3://feed/") and f.endswith(options) for f in files)
        assert files_of(files) == files  # as a job's manifest keeps them
        return [f.removeprefix("s3://feed").removesuffix(options) for f in files]

    assert found("/a.jsonl") == found("/a.jsonl", "/a.jsonl") == ["/a.jsonl"]
    assert found("") == found("/") == ["/a.jsonl", "/g%2A.csv"]
    assert found("/b") == found("/b/") == ["/b/x%201.csv", "/b/%C3%A9%3F.jsonl"][::-1]
    assert found("/b/*.jsonl") == ["/b/%C3%A9%3F.jsonl"]
    assert found("/b/c*/*.jsonl", "/a.jsonl") == ["/b/c/d.jsonl", "/a.jsonl"]
    assert found("/b/**/*.jsonl") == ["/b/%C3%A9%3F.jsonl", "/b/c/d.jsonl", "/b/c/e/f.jsonl"]
    assert found("/[!b]*.jsonl") == ["/a.jsonl"] and found("/g%2A.csv") == found("/g%2A*") == ["/g%2A.csv"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://feed/missing.jsonl{}", r"no such file, and no folder or glob"),
        ("s3://feed/*.csv{}", r"no such file, and no folder or glob"),
        ("s3://nowhere/a.jsonl{}", r"there is no 'nowhere'"),
        ("s3://nowhere/*.jsonl{}", r"there is no 'nowhere'"),
        ("s3://feed/a b.jsonl{}", r"Cannot parse URI.*blanks, \* and \? in a name are %20"),
        ("s3://feed/a.jsonl{}&colour=red", r"colour"),
        ("s3://feed/a.jsonl?endpoint_override=127.0.0.1:1&scheme=http", r"connect.*AWS_ACCESS_KEY_ID"),
        ("ftp://host/a.jsonl", r"unknown kind of address; there are file, s3, gs, hdfs"),
        ("hdfs://host:1/a.jsonl", r"it takes Java"),
    ],
)
def test_what_cannot_be_reached_is_an_input_error_that_says_where(store, address, message):
    bucket, options = store
    put(bucket, "a.jsonl", LINE % (1, 1))
    address = address.format(options)
    with pytest.raises(InputError, match=message) as caught:
        files_of([address])
    assert str(caught.value).startswith(address)


def test_a_secret_in_an_address_is_refused_and_not_repeated(store):
    with pytest.raises(InputError, match="has a password") as caught:
        files_of(["s3://key:hush@feed/a.jsonl" + store[1]])
    assert "hush" not in str(caught.value) and "s3://feed/a.jsonl" in str(caught.value)


def test_offers_of_a_store_are_those_of_files(store, tmp_path, monkeypatch):
    monkeypatch.setattr("extractor.stores.BLOCK", 1000)  # many requests, and lines that span them
    bucket, options = store
    pq.write_table(
        pa.table({"id": range(3_000), "title": ["é" * (i % 7) for i in range(3_000)]}), tmp_path / "o.parquet"
    )
    contents = {
        "o.jsonl": "".join(LINE % (i, "é" * (i % 40)) for i in range(300)).encode() + b'{"id": "bad\xff"}\n{',
        "o.csv": b"\xef\xbb\xbfid,title\r\n"
        + b"".join(b'%d,"two\n""lines"""\r\n' % i for i in range(300))
        + b"z,\xff\r\n",
        "o.parquet": (tmp_path / "o.parquet").read_bytes(),
        "w.csv": "id,title\n1,x\n".encode("utf-16"),
        "p.parquet": b"not parquet",
        "n.jsonl": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        put(bucket, name, content)

    def outcome(source):
        try:
            reader = OfferReader(source)
            return list(reader), reader.fraction
        except InputError as error:
            return str(error).replace(str(source), "")

    for name in contents:
        here, there = outcome(tmp_path / name), outcome(f"s3://feed/{name}{options}")
        assert here == there == outcome((tmp_path / name).as_uri())
        assert isinstance(here, str) == (name in ("p.parquet", "n.jsonl")), here
    rows = outcome(f"s3://feed/o.jsonl{options}")[0]
    assert len(rows) == 302 and [isinstance(r, Failure) for r in rows[-2:]] == [True, True]


def test_a_store_that_goes_away_stops_the_reading(store, monkeypatch):
    monkeypatch.setattr("extractor.stores.BLOCK", 1000)
    bucket, options = store
    put(bucket, "a.jsonl", "".join(LINE % (i, i) for i in range(300)))
    rows = iter(OfferReader(f"s3://feed/a.jsonl{options}"))
    next(rows)
    bucket.clear()
    with pytest.raises(InputError, match=r"s3://feed/a.jsonl.*AWS_ACCESS_KEY_ID"):
        list(rows)


def test_a_job_over_a_store_is_refused_where_an_object_changed(store, tmp_path):
    bucket, options = store
    put(bucket, "day/a b.jsonl", LINE % (1, 1) + '{"title": "Brand2 Boot"}\n')
    put(bucket, "day/b.csv", "id,title\n3,Brand3 Boot\n")
    job, common = str(tmp_path / "job"), ("--attributes", "Brand", "--engine", "scripted", "--progress", "none")
    refused = run_cli("batch", "run", f"s3://feed/day{options}", *common, "--out", "s3://feed/job")
    assert refused.returncode == 2 and "s3://feed/job: a job keeps a ledger" in refused.stderr
    done = run_cli("batch", "run", f"s3://feed/day/*{options}", *common, "--out", job)
    assert done.returncode == 0, done.stderr
    with open_job(Path(job)) as opened:
        assert [r.offer_id for r in opened.records()] == ["1", "a b.jsonl:line-2", "3"]
        assert opened.manifest.sources == [f"s3://feed/day/{name}{options}" for name in ("a%20b.jsonl", "b.csv")]
    for target in ("out/records.jsonl", "records.csv", "records.parquet"):
        assert run_cli("batch", "export", job, "--out", f"s3://feed/{target}{options}").returncode == 0
    assert len(bucket["out/records.jsonl"][0].splitlines()) == 3 and bucket["records.csv"][0].count(b"\n") == 4
    assert pq.read_table(pa.BufferReader(bucket["records.parquet"][0])).num_rows == 3
    lost = run_cli("batch", "export", job, "--out", f"s3://nowhere/records.jsonl{options}")
    assert lost.returncode == 2 and "s3://nowhere/records.jsonl" in lost.stderr and "Traceback" not in lost.stderr
    assert run_cli("batch", "resume", job).returncode == 0
    put(bucket, "day/b.csv", "id,title\n3,Brand4 Boot\n", WHEN + 1)  # as long as before
    refused = run_cli("batch", "resume", job)
    assert refused.returncode == 2 and f"the input has changed: s3://feed/day/b.csv{options}" in refused.stderr
    del bucket["day/b.csv"]
    refused = run_cli("batch", "resume", job)
    assert refused.returncode == 2 and "s3://feed/day/b.csv" in refused.stderr and "no such file" in refused.stderr


def test_files_may_be_given_as_addresses(tmp_path):
    (tmp_path / "a b.jsonl").write_text(json.dumps({"title": "x"}))
    plain = [str(tmp_path / "a b.jsonl")]
    assert files_of([(tmp_path / "a b.jsonl").as_uri()]) == files_of([f"file://{tmp_path}/*.jsonl"]) == plain
    assert files_of([tmp_path.as_uri()]) == plain
    with pytest.raises(InputError, match="no such file"):
        files_of([f"file://{tmp_path}/b.jsonl"])
