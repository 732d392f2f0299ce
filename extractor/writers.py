"""Records out: JSONL, flat CSV or Parquet, streamed to a file or an object store."""

import csv
import io
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

from extractor.errors import InputError
from extractor.io import FORMATS, format_of
from extractor.records import Extraction, Failure
from extractor.stores import created, reaching


class RecordWriter(Protocol):
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def write(self, records: Iterable[Extraction | Failure]) -> None: ...


def open_writer(target: str | Path, attributes: list[str]) -> RecordWriter:
    """A writer by the target's ending; `-` is standard output as JSONL. `attributes` are the columns of the flat forms.

    What was written before an interrupt is a valid file.
    """
    if str(target) == "-":
        return _JsonlWriter(sys.stdout)
    kind = format_of(target)
    if kind is None:
        raise InputError(f"{target}: unknown format; records are written to {', '.join(FORMATS)}, or `-` for JSONL")
    with reaching(target):
        file = created(target)
    if kind == "parquet":
        return _ParquetWriter(file, attributes)
    stream = io.TextIOWrapper(file, encoding="utf-8", newline="")
    return _CsvWriter(stream, attributes) if kind == "csv" else _JsonlWriter(stream)


class _JsonlWriter:
    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self._stream.flush()
            if self._stream is not sys.stdout:
                self._stream.close()

    def write(self, records: Iterable[Extraction | Failure]) -> None:
        self._stream.writelines(record.model_dump_json(by_alias=True) + "\n" for record in records)
        self._stream.flush()


_FIXED = ("offer_id", "category", "title")
_FAILED = ("failure_reason", "failure_message")


def flat_row(record: Extraction | Failure, attributes: list[str]) -> dict[str, str | None]:
    """A record as one row: several values joined by " | "; the normalized form where there is one."""
    row: dict[str, str | None] = {"offer_id": record.offer_id, "category": record.category, "title": record.title}
    if isinstance(record, Failure):
        return row | dict(zip(_FAILED, (record.failure.reason, record.failure.message), strict=True))
    for name in attributes:
        values = record.attributes.get(name, [])
        row[name] = " | ".join(v.normalized_value or v.value for v in values) or None
    return row


class _CsvWriter(_JsonlWriter):
    def __init__(self, stream: IO[str], attributes: list[str]) -> None:
        super().__init__(stream)
        self._attributes = attributes
        self._csv = csv.DictWriter(stream, [*_FIXED, *attributes, *_FAILED])
        self._csv.writeheader()

    def write(self, records: Iterable[Extraction | Failure]) -> None:
        self._csv.writerows(flat_row(record, self._attributes) for record in records)
        self._stream.flush()


class _ParquetWriter:
    def __init__(self, file: io.BufferedWriter, attributes: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._attributes = attributes
        self._schema = pa.schema([(name, pa.string()) for name in [*_FIXED, *attributes, *_FAILED]])
        self._file, self._writer = file, pq.ParquetWriter(file, self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._writer.close()

    def write(self, records: Iterable[Extraction | Failure]) -> None:
        import pyarrow as pa

        rows = [flat_row(record, self._attributes) for record in records]
        self._writer.write_table(pa.Table.from_pylist(rows, schema=self._schema))
