"""Offers in: JSONL, CSV, Parquet, XLSX, standard input, streamed from here or an object store; and labelled offers."""

import csv
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path, PurePath
from typing import Any

from pydantic import ValidationError

from extractor.dialects import SPOILT, Dialect, dialect
from extractor.errors import InputError, explain
from extractor.pii import masked
from extractor.records import Failure, FailureDetail, FailureReason, LabelledOffer, ProductOffer
from extractor.stores import name_of, opened, reaching, size_of

LONGEST_CELL = 16 << 20  # characters; a quote that nothing closes makes one cell of all that follows
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
_QUOTE = "look for a quote that nothing closes"
csv.field_size_limit(LONGEST_CELL)


def format_of(source: str | Path) -> str | None:
    """One of FORMATS, by the ending."""
    return FORMATS.get(PurePath(name_of(source)).suffix.lower())


@dataclass(frozen=True)
class Columns:
    """What the fields of an offer are called in the input, None for what it does not have."""

    id: str | None = "id"
    title: str = "title"
    description: str | None = "description"
    category: str | None = "category"


class OfferReader:
    """Iterates over the offers of a file or an address (`extractor.stores`), of a workbook over those of its first sheet; a row
    that is no offer is a Failure with its line, and the next row goes on. `size` is in bytes.

    Raises InputError for what concerns the whole file: missing, out of reach, empty, of another format or encoding, without a
    title column. A repeated id is a Failure; ids are remembered as 64-bit hashes, so that a million take about 60 MB. Files
    that are read together share `seen`, and `place` then says which this is, in messages and the ids of rows without one, which
    begin with `prefix`. `mask_pii`: nobody gets to see what `extractor.pii` masks.
    """

    def __init__(
        self,
        source: str | Path,
        columns: Columns | None = None,
        seen: set[int] | None = None,
        prefix: str = "",
        place: str = "",
        mask_pii: bool = False,
    ) -> None:
        self.source, self.columns = source, columns or Columns()
        self.rows = 0
        self._seen: set[int] = set() if seen is None else seen
        self._prefix, self._place, self._mask_pii = prefix + place, place, mask_pii
        self._piped = str(source) == "-"
        self._kind = "jsonl" if self._piped else format_of(source)
        self._done: int | None = None
        self.size = self._whole = 0 if self._piped else size_of(source)
        if self._kind is None:
            raise InputError(f"{source}: unknown format; files end in {', '.join(FORMATS)}, `-` is JSONL")
        if not self._piped and self.size == 0:
            raise InputError(f"{source}: the file is empty")

    @property
    def fraction(self) -> float | None:
        """Share of the input that has been read, if that can be known."""
        return None if self._done is None or not self._whole else min(1.0, self._done / self._whole)

    def __iter__(self) -> Iterator[ProductOffer | Failure]:
        yield from self.one_of_many()
        if self.rows == 0:
            raise InputError(f"{self.source}: there are no offers in it")

    def one_of_many(self) -> Iterator[ProductOffer | Failure]:
        """The same; that there are none is no mistake, for others may have some."""
        readers = {"csv": self._csv, "parquet": self._parquet, "xlsx": self._xlsx}
        read = readers.get(self._kind or "", self._jsonl)
        with reaching(self.source):
            yield from map(masked, read()) if self._mask_pii else read()

    def _jsonl(self) -> Iterator[ProductOffer | Failure]:
        with sys.stdin.buffer if self._piped else opened(self.source) as stream:
            for number, raw in enumerate(stream, 1):
                if not self._piped:
                    self._done = (self._done or 0) + len(raw)
                if number == 1:
                    _refuse_utf16(self.source, raw)
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                if raw.isspace():
                    continue
                self.rows += 1
                try:
                    row = json.loads(raw.decode("utf-8"))
                except UnicodeDecodeError as error:
                    yield self._bad_row(number, f"not UTF-8 at byte {error.start} of the line; save the file as UTF-8")
                except (ValueError, RecursionError) as error:  # also of a number that is too long for Python
                    yield self._bad_row(number, f"not JSON: {str(error).partition(';')[0]}")
                else:
                    if isinstance(row, dict):
                        yield self._offer(number, row)
                    else:
                        yield self._bad_row(number, f"a JSON {type(row).__name__}, not an object")

    def _csv(self) -> Iterator[ProductOffer | Failure]:
        with opened(self.source) as raw:
            written = dialect(raw)
            stream = written.opened(raw)
            rows = self._csv_rows(stream, written)
            if written.announced:
                next(rows)
            number, names, problem = next(rows, (1, [], ""))
            if problem:
                raise InputError(f"{self.source}:{number}: {problem}")
            self._require_title(names)
            for number, cells, problem in rows:
                if not cells:
                    continue
                self.rows += 1
                if problem:
                    yield self._bad_row(number, problem)
                elif len(cells) > len(names):
                    yield self._bad_row(number, f"more fields than the {len(names)} of the header")
                elif any(SPOILT in cell for cell in cells):
                    yield self._bad_row(number, f"not {written.encoded}; save the file as UTF-8")
                else:
                    yield self._offer(number, dict(zip(names, cells, strict=False)))

    def _csv_rows(self, stream: TextIOWrapper, written: Dialect) -> Iterator[tuple[int, list[str], str]]:
        """The line that a row ends in, its cells, and nothing; or the line that it begins in, and what is wrong: that a cell goes
        on to the end of the file, or to a quote that begins another one, and has the rows between in it. `csv` says neither."""
        self._done, last = 0, 0
        inside = unclosed = False

        def lines() -> Iterator[str]:
            nonlocal inside, unclosed
            for line in stream:
                self._done = (self._done or 0) + written.size(line)
                if inside and '"' in line:
                    behind = line.replace('""', "").partition('"')[2].lstrip(" ")
                    unclosed |= behind[:1] not in ("", written.delimiter, "\r", "\n")
                inside = True
                yield line
            unclosed |= inside

        reader = csv.reader(lines(), delimiter=written.delimiter)
        try:
            for cells in reader:
                first, last = last + 1, reader.line_num
                if unclosed:
                    yield first, cells, f"not CSV: a cell has no end up to line {last}; {_QUOTE}"
                else:
                    yield last, cells, ""
                inside = unclosed = False
        except csv.Error as error:
            raise InputError(f"{self.source}:{reader.line_num}: not CSV: {error}; {_QUOTE}") from error

    def _parquet(self) -> Iterator[ProductOffer | Failure]:
        from extractor.parquet import opened_table

        with opened(self.source) as stream, opened_table(self.source, stream) as (self._whole, names, rows):
            self._require_title(names)
            for row in rows(self._wanted(names)):
                self._done = self.rows = self.rows + 1
                yield self._offer(self.rows, row)

    def _wanted(self, names: list[str]) -> list[str]:
        c = self.columns
        return [n for n in (c.id, c.title, c.description, c.category) if n in names]

    def _xlsx(self) -> Iterator[ProductOffer | Failure]:
        from extractor.spreadsheets import opened_sheet

        with opened(self.source) as stream, opened_sheet(self.source, stream) as (self._whole, rows):
            names = [name or "" for name in next(rows)]
            self._require_title(names)
            for self._done, cells in enumerate(rows, 2):
                if any(cells):
                    self.rows += 1
                    yield self._offer(self._done, dict(zip(names, cells, strict=False)))

    def _require_title(self, names: list[str]) -> None:
        if self.columns.title not in names:
            shown = ", ".join(names[:20])
            raise InputError(
                f"{self.source}: no column {self.columns.title!r}; there are {shown}; name it with --title-column"
            )

    def _offer(self, number: int, row: dict[Any, Any]) -> ProductOffer | Failure:
        c = self.columns
        identity = row.get(c.id)
        identity = f"{self._prefix}line-{number}" if identity is None or identity == "" else str(identity)
        if row.get(c.title) is None:
            return self._bad_row(number, f"no {c.title!r}", identity)
        try:
            offer = ProductOffer(
                id=identity,
                title=row[c.title],
                description=row.get(c.description) or None,
                category=row.get(c.category) or None,
            )
        except ValidationError as error:
            return self._bad_row(number, explain(error), identity)
        key = hash(identity)
        if key in self._seen:
            return _failure(
                "duplicate_id", f"{self._place}line {number}: an earlier offer has the id {identity!r}", identity, offer
            )
        self._seen.add(key)
        return offer

    def _bad_row(self, number: int, problem: str, identity: str | None = None) -> Failure:
        identity = identity or f"{self._prefix}line-{number}"
        return _failure("invalid_offer", f"{self._place}line {number}: {problem}", identity)


