import csv
import io
import json
import re
import time
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import HOSTILE, HOSTILE_SCHEMA
from openpyxl import load_workbook

from extractor import AttributeSchema, Extractor, Failure, ProductOffer, create_engine
from extractor.errors import InputError
from extractor.io import Columns, OfferReader, _failure, read_labelled
from extractor.writers import defused, open_writer

GOOD = '{"id": "1", "title": "Velmora Loafer", "category": "Shoes"}\n'


def failures(path, columns=None):
    rows = list(OfferReader(path, columns))
    return [(r.offer_id, r.failure.reason, r.failure.message) for r in rows if isinstance(r, Failure)], rows


@pytest.mark.parametrize(
    ("line", "identity", "reason", "message"),
    [
        (b"{not json}", "line-2", "invalid_offer", "line 2: not JSON"),
        (b'["a"]', "line-2", "invalid_offer", "line 2: a JSON list"),
        (b'{"id": "7"}', "7", "invalid_offer", "line 2: no 'title'"),
        (b'{"id": "7", "title": ""}', "7", "invalid_offer", "line 2: the offer has no text"),
        (b'{"id": "7", "title": 5}', "7", "invalid_offer", "line 2: title"),
        (b'{"id": "7", "title": "\\ud800"}', "7", "invalid_offer", "line 2: title: half a surrogate"),
        (b'{"id": "1", "title": "again"}', "1", "duplicate_id", "line 2: an earlier offer"),
        (b'{"id": "7", "title": "gr\xfcn"}', "line-2", "invalid_offer", "line 2: not UTF-8 at byte 24"),
        (b"[" * 100_000, "line-2", "invalid_offer", "line 2: not JSON"),
        (b'{"title": "x", "gtin": ' + b"1" * 5_000 + b"}", "line-2", "invalid_offer", "line 2: not JSON: Exceeds"),
    ],
)
def test_a_bad_line_is_a_failure_and_the_next_one_goes_on(write, line, identity, reason, message):
    path = write("o.jsonl", GOOD.encode() + line + b"\n\n" + b'{"id": 9, "title": "last"}')
    found, rows = failures(path)
    assert len(found) == 1 and len(rows) == 3
    assert found[0][:2] == (identity, reason)
    assert message in found[0][2]
    assert rows[0].category == "Shoes" and rows[-1].id == "9"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.jsonl", None, "no such file"),
        ("o.docx", b"x", "unknown format"),
        ("o.jsonl", b"", "is empty"),
        ("o.jsonl", b"\n\n", "no offers"),
        ("o.csv", b"id,title\n", "no offers"),
        ("o.csv", b"id,name\n1,x\n", "no column 'title'; there are id, name; name it with --title-column"),
        ("o.jsonl", GOOD.encode("utf-16"), "UTF-16; convert it first: iconv"),
        ("o.parquet", b"not parquet", "not a Parquet file"),
    ],
)
def test_what_spoils_a_whole_file_is_an_input_error(write, tmp_path, name, content, message):
    path = write(name, content) if content is not None else tmp_path / name
    with pytest.raises(InputError) as caught:
        list(OfferReader(path))
    assert message in str(caught.value) and str(path) in str(caught.value)


def test_csv_takes_quotes_newlines_other_columns_and_bad_bytes(write):
    text = b'\xef\xbb\xbfsku,name,body,shelf\nA,"two ""inch""\nmark",,\xc3\x9c\nB,gr\xfcn,,\nC,x,y,z,0\nD,,,\n,last,text,Hats\n'
    found, rows = failures(write("o.csv", text), Columns("sku", "name", "body", "shelf"))
    assert rows[0] == ProductOffer(id="A", title='two "inch"\nmark', category="Ü")
    assert [(identity, message) for identity, _, message in found] == [
        ("line-4", "line 4: not UTF-8; save the file as UTF-8"),
        ("line-5", "line 5: more fields than the 4 of the header"),
        ("D", "line 6: the offer has no text: title and description are empty"),
    ]
    assert rows[-1].id == "line-7" and rows[-1].description == "text"


def test_parquet_in(tmp_path):
    path = tmp_path / "o.parquet"
    pq.write_table(pa.table({"id": [1, 2], "title": ["a", None], "price": [1.5, 2.5]}), path)
    found, rows = failures(path)
    assert rows[0] == ProductOffer(id="1", title="a")
    assert found == [("2", "invalid_offer", "line 2: no 'title'")]


def records():
    extractor = Extractor(create_engine("scripted"), AttributeSchema.from_names(["Brand", "Color"]))
    offers = [ProductOffer(id="1", title='Velmora, "x"\ny'), ProductOffer(id="2", title="שלום 👟")]
    return [*extractor.extract(offers), OfferReader("-")._bad_row(3, "no 'title'")]


