"""Workbooks from anybody: their rows are read, and what would take memory, time or the reader in is refused before it does."""

import io
import random
import tracemalloc
import zipfile
from contextlib import contextmanager
from datetime import date, datetime

import pytest
from openpyxl import Workbook

from extractor import Failure, ProductOffer
from extractor.errors import InputError
from extractor.io import Columns, OfferReader
from extractor.spreadsheets import COLUMNS, MEMBERS

SHEET, STRINGS, TYPES = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml", "[Content_Types].xml"
MAIN = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
HEADER = '<row r="1"><c t="inlineStr"><is><t>id</t></is></c><c t="inlineStr"><is><t>title</t></is></c></row>'
KIND = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
SHARED = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{KIND}"/></Types>'
SHARING = {TYPES: lambda old: old.replace(b"</Types>", SHARED.encode())}


@contextmanager
def little_memory(most=40 << 20):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """Limits that are reached in a moment."""
    monkeypatch.setattr("extractor.spreadsheets.ROWS", 50_000)
    monkeypatch.setattr("extractor.spreadsheets.UNFOLDED", 48 << 20)


def workbook(*rows):
    book, file = Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)
    book.create_sheet("another").append(["title"])
    book.save(file)
    return file.getvalue()


ROW = f'<row x="{"y" * 55}"/>'


def sheet(rows, before=""):
    return f"{before}<worksheet {MAIN}><sheetData>{HEADER}{rows}</sheetData></worksheet>"


def repacked(changes, method=zipfile.ZIP_DEFLATED):
    """A workbook with these members put in or changed."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(workbook(["id", "title"], ["1", "Loafer"]))) as old,
        zipfile.ZipFile(file, "w", method) as new,
    ):
        for name in dict.fromkeys([*old.namelist(), *changes]):
            change = changes.get(name, lambda content: content)
            new.writestr(name, change(old.read(name)) if callable(change) else change)
    return file.getvalue()


def test_cells_are_read_as_a_person_reads_them(write):
    content = workbook(
        ["sku", "name", "body", "shelf", None, "name"],
        [1001, "ignored", "two\nlines", "Shoes", None, "Velmora Loafer"],
        [2.0, None, None, None, None, 42],
        [],
        [3.5, None, date(2026, 11, 26), datetime(2026, 11, 26, 9, 30), None, 0.1 + 0.2],
        ["4", None, "#N/A", "=1+1", None, True],
        ["4", None, None, None, None, "again"],
        [None, "x", "y", "z", "too", None, "wide"],
    )
    rows = list(OfferReader(write("o.XLSX", content), Columns("sku", "name", "body", "shelf")))
    assert rows[:4] == [
        ProductOffer(id="1001", title="Velmora Loafer", description="two\nlines", category="Shoes"),
        ProductOffer(id="2", title="42"),
        ProductOffer(id="3.5", title="0.3", description="2026-11-26", category="2026-11-26T09:30:00"),
        ProductOffer(id="4", title="TRUE"),  # nobody has calculated the formula
    ]
    assert [(r.offer_id, r.failure.reason) for r in rows[4:]] == [("4", "duplicate_id"), ("line-8", "invalid_offer")]
    assert rows[5].failure.message == "line 8: no 'name'"


@pytest.mark.parametrize(("declared", "shares"), [("A1:XFD4", [0.5, 0.75, 1]), ("A1", [None] * 3), ("A1:B2", [1] * 3)])
def test_shared_strings_and_the_share_that_is_read(write, declared, shares):
    strings = f"<sst {MAIN}><si><t>title</t></si><si><r><t>Velmora </t></r><r><t>_x000D_Loafer</t></r></si></sst>"
    rows = "".join(f'<row r="{n}"><c r="B{n}" t="s"><v>{int(n > 1)}</v></c></row>' for n in range(1, 5))
    body = f'<worksheet {MAIN}><dimension ref="{declared}"/><sheetData>{rows}</sheetData></worksheet>'
    reader = OfferReader(write("o.xlsx", repacked({SHEET: body, STRINGS: strings, **SHARING})))
    found = [(row.id, row.title, reader.fraction) for row in reader]
    assert found == [(f"line-{n}", "Velmora \rLoafer", share) for n, share in zip((2, 3, 4), shares, strict=True)]


MANY = f'<!DOCTYPE x [<!ENTITY a "{"b" * 9_999}">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"id,title\n1,x\n", "not a .xlsx workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(3_000), "an old .xls workbook, or one with a password"),
        (workbook(["id", "title"], ["1", "x"])[:-300], "not a .xlsx workbook"),
        (workbook(["id", "name"], ["1", "x"]), "no column 'title'; there are id, name; name it with --title-column"),
        (workbook(["id", "title"]), "there are no offers in it"),
        (workbook(), "no column 'title'"),
        (repacked({SHEET: sheet("<row><c")}), "a broken workbook: ParseError"),
        (repacked({SHEET: sheet('<row><c t="s"><v>5</v></c></row>')}), "a broken workbook: IndexError"),
        (repacked({TYPES: b"<Types/>"}), "a broken workbook"),
        (repacked({"xl/workbook.xml": f"<workbook {MAIN}/>"}), "there is no sheet in it"),
        (repacked({SHEET: sheet("", MANY)}), "declares a document type"),
        (repacked({"docProps/core.xml": '<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>'}), "declares a document type"),
        (repacked({SHEET: sheet("", MANY).encode("utf-16")}), "declares a document type"),
        (repacked({"a": bytes(20 << 20)}), "unfolds to more than 8 MiB"),
        (repacked({"a": bytes(48 << 20)}, zipfile.ZIP_STORED), "unfolds to more than 48 MiB"),
        (repacked({}, zipfile.ZIP_BZIP2), "is compressed as no spreadsheet does"),
        (repacked({f"a{n}": "" for n in range(MEMBERS)}), "more than 10,000 files in its archive"),
        (workbook([f"c{n}" for n in range(COLUMNS)] + ["title"], ["x"]), "its header has 1,001 columns"),
        (repacked({SHEET: sheet(f'<row r="{10**15}"><c t="str"><v>x</v></c></row>')}), "more than 50,000 rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_an_input_error(write, content, message):
    path = write("o.xlsx", content)
    with pytest.raises(InputError) as caught:
        list(OfferReader(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def lying(content, name, **fields):
    """The same archive; its directory says something else of one member, with the fitting checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        info, data = archive.getinfo(name), bytearray(content)
        at = content.index(b"PK\x01\x02")
        while data[at + 46 : at + 46 + len(name)] != name.encode():
            at = content.index(b"PK\x01\x02", at + 1)
    for field, value in fields.items():
        offset, length = {"flags": (8, 2), "crc": (16, 4), "size": (24, 4)}[field]
        for place in (at + offset, info.header_offset + offset - 2):
            data[place : place + length] = value.to_bytes(length, "little")
    return bytes(data)


