"""The rows of a workbook's first sheet (.xlsx), from anybody: nothing in it is trusted before it has been looked at.

openpyxl reads the sheet row by row, but takes some parts whole, expands entities, and believes sizes. So a workbook is copied,
unfolded once in blocks and without being kept, and refused where it holds more than a catalogue does, whatever its archive
declares; only then openpyxl sees it.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any
from xml.parsers import expat
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo
from zlib import error as zlib_error

from extractor.errors import InputError

MEMBERS, ROWS, COLUMNS = 10_000, 1 << 20, 1_000
UNFOLDED = 1 << 29  # bytes of all members
RATIO = 100  # of unfolded to packed bytes; a catalogue has 5 to 30
WHOLE = 8 << 20  # bytes that may be in memory at once: a part that is taken whole, or a row, or a string
BLOCK = 1 << 16
ROOTS = {"worksheet": "row", "sst": "si"}  # parts that are read piece by piece, and their pieces
OLD = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # a compound file: .xls, and whatever has a password
_ERRORS = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A")
_ESCAPED = re.compile("_x([0-9A-Fa-f]{4})_")  # how a spreadsheet writes a carriage return, for one
Row = list[str | None]


class _Refused(Exception):
    """Why a workbook is not read."""


@contextmanager
def opened_sheet(source: str | Path, stream: IO[bytes]) -> Iterator[tuple[int, Iterator[Row]]]:
    """How many rows the first sheet says that it has, 0 for unknown, and all of them. Cells are text as a person reads it: whole
    numbers without .0, dates as ISO 8601, of formulas what they gave. Raises InputError, while reading too."""
    with tempfile.TemporaryFile() as file:
        try:
            _copy(stream, file)
            with _Archive(file) as archive:
                _inspect(archive, file.seek(0, 2))
                sheet = _first_sheet(archive)
                declared = sheet.max_row or 0
                # Who writes row by row and does not know yet says A1.
                yield declared if declared > 1 else 0, _rows(sheet)
        except _Refused as refusal:
            raise InputError(f"{source}: {refusal}") from refusal
        except (BadZipFile, zlib_error, EOFError, NotImplementedError) as error:  # the last: an unknown compression
            raise InputError(f"{source}: not a .xlsx workbook, or a broken one: {error}; save it anew") from error


def _copy(stream: IO[bytes], file: IO[bytes]) -> None:
    members, start = 0, b""
    for block in iter(partial(stream.read, 1 << 20), b""):
        start = start or block[: len(OLD)]
        members += block.count(b"PK\x01\x02")  # of the directory, which would be in memory before it can be counted
        file.write(block)
    if start == OLD:
        raise _Refused(
            "an old .xls workbook, or one with a password; open it in a spreadsheet and save it as .xlsx without a password"
        )
    if members > MEMBERS:
        raise _Refused(f"more than {MEMBERS:,} files in its archive; {_ALONE}")


class _Archive(ZipFile):
    """Holds openpyxl to what `_inspect` has found: a large part is read piece by piece, and as what it is."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.roots: dict[str, str] = {}
        self.streamed = ""  # the root of what is opened to be read piece by piece

    def open(self, name: str | ZipInfo, *arguments: Any, **options: Any) -> IO[bytes]:
        info = name if isinstance(name, ZipInfo) else self.getinfo(name)
        if info.file_size > WHOLE and self.roots.get(info.filename) != self.streamed:
            raise _Refused(f"{info.filename} in it is larger than {WHOLE >> 20} MiB; {_ALONE}")
        return super().open(info, *arguments, **options)

    def read(self, name: str | ZipInfo, pwd: bytes | None = None) -> bytes:
        self.streamed = ""
        return super().read(name, pwd)


_ALONE = "copy the rows alone, as values, into a new workbook, or save them as CSV"


def _inspect(archive: _Archive, size: int) -> None:
    infos, most = archive.infolist(), min(UNFOLDED, max(WHOLE, RATIO * size))
    if sum(info.file_size for info in infos) > most:
        raise _Refused(f"unfolds to more than {most >> 20} MiB, which no catalogue of its size does; {_ALONE}")
    left = most
    for info in infos:
        if info.flag_bits & 1:
            raise _Refused("its archive has a password; save it without")
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise _Refused(f"{info.filename} in it is compressed as no spreadsheet does; save it anew")
        content = copy(info)
        content.file_size = 2 * UNFOLDED  # else reading would end at the size that is declared
        with ZipFile.open(archive, content) as member:
            found, archive.roots[info.filename] = _unfold(info.filename, member, left)
        if found != info.file_size:
            raise _Refused(f"{info.filename} in it has another size than its archive says; save it anew")
        left -= found


