"""How a CSV file was written, which depends on the country: its encoding, and what stands between its cells.

    Artikel;Bezeichnung;Preis       a German spreadsheet, in UTF-8 with a byte order mark or in Windows-1252
    sku<TAB>title<TAB>price         "Unicode text", in UTF-16

Both are told from the first SAMPLE bytes and kept to the end. So memory is bounded, a bad byte far behind spoils its own row
and no other, and who reads the file again reads the same. A delimiter has to divide the header, and the rows as often: who counts
signs wherever they stand, as `csv.Sniffer` does, takes the commas of titles for it.
"""

import codecs
import csv
import io
import re
from dataclasses import dataclass
from itertools import islice
from statistics import fmean

SAMPLE, ROWS = 1 << 20, 200
DELIMITERS = "\t;,|"  # of those that divide all rows alike, the first that divides most often
ONE_COLUMN = "\x1f"  # a sign that no table has: what others stand in it are its text
SPOILT = "\udcff"  # what is read where bytes are none of the encoding
_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NAMES = {"utf-8-sig": "UTF-8", "utf-16": "UTF-16", "cp1252": "Windows-1252"}
_ANNOUNCED = re.compile(rf'"?sep=([{DELIMITERS}])"?\r?\n')
_LETTERS = re.compile(rb"[\x80-\xff]+")
_WESTERN = re.compile(rb"[\x80\x84\x85\x8a\x8c\x8e\x91-\x97\x99-\x9c\x9e-\xff]{1,2}")
codecs.register_error("spoilt", lambda error: (SPOILT, error.end))  # type: ignore[attr-defined]  # no TypeError


@dataclass(frozen=True)
class Dialect:
    """`announced`: the first line is `sep=;`, as some write for Excel, and the header is the next one."""

    encoding: str
    delimiter: str
    announced: bool = False

    @property
    def encoded(self) -> str:
        """The encoding as people call it."""
        return _NAMES[self.encoding]

    def size(self, text: str) -> int:
        """In bytes, as it was written."""
        if self.encoding == "utf-16":
            return 2 * len(text)
        return len(text) if self.encoding == "cp1252" or text.isascii() else len(text.encode(errors="surrogateescape"))

    def opened(self, raw: io.BufferedReader) -> io.TextIOWrapper:
        return io.TextIOWrapper(raw, encoding=self.encoding, errors="spoilt", newline="")


def dialect(raw: io.BufferedReader) -> Dialect:
    """Of a file that has just been opened, which is left at its begin."""
    start = raw.read(SAMPLE)
    raw.seek(0)
    encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None) or _unmarked(start)
    text = codecs.getincrementaldecoder(encoding)("spoilt").decode(start)
    if announced := _ANNOUNCED.match(text):
        return Dialect(encoding, announced[1], True)
    return Dialect(encoding, _delimiter(text, whole=len(start) < SAMPLE))


def _unmarked(start: bytes) -> str:
    """UTF-8 or, where more of what is not ASCII is wrong in that than right, Windows-1252 if it looks so: letters with accents
    stand alone among others. Where they do not, as in what Cyrillic or Chinese was written in, rows are bad for not being UTF-8.
    The encodings of Central Europe and Turkey look as Western Europe's, and are read as that."""
    text = codecs.getincrementaldecoder("utf-8")("spoilt").decode(start)
    wrong = text.count(SPOILT)
    if 2 * wrong <= sum(c > "\x7f" for c in text):
        return "utf-8-sig"
    runs = _LETTERS.findall(start)
    alone = sum(len(run) for run in runs if _WESTERN.fullmatch(run))
    return "cp1252" if 2 * alone > sum(map(len, runs)) else "utf-8-sig"


def _delimiter(text: str, whole: bool) -> str:
    fits = {d: fit for d in DELIMITERS if (fit := _fit(text, d, whole))}
    best = max(fits, key=lambda d: fits[d], default=ONE_COLUMN)
    return best if any(fits.get(best, ())[:2]) else ONE_COLUMN


def _fit(text: str, delimiter: str, whole: bool) -> tuple[bool, bool, float, int] | None:
    """What speaks for it, the weightiest first: most rows have as many cells as the header; no cell of that begins with a
    blank, as behind a comma in a name; the share of such rows; how many cells. None where it divides no header."""
    rows = list(islice(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter), ROWS + 1))
    header, *others = (rows if whole or len(rows) > ROWS else rows[:-1]) or [[]]  # the last one may be cut off
    if len(header) < 2:
        return None
    agreed = fmean([len(row) == len(header) for row in others if row] or [True])
    return agreed >= 0.5, not any(cell.startswith(" ") for cell in header), agreed, len(header)