def cells(path):
    """Header and rows of a workbook, as openpyxl's cells."""
    return [list(row) for row in load_workbook(path).active.iter_rows()]


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "xlsx"])
def test_records_out(tmp_path, ending):
    path = tmp_path / "deep" / f"r.{ending}"
    with open_writer(path, ["Brand", "Color"]) as writer:
        writer.write(records()[:1])
        writer.write(records()[1:])
    if ending == "jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert rows[0]["attributes"]["Brand"][0]["value"] == "Velmora,"
        assert rows[1]["attributes"]["Color"] == [] and rows[1]["provenance"]["schema"].startswith("any@")
        assert rows[2]["failure"] == {"reason": "invalid_offer", "message": "line 3: no 'title'"}
        return
    if ending == "csv":
        rows = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
    elif ending == "xlsx":
        header, *found = cells(path)
        rows = [{h.value: c.value or "" for h, c in zip(header, row, strict=True)} for row in found]
    else:
        rows = [{k: v or "" for k, v in row.items()} for row in pq.read_table(path).to_pylist()]
    assert [r["Brand"] for r in rows] == ["Velmora,", "שלום", ""]
    assert rows[2]["failure_reason"] == "invalid_offer"
    assert list(rows[0]) == ["offer_id", "category", "title", "Brand", "Color", "failure_reason", "failure_message"]


def table(path):
    """Header and rows of records out, whatever they are written as."""
    if path.suffix == ".parquet":
        found = pq.read_table(path)
        return found.column_names, [list(row.values()) for row in found.to_pylist()]
    if path.suffix == ".xlsx":
        header, *rows = ([cell.value for cell in row] for row in cells(path))
        return header, rows
    header, *rows = csv.reader(io.StringIO(path.read_text(), newline=""))
    return header, [[cell or None for cell in row] for row in rows]


@pytest.mark.parametrize("ending", ["csv", "parquet", "xlsx"])
def test_an_attribute_may_be_called_as_what_an_offer_has(tmp_path, ending):
    names = ["title", "attribute title", "category", "failure_reason", "Title"]
    record = records()[0]
    (value,) = record.attributes["Brand"]
    values = {name: [value.model_copy(update={"value": name.upper()})] for name in names}
    with open_writer(tmp_path / f"r.{ending}", names) as writer:
        writer.write([record.model_copy(update={"attributes": values, "title": "Loafer"})])
    header, (row,) = table(tmp_path / f"r.{ending}")
    assert header[:6] == [
        *("offer_id", "category", "title", "attribute title", "attribute attribute title", "attribute category")
    ]
    assert header[6:] == ["attribute failure_reason", "Title", "failure_reason", "failure_message"]
    assert row == ["1", None, "Loafer", *map(str.upper, names), None, None]


def test_records_one_by_one_make_few_row_groups_that_fit_into_memory(tmp_path):
    path = tmp_path / "r.parquet"
    short, long = (_failure("invalid_offer", "", "1", ProductOffer(id="1", title="x" * n)) for n in (9, 16 << 20))
    with open_writer(path, ["Brand"]) as writer:
        for failure in [short] * 10_000 + [long] * 2 + [short] * 3:
            writer.write([failure])
    metadata = pq.ParquetFile(path).metadata
    assert [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)] == [8_192, 1_810, 3]
    assert len(list(OfferReader(path, Columns("offer_id")))) == 10_005


FORMULAS = [
    *["=1+1", "+1+1", "-1+1", "@SUM(1)", "=cmd|' /C calc'!A0", "-2+3+cmd|' /C calc'!A0", '=HYPERLINK("http://a.b","c")'],
    *["＝1+1", "＋1", "－x", "＠SUM(1)", "\t=1", "\r=1", "\n=1", "\tx", "\rx"],
    *[" =1", "\u00a0=1", "\u200b=1", "\ufeff=1", "\x00=1"],
    *['"=1', "'=1", '""=1', "`=1", ",=1", ' ", =1', ";=1", "x;=1", "x;  '=1", "x\t@a", "x\n=1", "x\r\n+a", "-5 cm"],
    *["+49 30", "-", "--"],
]  # fmt: skip
PLAIN = [
    *["-5", "+3.5", "-1,234.50", "-0.5%", "-.5", "+1e-5", "5W-30", "a=b", "x@y.z", "T-Shirt", "Red, -x", "a, =b", "", "'s", " x"],
    *["5; 6", "10 - 20", "Tarn & Holt", '27"', "中文", "−5"],
]  # fmt: skip


@pytest.mark.parametrize("text", FORMULAS)
def test_formulas_in_csv_become_text(text):
    safe = defused(text)
    assert safe.replace("'", "") == text.replace("'", "") and len(safe) > len(text)
    for cell in re.split("[;\t\r\n]", safe):  # in whatever way a spreadsheet splits and trims it
        assert not re.match("[=+@＝＋－＠-]", cell.strip(" \"'`,\u00a0\u200b\ufeff\x00")) or "'" in cell
    assert not re.match("[\t\r\n=+@＝＋－＠-]", safe)


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_in_csv_stays_as_it_is(text):
    assert defused(text) == text