def test_sizes_that_lie_are_found_before_anything_is_kept(write):
    bomb = repacked({TYPES: b"<Types/>" + b" " * (200 << 20)})
    crc = zipfile.crc32(b"<Types/>")
    for content, message in [
        (lying(bomb, TYPES, size=8, crc=crc), "unfolds to more than its archive says"),
        (lying(repacked({TYPES: b"<Types/>  "}), TYPES, size=8, crc=crc), "Bad CRC-32"),
        (lying(repacked({TYPES: b"<Types/>  "}), TYPES, size=8), "has another size than its archive says"),
        (lying(repacked({}), TYPES, flags=1), "its archive has a password"),
    ]:
        with little_memory(), pytest.raises(InputError, match=message):
            list(OfferReader(write("o.xlsx", content)))


def noise(n):
    """Bytes that do not pack, as a member of a workbook that must not look like a bomb."""
    return random.Random(1).randbytes(n)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {SHEET: sheet("<row>" + ROW.replace("row", "c") * 150_000 + "</row>")},
            "a row of more than 8 MiB in xl/worksheets/sheet1.xml",
        ),
        ({SHEET: sheet("<row/>" * 200_001)}, "more than 200,000 row elements"),
        ({STRINGS: f"<sst {MAIN}><si><t>{'x' * (9 << 20)}</t></si></sst>", **SHARING}, "a si of more than 8 MiB"),
        ({STRINGS: sheet(ROW * 150_000), **SHARING}, "sharedStrings.xml in it is larger than 8 MiB"),
        ({SHEET: f"<sst {MAIN}>{ROW.replace('row', 'si') * 150_000}</sst>"}, "sheet1.xml in it is larger than 8 MiB"),
        ({"xl/styles.xml": sheet(ROW * 150_000)}, "styles.xml in it is larger than 8 MiB"),
        ({"xl/workbook.xml": f"<workbook>{ROW * 150_000}</workbook>"}, "workbook.xml in it is larger than 8 MiB"),
    ],
)
def test_no_part_fills_the_memory(write, changes, message):
    path = write("o.xlsx", repacked(changes | {"xl/media/image1.png": noise(1 << 20)}))
    with little_memory(), pytest.raises(InputError, match=message):
        list(OfferReader(path))


def test_many_rows_take_little_memory(write):
    cell = '<c t="inlineStr"><is><t>Velmora {} suede loafer, tan, EU 42' + " of Italian leather" * 50 + "</t></is></c>"
    rows = "".join(f'<row r="{n}">{cell.format(-n)}{cell.format(n * 7919)}</row>' for n in range(2, 5_002))
    path = write("o.xlsx", repacked({SHEET: sheet(rows), "xl/media/image1.png": noise(200_000)}))
    with little_memory(3 << 20):
        assert sum(not isinstance(row, Failure) for row in OfferReader(path)) == 5_000
