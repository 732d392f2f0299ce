"""Which columns a file of offers has, and which of them are id, title, description and category: guessed from their names in
the languages of catalogues, and from what is in them."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from extractor.errors import InputError
from extractor.io import RowReader
from extractor.records import Failure

FIELDS = ("title", "description", "id", "category")
LOOKED_AT, MOST_COLUMNS = 200, 1_000
LONGEST = 10_000  # characters of a cell that are looked at
# The likeliest name first. Without case, accents and punctuation.
NAMES: dict[str, tuple[str, ...]] = {
    "title": (
        *("title", "producttitle", "productname", "itemname", "articlename", "name", "product", "item", "headline"),
        *("titel", "produkttitel", "produktname", "artikelbezeichnung", "artikelname", "bezeichnung", "artikel", "produkt"),
        *("titre", "nomduproduit", "nomproduit", "libelle", "designation", "nom", "produit", "titulo", "nombre", "producto"),
        *("titolo", "nome", "prodotto", "productnaam", "naam", "nazwa", "tytul", "produktnamn", "namn", "название"),
        *("наименование", "商品名称", "商品名", "标题", "商品タイトル", "タイトル", "상품명"),
    ),
    "description": (
        *("description", "productdescription", "longdescription", "bodyhtml", "body", "desc", "details", "text"),
        *("beschreibung", "produktbeschreibung", "artikelbeschreibung", "langtext", "langbeschreibung"),
        *("descriptif", "descriptionproduit", "descripcion", "descrizione", "descricao", "omschrijving", "opis"),
        *("beskrivning", "описание", "商品描述", "描述", "商品説明", "説明", "상품설명"),
    ),
    "id": (
        *("id", "sku", "productid", "offerid", "itemid", "gtin", "ean", "upc", "asin", "articlenumber", "itemnumber"),
        *("artikelnummer", "artikelnr", "artnr", "produktid", "produktnummer", "bestellnummer", "identifiant"),
        *("reference", "referencia", "referenza", "codice", "codigo", "code", "ref", "handle", "number", "nummer", "nr", "no"),
        *("артикул", "编号", "货号", "商品番号", "상품코드"),
    ),
    "category": (
        *("category", "categoryname", "googleproductcategory", "productcategory", "producttype", "categories", "type"),
        *("kategorie", "produktkategorie", "warengruppe", "produktgruppe", "artikelgruppe", "categorie", "rayon"),
        *("categoria", "categorias", "kategoria", "kategori", "категория", "类目", "分类", "カテゴリ", "카테고리"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Sample:
    """The names of a file's columns, and its first rows, with every cell as text."""

    columns: list[str]
    rows: list[dict[str, str]]


def sample(path: Path, n: int = LOOKED_AT) -> Sample:
    """Raises InputError for a file that cannot be read."""
    reader = RowReader(path)
    with closing(iter(reader)) as rows:  # type: ignore[type-var]  # a generator
        first: list[Any] = [_cut(row) for row in islice(rows, n)]
    found = [row for row in first if not isinstance(row, Failure)]
    failed = next((f"; {row.failure.message}" for row in first if isinstance(row, Failure)), "")
    names = dict.fromkeys(reader.names or (key for row in found for key in row))
    columns = [name for name in names if name and _text(name) == name]  # half a surrogate pair is no name
    if not found or not columns:
        raise InputError(
            f"{path}: none of its first {n} rows is an offer; look whether it is what its ending says{failed}"
        )
    if len(columns) > MOST_COLUMNS:
        raise InputError(
            f"{path}: {len(columns)} columns, and at most {MOST_COLUMNS} are read; leave out what is no text"
        )
    return Sample(columns, [{name: row.get(name, "") for name in columns} for row in found])


def _cut(row: Any) -> Any:
    return row if isinstance(row, Failure) else {name: _text(cell)[:LONGEST] for name, cell in row.items()}


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).encode(errors="replace").decode()


