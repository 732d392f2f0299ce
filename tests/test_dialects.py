"""CSV as spreadsheets of every country write it, read as it was meant."""

import csv
import io
import tracemalloc

import pytest
from conftest import run_cli
from serving import ended, records, sent

from extractor import Failure, ProductOffer
from extractor.columns import Sample, sample
from extractor.dialects import ONE_COLUMN, SAMPLE, dialect
from extractor.errors import InputError
from extractor.io import Columns, OfferReader, RowReader
from extractor.job import open_job

NAMES = ["Artikel", "title", "Beschreibung", "Preis"]
ROWS = [
    ["1", 'Velmora Schuh, hellbraun, 27" hoch; für Damen', "weich, warm, grün", "9,99"],
    ["2", "Kesto | Stiefel; 42, 43, 44", 'mit "Größe"; und\tmehr', "1.299,00"],
    ["3", '"Tarn" Hemd', "zwei\nZeilen, eine; oder | keine", "0,50"],
    ["4", "Wollmütze", "", "12,00"],
]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]


def written(rows, delimiter, encoding="utf-8", quoting=csv.QUOTE_MINIMAL, ending="\r\n"):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=ending).writerows(rows)
    return ("\ufeff" * (encoding == "utf-16-be") + text.getvalue()).encode(encoding)


def told(content):
    return dialect(io.BufferedReader(io.BytesIO(content)))