class RowReader(OfferReader):
    """Iterates over the rows of a file as they are, whatever their columns; `names` are those of its header, where it has one."""

    names: list[str] | None = None

    def _wanted(self, names: list[str]) -> list[str]:
        return names

    def _require_title(self, names: list[str]) -> None:
        self.names = names

    def _offer(self, number: int, row: dict[Any, Any]) -> Any:
        return row


def _refuse_utf16(source: str | Path, start: bytes) -> None:
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{source}: UTF-16; convert it first: iconv -f UTF-16 -t UTF-8 {source}")


def _failure(reason: FailureReason, message: str, identity: str, offer: ProductOffer | None = None) -> Failure:
    # An id from a broken row may hold lone surrogates, which no output encoding takes.
    identity = identity.encode("utf-8", "replace").decode()
    return Failure(
        offer_id=identity,
        category=offer.category if offer else None,
        title=offer.title if offer else None,
        description=offer.description if offer else None,
        failure=FailureDetail(reason=reason, message=message),
    )


def read_labelled(path: Path) -> list[LabelledOffer]:
    """All labelled offers of a JSONL file, or of those of a folder. Raises InputError with the first bad line."""
    if files := sorted(path.glob("*.jsonl")):
        return [offer for file in files for offer in read_labelled(file)]
    if not path.is_file():
        raise InputError(f"{path}: no such file, and no folder with .jsonl files")
    offers = []
    fields = set(LabelledOffer.model_fields)
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
            offers.append(LabelledOffer.model_validate({k: v for k, v in row.items() if k in fields}))
        except (ValueError, AttributeError) as error:
            problem = explain(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{path}:{number}: not a labelled offer: {problem}") from error
    if not offers:
        raise InputError(f"{path}: there are no labelled offers in it")
    return offers
