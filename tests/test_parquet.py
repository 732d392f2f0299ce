"""Parquet files from anybody: their rows are read, and what would take the memory is refused before it does."""

import io
import subprocess
import sys
from datetime import date
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serving import problem, sent

from extractor import Failure, ProductOffer
from extractor.columns import sample
from extractor.errors import InputError
from extractor.io import OfferReader, RowReader


def packed(columns, **options):
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd", **options)
    return file.getvalue()


def shared(size, rows, name="title"):
    """A text of so many bytes that stands in the file once, and is every row's."""
    place = pa.array([0] * rows, pa.int32())
    text = pa.DictionaryArray.from_arrays(place, pa.array(["x" * size]))
    return packed({"id": range(rows), name: text}, store_schema=False, dictionary_pagesize_limit=2 * size)


def lying(content, size):
    """The same, with a footer that says that all is small."""
    for more in range(200):
        said, short = varint(2 * (size + more)), varint(2 * 99, len(varint(2 * size)))
        if said in content[-4_000:]:
            content = content[:-4_000] + content[-4_000:].replace(said, short)
    group = pq.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    assert group.column(1).total_uncompressed_size == 99
    return content


def varint(value, length=0):
    parts = [value >> shift & 127 for shift in range(0, 35, 7)]
    parts = parts[: max(length, 1 + max(i for i, part in enumerate(parts) if part))]
    return bytes([part | 128 for part in parts[:-1]] + parts[-1:])


PLAIN = {"use_dictionary": False}


@pytest.mark.parametrize("options", [{}, PLAIN, {"row_group_size": 100}, {"store_schema": False}])
def test_texts_numbers_and_dates_are_read_whatever_they_are_written_as(write, options):
    n = 3_000
    columns = {
        "id": pa.array(range(n)),
        "title": pa.array([f"Größe {i % 700}" for i in range(n)]),
        "description": pa.array([None if i % 3 else f"warm {i}" for i in range(n)], pa.large_string()),
        "category": pa.array(["Shoes"] * n).dictionary_encode(),
        "price": pa.array([Decimal("9.99")] * n),
        "since": pa.array([date(2026, 11, 26)] * n),
        "none": pa.nulls(n),
        "sizes": [["a"]] * n,
        "odd": pa.array([b"1234"] * n, pa.binary(4)),
    }
    path = write("o.parquet", packed(columns, **options))
    reader = OfferReader(path)
    offers = list(reader)
    assert offers[1_500] == ProductOffer(id="1500", title="Größe 100", description="warm 1500", category="Shoes")
    assert len(offers) == n and reader.fraction == 1 and offers[1].description is None
    seen = sample(path)
    assert seen.columns == ["id", "title", "description", "category", "price", "since", "none", "odd"]
    assert list(seen.rows[0].values()) == ["0", "Größe 0", "warm 0", "Shoes", "9.99", "2026-11-26", "", "1234"]


PLACES = [
    (pa.array([1001.0]), "1001"),
    (pa.array([3.5]), "3.5"),
    (pa.array([float("inf")]), "inf"),
    (pa.array([b"1001"]), "1001"),
    (pa.array(["Größe".encode()]).dictionary_encode(), "Größe"),
    (pa.array([b"\xff"]), "b'\\xff'"),
    (pa.array([1_700_000_000], pa.timestamp("s")), "2023-11-14 22:13:20"),
    (pa.array([1_700_000_000_000_000_001], pa.timestamp("ns")), "2023-11-14 22:13:20.000000001"),
    (pa.array([1], pa.timestamp("us", tz="Mars/Phobos")), "1970-01-01 00:00:00.000001"),
    (pa.array([1_700_000_000_000], pa.timestamp("ms", tz="Europe/Berlin")), "2023-11-14 22:13:20"),
    (pa.array([1], pa.time64("ns")), "00:00:00.000000001"),
    (pa.array([10_000_000], pa.date32()), "29349-01-26"),
    (pa.array([1 << 62], pa.timestamp("us")), f"<value out of range: {1 << 62}>"),
    (pa.array([1 << 62], pa.duration("us")), str(1 << 62)),
]