def _unfold(name: str, member: IO[bytes], left: int) -> tuple[int, str]:
    """Size and root of a part; the latter is empty where it is not XML."""
    size = begun = pieces = 0
    root: str | None = None
    parser: expat.XMLParserType | None = expat.ParserCreate(namespace_separator=" ")

    def start(tag: str, _: object) -> None:
        nonlocal root, begun, pieces
        tag = tag.rpartition(" ")[2]
        root = tag if root is None else root
        if tag == ROOTS.get(root):
            begun, pieces = size, pieces + 1

    def refuse(*_: object) -> None:
        raise _Refused(f"{name} in it declares a document type, as no spreadsheet does; save it anew")

    assert parser is not None
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, refuse
    while block := member.read(BLOCK):
        size += len(block)
        if size > left:
            raise _Refused(f"unfolds to more than its archive says; {_ALONE}")
        if parser:
            try:
                parser.Parse(block)
            except expat.ExpatError:  # an image, or broken: then openpyxl, whose parser this is, gets no further either
                parser = None
        if parser and root in ROOTS and size - begun > WHOLE:
            raise _Refused(f"a {ROOTS[root]} of more than {WHOLE >> 20} MiB in {name}; {_ALONE}")
        if pieces > 4 * ROWS:
            raise _Refused(f"more than {4 * ROWS:,} {ROOTS[root or '']} elements in {name}; {_ALONE}")
    return size, root or ""


def _first_sheet(archive: _Archive) -> Any:
    import warnings

    from openpyxl.reader.excel import ExcelReader
    from openpyxl.styles.stylesheet import apply_stylesheet
    from openpyxl.worksheet._read_only import ReadOnlyWorksheet

    warnings.filterwarnings("ignore", module="openpyxl")  # what it does not know of is nothing to us
    with _understood():
        # load_workbook takes these steps and others, which read all sheets, and parts that nobody needs here.
        reader = ExcelReader(archive.fp, read_only=True, data_only=True, keep_links=False)
        reader.archive = archive
        reader.read_manifest()
        archive.streamed = "sst"
        reader.read_strings()
        reader.read_workbook()
        apply_stylesheet(archive, reader.wb)
        for sheet, part in reader.parser.find_sheets():
            if part.Type.endswith("/worksheet"):
                archive.streamed = "worksheet"
                return ReadOnlyWorksheet(reader.wb, sheet.name, part.target, reader.shared_strings)
    raise _Refused("there is no sheet in it")


def _rows(sheet: Any) -> Iterator[Row]:
    sheet.reset_dimensions()  # or each row would be filled up to the width that the sheet says it has
    with _understood():
        header = list(map(_text, next(sheet.iter_rows(max_row=1, values_only=True), ())))
        if len(header) > COLUMNS:
            raise _Refused(f"its header has {len(header):,} columns, and at most {COLUMNS:,} are read; {_ALONE}")
        yield header
        rows = sheet.iter_rows(min_row=2, max_col=max(1, len(header)), values_only=True)
        for number, row in enumerate(rows, 2):
            if number > ROWS:
                raise _Refused(f"more than {ROWS:,} rows, as no sheet has; {_ALONE}")
            yield list(map(_text, row))


@contextmanager
def _understood() -> Iterator[None]:
    """Around openpyxl, which raises whatever comes of a part that is not as it should be."""
    try:
        yield
    except (_Refused, BadZipFile):
        raise
    except Exception as error:
        raise _Refused(f"a broken workbook: {type(error).__name__}: {error}; save it anew") from error


def _text(cell: Any) -> str | None:
    if isinstance(cell, bool):
        return str(cell).upper()
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else f"{cell:.15g}"
    if isinstance(cell, datetime) and cell.time() == datetime.min.time():
        return cell.date().isoformat()
    if isinstance(cell, date):
        return cell.isoformat()
    if cell is None or cell in _ERRORS:
        return None
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), str(cell))