def cells(path):
    reader = RowReader(path)
    return [list(row.values()) for row in reader if not isinstance(row, Failure)], reader.names


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL], ids=["quoted where needed", "quoted"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("delimiter", ",;\t|", ids=["comma", "semicolon", "tab", "pipe"])
def test_every_delimiter_encoding_and_quoting(write, delimiter, encoding, quoting):
    path = write("o.csv", written([NAMES, *ROWS], delimiter, encoding, quoting))
    assert cells(path) == (ROWS, NAMES)
    assert sample(path) == Sample(NAMES, [dict(zip(NAMES, row, strict=True)) for row in ROWS])
    offers = list(OfferReader(path, Columns("Artikel", "title", "Beschreibung")))
    assert offers[2] == ProductOffer(id="3", title=ROWS[2][1], description=ROWS[2][2])


COMMAS = "".join(f"{n};Schuh, Leder, Größe {n};{n},99\n" for n in range(30))
LIKE = "".join(f"{n};{n},99\n" for n in range(30))
TITLES = "".join(f"Velmora Loafer, tan, EU {n}\n" for n in range(30))
VARIED = "".join(f"Boot{', tan' * (n % 4)}\n" for n in range(30))
UNQUOTED = "".join(f"{n},Boot{', tan' * (n % 4)}\n" for n in range(30))
SIZES = "".join(f"{n},36;37;38;39,Velmora | tan\n" for n in range(30))
DELIMITED = [
    ("titles with commas", "id;title;price\n" + COMMAS, ";"),
    ("decimals in every row and a comma in the header", "Artikel, intern;Preis\n" + LIKE, ";"),
    ("a comma in a quoted name", '"id";"Titel, lang";"Preis"\n' + COMMAS, ";"),
    ("lists with semicolons", "id,sizes,title\n" + SIZES, ","),
    ("a semicolon in a quoted name", 'id,"Size; EU",title\n' + SIZES, ","),
    ("a pipe in a name", "id,Titel|Title,EU\n1,Schuh|Shoe,4\n2,Hut|Hat,5\n", ","),
    ("tabs, and commas in every cell", "id, x\ttitle, y\n1, 2\tBoot, tan\n", "\t"),
    ("blanks behind commas", "id, title\n1, Boot\n2, Hat\n", ","),
    ("two columns, and one title with many commas", "id;title\n1;a, b, c\n2;d\n", ";"),
    ("cells left out", "id;title;note\n1;Boot, tan;new\n2;Hat\n3;Cap;x\n4;Tie\n", ";"),
    ("more cells than names", "id;title\n1;Boot;x\n2;Hat\n3;Cap\n", ";"),
    ("empty cells", ";;\n;;\n1;;\n", ";"),
    ("empty lines", "id;title\n\n1;Boot, tan\n\n\n2;Hat\n", ";"),
    ("one column", "title\n" + TITLES, ONE_COLUMN),
    ("one column, quoted", 'title\n"Loafer, tan"\n"Boot; ""x"""\n', ONE_COLUMN),
    ("one column, decimals", "price\n9,99\n1,50\n", ONE_COLUMN),
    ("one column, a comma in its name", "Title, long\n" + VARIED, ONE_COLUMN),
    ("titles that nobody quoted", "id,title\n" + UNQUOTED, ","),
    ("one row", "id;title\n1;Loafer, tan, EU 42\n", ";"),
    ("header only", "id;title;price, net\n", ";"),
    ("header only, without an end", "id\ttitle", "\t"),
    ("one name only", "title\n", ONE_COLUMN),
    ("nothing but a line", "\n", ONE_COLUMN),
    ("nothing", "", ONE_COLUMN),
    ("announced", "sep=;\r\nid;title\r\n1;a, b\r\n", ";"),
    ("announced, though it looks otherwise", 'sep=,\n"a;b",c\n"1;2",3\n', ","),
    ("lines of an old Mac", "id;title\r1;a, b\r2;c\r", ";"),
    ("a quote that opens within a cell", 'id;title\n1;27" Monitor, black\n2;15" Laptop, red\n', ";"),
    ("a quote that nothing closes", 'id;title\n1;Hat\n2;"Boot, tan\n3;Cap, a, b\n', ";"),
]


def test_there_are_enough_constructed_files():
    assert len(",;\t|") * len(ENCODINGS) * 2 + len(DELIMITED) >= 60


@pytest.mark.parametrize(("text", "delimiter"), [row[1:] for row in DELIMITED], ids=[row[0] for row in DELIMITED])
def test_delimiters_are_told(text, delimiter):
    for encoding in ("utf-8", "utf-16"):
        assert told(text.encode(encoding)).delimiter == delimiter


CHINESE, RUSSIAN, JAPANESE = "红色 女鞋 真皮", "Красные туфли из кожи", "スニーカー レディース"
ENCODED = [
    (b"id,title\n1,Boot\n", "UTF-8"),
    ("id,title\n1,Größe\n".encode(), "UTF-8"),
    (f"id,title\n1,{CHINESE}\n".encode(), "UTF-8"),
    ("id,title\n1,Größe\n2,Hüte\n".encode() + b"3,gr\xfcn\n", "UTF-8"),  # more is right than wrong
    ("id,title\n1,Größe\n".encode("cp1252"), "Windows-1252"),
    ("id,title\n1,L’été – „Créée“ 9,99 €\n".encode("cp1252"), "Windows-1252"),
    ("id,title\n1,Señal ¿qué?\n2,Vélo™\n".encode("cp1252"), "Windows-1252"),
    (f"id,title\n1,{CHINESE}\n".encode("gbk"), "UTF-8"),
    (f"id,title\n1,{RUSSIAN}\n".encode("cp1251"), "UTF-8"),
    (f"id,title\n1,{JAPANESE}\n".encode("shift-jis"), "UTF-8"),
    (f"id,title\n1,{CHINESE}\n".encode("utf-16"), "UTF-16"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "encoded"), ENCODED)
def test_encodings_are_told(write, content, encoded):
    assert told(content).encoded == encoded
    titles = [row.title for row in OfferReader(write("o.csv", content)) if isinstance(row, ProductOffer)]
    assert not any("\udcff" in title or "Ã" in title for title in titles)


def test_what_is_in_no_encoding_known_is_said(write):
    for encoding, text in (("gbk", CHINESE), ("cp1251", RUSSIAN)):
        path = write("o.csv", b"id,title\n" + f"1,{text}\n".encode(encoding) + b"2,Boot\n")
        bad, good = OfferReader(path)
        assert "line 2: not UTF-8; save the file as UTF-8" in bad.failure.message and good.title == "Boot"
        with pytest.raises(InputError, match=r"none of its first.*line 2: not UTF-8; save"):
            sample(write("p.csv", b"id,title\n" + f"1,{text}\n".encode(encoding)))


@pytest.mark.parametrize(
    ("encoding", "bad", "said"),
    [("utf-8", b"gr\xfcn", "UTF-8"), ("cp1252", b"gr\x81n", "Windows-1252"), ("utf-16-le", b"g\x00\x00\xdcn\x00", "UTF-16")],
)  # fmt: skip
def test_a_bad_byte_far_behind_is_one_bad_row(write, encoding, bad, said):
    rows = "".join(f"{n};Stiefel für Damen, Größe {n}\r\n" for n in range(60_000)).encode(encoding)
    mark, half = b"\xff\xfe" * (said == "UTF-16"), len(rows) // 2 // 2 * 2
    at = rows.index("\r\n".encode(encoding), half) + len("\r\n".encode(encoding))
    broken = "x;".encode(encoding) + bad + "\r\n".encode(encoding)
    assert at > SAMPLE
    path = write("o.csv", mark + "id;title\r\n".encode(encoding) + rows[:at] + broken + rows[at:])
    reader = OfferReader(path)
    found = list(reader)
    (failure,) = [row for row in found if isinstance(row, Failure)]
    number = found.index(failure) + 2
    assert failure.failure.message == f"line {number}: not {said}; save the file as UTF-8"
    assert len(found) == 60_001 and found[-1].title == "Stiefel für Damen, Größe 59999" and reader.fraction > 0.9


def test_half_a_character_at_the_end_is_a_bad_row(write):
    content = "id;title\r\n1;Hut\r\n2;Mütze".encode("utf-16")[:-1]
    good, bad = OfferReader(write("o.csv", content))
    assert good.title == "Hut" and bad.failure.message == "line 3: not UTF-16; save the file as UTF-8"


def test_lines_count_from_the_top_whatever_announces_the_delimiter(write):
    path = write("o.csv", "sep=;\r\nid;title\r\n1;a, b\r\n2;c;d\r\n")
    good, bad = OfferReader(path)
    assert good.title == "a, b" and bad.failure.message == "line 4: more fields than the 2 of the header"
    assert sample(path).columns == ["id", "title"]


def test_unicode_text_is_sent_as_spreadsheets_name_it(live):
    for name in ("Angebote.txt", "Angebote.tsv"):
        upload = sent(live, written([NAMES, *ROWS], "\t", "utf-16"), name).json()
        assert upload["name"] == name and upload["columns"] == NAMES and upload["guessed"]["title"] == "title"
        job = live.http.post("/v1/jobs", json={"upload": upload["id"], "schema": "Shoes"}).json()
        ended(live, job)
        assert records(live, job)[3]["title"] == "Wollmütze"


@pytest.mark.parametrize(
    ("encoding", "title"),
    [("utf-8", CHINESE), ("utf-8-sig", RUSSIAN), ("utf-16", CHINESE), ("cp1252", "Größe für ältere Füße")],
)
def test_the_share_that_is_read_counts_bytes(write, encoding, title):
    rows = "".join(f"{n},{title}\n" for n in range(100))
    reader = OfferReader(write("o.csv", f"id,title\n{rows}".encode(encoding)))
    read = [reader.fraction for _ in reader]
    assert read[49] == pytest.approx(0.5, abs=0.02) and read[-1] == pytest.approx(1, abs=0.002)


def test_a_large_file_takes_little_memory(write):
    path = write("o.csv", ("id\ttitle\r\n" + f"1\t{'Größe, 42 ' * 100}\r\n" * 12_000).encode("utf-16"))
    assert path.stat().st_size > 20 << 20
    tracemalloc.start()
    try:
        assert sum(1 for _ in RowReader(path)) == 12_000
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


MORE = "".join(f"{n},Cap {n}\n" for n in range(4, 1_000))


@pytest.mark.parametrize(
    ("rows", "number", "end", "following"),
    [
        ('2,"Hat\n3,Boot\n' + MORE, 3, 1_000, []),
        ('2,"Monitor 24""\n3,Boot\n' + MORE, 3, 1_000, []),
        ('2,"Boot', 3, 3, []),
        ('2,"', 3, 3, []),
        ('\n\n2,"Hat\n3,"Boot"\n4,Cap\n', 5, 6, ["Cap"]),
        ('2,"Monitor 24""\n3,Boot\n4,"Monitor 27""\n5,Cap\n', 3, 5, ["Cap"]),
        ('"2","Monitor 24""\n3,Boot\n"4","Monitor 27""\n5,Cap\n', 3, 6, []),
    ],
)
def test_a_quote_that_nothing_closes_is_a_bad_row(write, rows, number, end, following):
    for announced in (0, 1):
        path = write("o.csv", "sep=,\n" * announced + f'"id","title"\n1,Tie\n{rows}')
        first, bad, *others = OfferReader(path)
        message = f"not CSV: a cell has no end up to line {end + announced}; look for a quote that nothing closes"
        assert bad.failure.message == f"line {number + announced}: {message}"
        assert [row.title for row in (first, *others)] == ["Tie", *following]


def test_quotes_within_a_line_are_taken_as_they_come(write):
    path = write("o.csv", 'id,title\n1,"Monitor 24" wide\n2,"a\n""b"" c" ,x\n3,"a\nb"\n\n4,5" x\n')
    bad = "line 4: more fields than the 2 of the header"
    assert [row.failure.message if isinstance(row, Failure) else row.title for row in OfferReader(path)] == [
        *("Monitor 24 wide", bad, "a\nb", '5" x')
    ]
    with pytest.raises(InputError, match=r"o.csv:1: not CSV: a cell has no end up to line 3; look for a quote"):
        list(OfferReader(write("o.csv", 'id,"title\n1,Hat\n2,Boot\n')))


def test_a_quote_that_nothing_closes_is_not_read_to_the_end(write):
    path = write("o.csv", b'id,title\n1,Boot\n2,"Hat\n' + b"3,Cap\n" * 3_000_000)
    with pytest.raises(InputError, match=r"not CSV: field larger than .*look for a quote that nothing closes"):
        list(OfferReader(path))


def test_a_job_reads_on_as_it_began(write, tmp_path):
    rows = "".join(f"{n};Größe{n} Schuh, Leder;{n},99\r\n" for n in range(40))
    source, job = write("o.csv", f"id;title;Preis\r\n{rows}".encode("cp1252")), tmp_path / "job"
    common = ("--engine", "scripted", "--attributes", "Brand", "--out", str(job), "--chunk", "8")
    assert run_cli("batch", "run", str(source), *common).returncode == 0
    with open_job(job) as done, done._ledger:
        done._ledger.execute("DELETE FROM parts WHERE number > 1")
        done._ledger.execute("DELETE FROM records WHERE part > 1")
        done._ledger.execute("DELETE FROM notes WHERE name = 'total'")
    resumed = run_cli("batch", "resume", str(job))
    assert resumed.returncode == 0, resumed.stderr
    with open_job(job) as done:
        assert [(r.offer_id, r.title) for r in done.records()] == [
            (str(n), f"Größe{n} Schuh, Leder") for n in range(40)
        ]