@pytest.mark.parametrize(("cells", "text"), PLACES, ids=[f"{cells.type} {text}" for cells, text in PLACES])
def test_whatever_a_column_holds_is_shown_and_can_be_an_id(write, monkeypatch, cells, text):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as where it is not installed
    path = write("o.parquet", packed({"title": ["Boot"], "id": cells}))
    assert sample(path).rows == [{"title": "Boot", "id": text}]
    assert list(OfferReader(path)) == [ProductOffer(id=text, title="Boot")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (packed({"id": ["1"], "title": ["x" * (300 << 20)]}, **PLAIN), "unfold to more than 128 MiB"),
        (shared(150 << 20, 4), "pages of it unfold to more than 128 MiB"),
        (lying(shared(150 << 20, 4), 150 << 20), "pages of it unfold to more than 128 MiB"),
        (packed({"title": pa.nulls(2 << 20, pa.string())}), "2,097,152 rows in"),
        (packed({f"c{n}": ["x"] for n in range(1_001)} | {"title": ["x"]}), "1,002 columns"),
        (packed({"title": [["x"]], "id": ["1"]}), "no column 'title'; there are id"),
        (packed({"title": ["x" * 5_000] * 2_000})[:-4] + b"PAR2", "not a Parquet file"),
        (b"PAR1" + b"\0" * 99 + (64 << 20).to_bytes(4, "little") + b"PAR1", "its footer has more than 16 MiB"),
        (b"PAR1" + b"\0" * 99 + (9).to_bytes(4, "little") + b"PAR1", "thrift"),
        (b"PAR1", "not a Parquet file"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_input_error(write, content, message):
    path = write("o.parquet", content)
    for reader in (OfferReader, sample)[: 1 if "'title'" in message else 2]:
        with pytest.raises(InputError, match=message) as caught:
            list(reader(path))
        assert str(path) in str(caught.value)


def test_a_text_that_is_none_is_said(write):
    broken = pa.Array.from_buffers(pa.string(), 1, pa.array([b"gr\xfcn"]).buffers())
    with pytest.raises(InputError, match=r"a broken one: .*utf-8"):
        list(OfferReader(write("o.parquet", packed({"title": broken}))))


READ = """
import resource, sys
from pathlib import Path
from extractor.columns import sample
from extractor.io import OfferReader
import pyarrow.parquet, pyarrow.compute, pydantic
begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sum(len(row.title) for row in OfferReader(Path(sys.argv[1]))))
sample(Path(sys.argv[1]))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begun) >> 10)
"""


def test_a_text_that_is_every_rows_takes_no_more_memory_than_a_few_of_them(write):
    size, rows = 15 << 20, 400
    path = write("o.parquet", shared(size, rows))
    assert path.stat().st_size < 20_000
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, timeout=120, check=True)
    read, mebibytes = map(int, done.stdout.split())
    assert read == size * rows and mebibytes < 700, f"{mebibytes} MiB, of 6 GB"


def test_many_large_texts_are_read_a_few_at_once(write):
    columns = {"title": ["x" * (8 << 20)] * 100}
    path = write("o.parquet", packed(columns, use_dictionary=False, data_page_size=1 << 20, write_batch_size=1))
    done = subprocess.run([sys.executable, "-c", READ, path], capture_output=True, text=True, timeout=120, check=True)
    read, mebibytes = map(int, done.stdout.split())
    assert read == 100 * (8 << 20) and mebibytes < 700, f"{mebibytes} MiB, of 800"


def test_a_bomb_is_refused_and_gone(live):
    before = {p.name for p in live.service.uploads.folder.glob("*")}
    document = problem(sent(live, shared(150 << 20, 1_000), "bomb.parquet"), 422, "file")
    assert "bomb.parquet: pages of it unfold to more than 128 MiB" in document["detail"]
    assert {p.name for p in live.service.uploads.folder.glob("*")} == before


def test_a_column_that_nobody_wants_spoils_nothing(write):
    path = write("o.parquet", shared(150 << 20, 3, "image"))
    with pytest.raises(InputError, match="unfold"):
        list(RowReader(path))
    content = packed({"title": ["Boot"] * 3, "image": pa.array([b"x" * (60 << 20)] * 3)})
    assert [row.title for row in OfferReader(write("p.parquet", content))] == ["Boot"] * 3
    assert not [row for row in OfferReader(path.with_name("p.parquet")) if isinstance(row, Failure)]