def guess(seen: Sample, served: Callable[[str], bool] = lambda category: False) -> dict[str, str | None]:
    """field -> column, None where none looks like it. `served` knows the categories that there are schemas for."""
    cells = {name: [row[name] for row in seen.rows] for name in seen.columns}
    facts = {name: _facts(texts) for name, texts in cells.items()}
    known = {name: fmean(bool(t) and served(t) for t in texts) > 0.5 for name, texts in cells.items()}
    scores = [
        (_named(name, field) + 2.0 * (field == "category" and known[name]) - _unfit(field, facts[name]), field, name)
        for field in FIELDS
        for name in seen.columns
    ]
    found: dict[str, str | None] = dict.fromkeys(FIELDS)
    for score, field, name in sorted(scores, key=lambda row: -row[0]):
        if score > 0 and found[field] is None and name not in found.values():
            found[field] = name
    _by_content(found, facts)
    return found


@dataclass(frozen=True)
class _Facts:
    """Of a column: mean length of its texts, and shares of its rows."""

    length: float
    filled: float
    distinct: float
    prose: float  # several words with letters in them

    @property
    def textual(self) -> bool:
        return self.prose > 0.5 and self.length >= 8


def _facts(texts: Sequence[str]) -> _Facts:
    filled = [text for text in texts if text.strip()]
    if not filled:
        return _Facts(0, 0, 0, 0)
    prose = fmean(len(text.split()) > 1 and any(map(str.isalpha, text)) for text in filled)
    return _Facts(fmean(map(len, filled)), len(filled) / len(texts), len(set(filled)) / len(filled), prose)


def _named(column: str, field: str) -> float:
    """From 0 to 2: how much a column's name says that it is this."""
    name, names = _plain(column), NAMES[field]
    if name in names:
        return 2.0 - names.index(name) / 100
    if any(name in others for other, others in NAMES.items() if other != field):
        return 0.0
    words = {_plain(word) for word in re.split(r"[^\w]+|_|(?<=[a-z])(?=[A-Z])", column)}
    if worded := [i for i, known in enumerate(names) if known in words]:
        return 1.0 - worded[0] / 100
    return 0.0


def _unfit(field: str, facts: _Facts) -> float:
    """How much the content says that it is not."""
    if field == "id":
        return 1.5 * (facts.distinct < 1 or facts.length > 60) + (facts.filled < 1)
    if field == "title":
        return 1.5 * (facts.filled < 0.5) + 0.5 * (facts.prose < 0.1)
    return 0.0


def _by_content(found: dict[str, str | None], facts: Mapping[str, _Facts]) -> None:
    """Where no name says it: prose is the title or, where it is longer, the description; what differs in every row is the id."""
    free = [name for name in facts if name not in found.values()]
    prose = sorted((name for name in free if facts[name].textual), key=lambda name: -facts[name].length)
    if found["title"] is None and prose:
        long = len(prose) > 1 and facts[prose[0]].length > 1.5 * facts[prose[1]].length
        if found["description"] is None and long:
            found["description"] = prose.pop(0)
        found["title"] = prose[0]
    elif found["title"] is not None and found["description"] is None and prose:
        title = facts[found["title"]]
        if facts[prose[0]].length > max(60.0, 1.5 * title.length):
            found["description"] = prose[0]
    if found["title"] is None and found["description"] is not None:
        found["title"], found["description"] = found["description"], None
    if found["title"] is None:
        filled = [name for name in free if facts[name].filled > 0.5]
        found["title"] = max(filled, key=lambda name: facts[name].length, default=None)
    if found["id"] is None:
        ids = (n for n in free if n not in found.values() and facts[n].filled == facts[n].distinct == 1)
        found["id"] = next((n for n in ids if facts[n].prose == 0 and 1 < facts[n].length <= 40), None)


def _plain(name: str) -> str:
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    return "".join(c for c in decomposed if c.isalnum() and not unicodedata.combining(c))
