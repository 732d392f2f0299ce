"""The rows of a Parquet file, from anybody: nothing is unfolded before it is known to how much.

A small file unfolds to any size: by what packs well, by a long text that stands there once, in a dictionary, and is every row's,
by rows that take no bytes. Arrow unfolds what a page's own header says, whatever the footer does. So all headers are read before,
and as many rows at once as fit into AT_ONCE.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any

from extractor.errors import InputError

COLUMNS, PAGES, ROWS = 1_000, 1 << 18, 1 << 20
BATCH = 1_024  # rows, at most
FOOTER = 16 << 20  # bytes
AT_ONCE = 128 << 20  # bytes
DICTIONARY = 2  # the kind of page
Table = tuple[int, list[str], Callable[[Sequence[str]], Iterator[dict[str, Any]]]]


_BROKEN = "a broken page in it; write it anew"


class _Refused(Exception):
    """Why a file is not read."""


@contextmanager
def opened_table(source: str | Path, stream: BufferedReader) -> Iterator[Table]:
    """How many rows there are, the names of the columns, without those of lists and the like, and what reads the rows, with some
    of these columns. Raises InputError, while reading too."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        size = _inspect_footer(stream)
        with pq.ParquetFile(stream.raw, pre_buffer=False, buffer_size=1 << 20) as file:
            metadata, schema = file.metadata, file.schema_arrow
            if metadata.num_columns > COLUMNS:
                raise _Refused(f"{metadata.num_columns:,} columns, and at most {COLUMNS:,} are read; leave out others")
            if len(set(schema.names)) < len(schema.names):
                raise _Refused("two columns have the same name; rename one")
            if metadata.num_rows > max(ROWS, size):
                raise _Refused(f"{metadata.num_rows:,} rows in {size:,} bytes, as no catalogue has; write it anew")

            def rows(wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
                left = PAGES
                for number in range(metadata.num_row_groups):
                    left, n = _inspect(stream.raw, metadata.row_group(number), wanted, left)
                    for batch in file.iter_batches(n, row_groups=[number], columns=list(wanted)):
                        for row in _readable(batch).to_pylist():
                            yield {name: _plain(cell) for name, cell in row.items()}

            # What an extension makes of a column is not known.
            flat = [
                f.name for f in schema if not (pa.types.is_nested(f.type) or isinstance(f.type, pa.BaseExtensionType))
            ]
            yield metadata.num_rows, flat, rows
    except _Refused as refusal:
        raise InputError(f"{source}: {refusal}") from refusal
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise InputError(f"{source}: not a Parquet file, or a broken one: {error}") from error


def _readable(batch: Any) -> Any:
    """With times as text: Arrow knows some that Python does not, of far years and of nanoseconds. Those of a zone are in UTC,
    for a zone can have any name."""
    import pyarrow as pa
    from pyarrow.compute import replace_substring_regex

    for place, field in enumerate(batch.schema):
        if pa.types.is_temporal(field.type):
            times = batch.column(place)
            if pa.types.is_timestamp(field.type):
                times = times.cast(pa.timestamp(field.type.unit))
            batch = batch.set_column(place, field.name, replace_substring_regex(times.cast(pa.string()), r"\.0+$", ""))
    return batch


def _plain(cell: Any) -> Any:
    """As a person reads it: whole numbers without .0, and what is text though the file calls it bytes."""
    if isinstance(cell, float) and cell.is_integer():
        return int(cell)
    if isinstance(cell, bytes):
        with suppress(UnicodeDecodeError):
            return cell.decode()
    return cell


def _inspect_footer(stream: BufferedReader) -> int:
    size = stream.seek(0, 2)
    stream.seek(max(0, size - 8))
    footer, mark = int.from_bytes(stream.read(4), "little"), stream.read(4)
    if mark == b"PAR1" and footer > FOOTER:
        raise _Refused(f"its footer has more than {FOOTER >> 20} MiB; write fewer columns, and larger row groups")
    stream.seek(0)
    return size


def _inspect(raw: Any, group: Any, wanted: Sequence[str], left: int) -> tuple[int, int]:
    """How many pages are left to others, and how many rows of the group can be read at once."""
    shared = largest = whole = 0
    stream: BufferedReader = BufferedReader(raw, 1 << 16)  # one of its own, for Arrow moves the file
    for column in (group.column(n) for n in range(group.num_columns)):
        if column.path_in_schema not in wanted:
            continue
        sizes: dict[bool, list[int]] = {True: [0], False: [0]}
        for kind, unfolded in _pages(stream, column):
            left -= 1
            sizes[kind == DICTIONARY].append(unfolded)
            if left < 0:
                raise _Refused(f"more than {PAGES:,} pages, as no catalogue has; write it anew")
        shared, largest, whole = shared + max(sizes[True]), largest + max(sizes[False]), whole + sum(sizes[False])
    stream.detach()
    if shared + largest > AT_ONCE:
        raise _Refused(f"pages of it unfold to more than {AT_ONCE >> 20} MiB; write smaller pages, or CSV")
    # Any of them can have the longest text of the dictionary; the others are there once.
    a_row = shared + (largest if whole > AT_ONCE else 0)
    return left, min(BATCH, AT_ONCE // max(1, a_row))


def _pages(stream: BufferedReader, column: Any) -> Iterator[tuple[int, int]]:
    """Kind and unfolded size of each page of a column, by its own header."""
    at = column.data_page_offset
    if column.has_dictionary_page and 0 < column.dictionary_page_offset < at:
        at = column.dictionary_page_offset
    end = at + column.total_compressed_size
    while at < end:
        stream.seek(at)
        header = _struct(stream)
        kind, unfolded, packed = (header.get(n, -1) for n in (1, 2, 3))
        if min(kind, unfolded, packed) < 0:
            raise _Refused(_BROKEN)
        at = stream.tell() + packed
        yield kind, unfolded


def _struct(stream: BufferedReader, depth: int = 0) -> dict[int, int]:
    """The numbers of a struct in Thrift's compact protocol."""
    numbers, field = {}, 0
    while head := _byte(stream):
        field = field + (head >> 4) if head >> 4 else _number(stream)
        match head & 15:
            case 1 | 2:  # true and false
                pass
            case 3:
                stream.read(1)
            case 4 | 5 | 6:
                numbers[field] = _number(stream)
            case 7:
                stream.read(8)
            case 8:
                stream.seek(_varint(stream), 1)
            case 12 if depth < 4:
                _struct(stream, depth + 1)
            case _:
                raise _Refused(_BROKEN)
    return numbers


def _number(stream: BufferedReader) -> int:
    coded = _varint(stream)
    return (coded >> 1) ^ -(coded & 1)


def _varint(stream: BufferedReader) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = _byte(stream)
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise _Refused(_BROKEN)


def _byte(stream: BufferedReader) -> int:
    if byte := stream.read(1):
        return byte[0]
    raise _Refused("it ends within a page; send it again")
