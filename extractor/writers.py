"""Records out: JSONL, flat CSV, XLSX or Parquet, streamed to a file or an object store.

What sellers and models write may begin like a formula, which a spreadsheet would carry out ("CSV injection", as OWASP describes
it). In CSV such a cell, a header too, gets an apostrophe before the sign, and spreadsheets show it as text; a plain number as -5
stays as it is. In XLSX every cell is typed as text and keeps its characters. JSONL and Parquet, which programs read, are exact.
"""

import csv
import io
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

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
    if kind == "xlsx":
        return _XlsxWriter(file, attributes)
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


def _columns(attributes: list[str]) -> list[str]:
    return [*_FIXED, *map(_column, attributes), *_FAILED]


def _column(attribute: str) -> str:
    """One that is called as a column of the offer's own is `attribute title`; of two names none becomes the same."""
    return f"attribute {attribute}" if attribute.rpartition("attribute ")[2] in (*_FIXED, *_FAILED) else attribute


def flat_row(record: Extraction | Failure, attributes: list[str]) -> dict[str, str | None]:
    """A record as one row: several values joined by " | "; the normalized form where there is one."""
    row: dict[str, str | None] = {"offer_id": record.offer_id, "category": record.category, "title": record.title}
    if isinstance(record, Failure):
        return row | dict(zip(_FAILED, (record.failure.reason, record.failure.message), strict=True))
    for name in attributes:
        values = record.attributes.get(name, [])
        row[_column(name)] = " | ".join(v.normalized_value or v.value for v in values) or None
    return row


_SIGN = "[=+\\-@＝＋－＠﹦﹢﹣﹫]"
_UNSEEN = "\\s\x00-\x20\\u00ad\\u200b-\\u200f\\u2060\\ufeff"
# Before the sign a spreadsheet may drop blanks and quotes; one that splits at semicolons or tabs takes what follows for a cell.
_BEGIN = re.compile(f"((?:^|[;\\t\\r\\n])[{_UNSEEN}\"'`,;]*+)({_SIGN})?")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|[.,]\d+)(e[+-]?\d+)?%?", re.ASCII | re.IGNORECASE)


def defused(text: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    if _NUMBER.fullmatch(text):
        return text
    text = _BEGIN.sub(lambda found: f"{found[1]}'{found[2]}" if found[2] else found[1], text)
    return f"'{text}" if text[:1] in ("\t", "\r", "\n") else text


class _CsvWriter(_JsonlWriter):
    def __init__(self, stream: IO[str], attributes: list[str]) -> None:
        super().__init__(stream)
        self._attributes = attributes
        self._columns = _columns(attributes)
        self._csv = csv.writer(stream)
        self._csv.writerow(map(defused, self._columns))

    def write(self, records: Iterable[Extraction | Failure]) -> None:
        rows = (flat_row(record, self._attributes) for record in records)
        self._csv.writerows([defused(row.get(name) or "") for name in self._columns] for row in rows)
        self._stream.flush()


_GROUP, _HELD = 8_192, 32 << 20  # rows of a group; characters that wait for one, for a title can be long


class _ParquetWriter:
    """Row groups are large, for each costs a kilobyte and more in the footer, which a reader takes whole."""

    def __init__(self, file: io.BufferedWriter, attributes: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._attributes = attributes
        self._schema = pa.schema([(name, pa.string()) for name in _columns(attributes)])
        self._file, self._writer = file, pq.ParquetWriter(file, self._schema)
        self._rows: list[dict[str, str | None]] = []
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file, self._writer:
            self._flush()

    def write(self, records: Iterable[Extraction | Failure]) -> None:
        for record in records:
            self._rows.append(row := flat_row(record, self._attributes))
            self._size += sum(len(cell) for cell in row.values() if cell)
            if len(self._rows) == _GROUP or self._size > _HELD:
                self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._size = [], 0


_ROWS, _LENGTH = 1 << 20, 32_767  # that a sheet has, and of a cell's text
_ESCAPE = re.compile("_(?=x[0-9A-Fa-f]{4}_)")  # else a spreadsheet would take it for an escaped character
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


class _XlsxWriter:
    """A cell takes 32,767 characters: a longer text is cut, and ends in …; characters that no XML can hold become �."""

    def __init__(self, file: io.BufferedWriter, attributes: list[str]) -> None:
        from openpyxl import Workbook

        self._attributes, self._columns = attributes, _columns(attributes)
        self._file, self._book = file, Workbook(write_only=True)
        self._sheet = self._book.create_sheet("records")
        self._rows = 1
        self._sheet.append(list(map(self._cell, self._columns)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._file:
            self._book.save(self._file)

    def write(self, records: Iterable[Extraction | Failure]) -> None:
        """Raises InputError where the sheet is full."""
        for record in records:
            if self._rows == _ROWS:
                raise InputError(f"a sheet has at most {_ROWS:,} rows, and those are written; write .csv or .parquet")
            row = flat_row(record, self._attributes)
            self._sheet.append([self._cell(row.get(name)) for name in self._columns])
            self._rows += 1

    def _cell(self, text: str | None) -> Any:
        from openpyxl.cell import WriteOnlyCell

        if not text:
            return None
        text = _ESCAPE.sub("_x005F_", _NO_XML.sub("\ufffd", text))
        cell = WriteOnlyCell(self._sheet, text if len(text) <= _LENGTH else text[: _LENGTH - 1] + "…")
        cell.data_type = "s"  # else what begins with = would be a formula
        if defused(text) != text:
            cell.quotePrefix = True  # it stays text when a person edits it
        return cell