def test_defusing_takes_time_by_length_alone():
    for run in (";", " ", "\t", '"', "'", "; ", "=;"):
        started = time.perf_counter()
        defused(run * 200_000)
        assert time.perf_counter() - started < 2


def formulas():
    """Records whose every cell is a formula, and the attribute's name."""
    name, text = "@Brand", "=1+1"
    extractor = Extractor(create_engine("scripted"), AttributeSchema.from_names([name]))
    found = extractor.extract([ProductOffer(id=text, title=text, category=text)])
    assert found[0].attributes[name][0].value == text
    return name, [*found, _failure("invalid_offer", text, text, ProductOffer(id=text, title=text, category=text))]


def test_no_export_holds_a_formula(tmp_path):
    name, found = formulas()
    for ending in ("csv", "xlsx", "parquet", "jsonl"):
        with open_writer(tmp_path / f"r.{ending}", [name]) as writer:
            writer.write(found)
    assert (tmp_path / "r.csv").read_bytes() == (
        b"offer_id,category,title,'@Brand,failure_reason,failure_message\r\n"
        b"'=1+1,'=1+1,'=1+1,'=1+1,,\r\n'=1+1,'=1+1,'=1+1,,invalid_offer,'=1+1\r\n"
    )
    assert b"<f>" not in (content := zipfile.ZipFile(tmp_path / "r.xlsx").read("xl/worksheets/sheet1.xml"))
    assert content.count(b't="inlineStr"') == 6 + 4 + 5
    for row in cells(tmp_path / "r.xlsx"):
        for cell in row:
            # openpyxl takes inline text that begins with = for text; the prefix keeps it text when it is edited.
            assert cell.value is None or (cell.data_type == "s" and cell.quotePrefix == (cell.value[0] in "=@"))
    assert pq.read_table(tmp_path / "r.parquet").to_pylist()[0][name] == "=1+1"
    assert json.loads((tmp_path / "r.jsonl").read_text().splitlines()[0])["title"] == "=1+1"


def test_a_workbook_holds_whatever_sellers_write(tmp_path):
    path, long = tmp_path / "r.xlsx", ProductOffer(id="long", title="x" * 40_000, category="Hostile")
    escaped = ProductOffer(id="escaped", title="a_x0041_b _x_", category="Hostile")
    offers = [*HOSTILE, long, escaped, ProductOffer(id="\uffff", title="#N/A", category="Hostile")]
    with open_writer(path, ["Brand", "Color", "Size"]) as writer:
        writer.write(Extractor(create_engine("scripted"), HOSTILE_SCHEMA).extract(offers))
    found = list(OfferReader(path, Columns(id="offer_id")))
    assert [row.title for row in found if row.model_dump().get("id") == "long"] == ["x" * 32_766 + "…"]
    told = {row.id: row.title for row in found if isinstance(row, ProductOffer)}
    for offer in (*HOSTILE, escaped):
        assert told[offer.id].split() == re.sub("[\x00-\x08\x0e-\x1f]", "\ufffd", offer.title).split()
    assert [row.offer_id for row in found if isinstance(row, Failure)] == [
        "\ufffd"
    ]  # what says that it is an error is none


def test_a_sheet_that_is_full_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("extractor.writers._ROWS", 3)
    with pytest.raises(InputError, match=r"at most 3 rows.*write \.csv or \.parquet"):  # noqa: SIM117
        with open_writer(tmp_path / "r.xlsx", []) as writer:
            writer.write(records())
    assert len(cells(tmp_path / "r.xlsx")) == 3


def test_an_unknown_or_unwritable_target_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "r.docx", tmp_path / "file" / "r.jsonl"):
        with pytest.raises(InputError):
            open_writer(target, [])


def test_labelled_offers_name_the_bad_line(write):
    good = '{"id": "1", "title": "a", "attributes": {"Brand": ["a"]}, "lang": "en"}\n'
    assert read_labelled(write("d.jsonl", good))[0].attributes == {"Brand": ["a"]}
    for bad in ('{"id": "1", "title": "a"}', "x", "[]"):
        with pytest.raises(InputError, match=r"d.jsonl:2: not a labelled offer"):
            read_labelled(write("d.jsonl", good + bad))
    with pytest.raises(InputError, match=r"d.jsonl:2: not a labelled offer"):
        read_labelled(write("d.jsonl", good + "x").parent)
    write("c.jsonl", good.replace('"1"', '"2"'))
    assert [o.id for o in read_labelled(write("d.jsonl", good).parent)] == ["2", "1"]  # a folder of them
