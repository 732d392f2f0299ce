"""Labelled offers from the forms in which they are published, and from a user's own files.

    load_dataset(Path("labels.jsonl"))                       # the form is recognized by its first record
    load_dataset(Path("sets/oa_mine"), split="validation")   # a folder with validation.jsonl, perhaps schema.json

A form is one function: a row (or a block of lines) in, a labelled offer out, or the reason why there is none.
"""

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from extractor.errors import InputError, explain
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key, load_schemas

Row = dict[str, Any]


@dataclass(frozen=True)
class Dataset:
    """Labelled offers, and a schema for each of their categories. `left_out` counts rows that could not be used, by reason."""

    name: str
    split: str
    offers: tuple[LabelledOffer, ...]
    schemas: tuple[AttributeSchema, ...]
    left_out: dict[str, int]

    @cached_property
    def asked(self) -> dict[str, tuple[str, ...]]:
        """The attributes asked of each category that occurs ("" for none)."""
        by_category = {category_key(s.category): tuple(a.name for a in s.attributes) for s in self.schemas}
        default = by_category.get("", next(iter(by_category.values())) if len(by_category) == 1 else ())
        return {c: by_category.get(category_key(c), default) for c in {o.category or "" for o in self.offers}}

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any offer, label or schema; fields left at their defaults do not count."""
        content = hashlib.sha256()
        for part in (*self.offers, *self.schemas):
            content.update(part.model_dump_json(exclude_defaults=True).encode())
        return content.hexdigest()[:16]


# --- forms ------------------------------------------------------------------------------------------------------------


def house(row: Row) -> LabelledOffer:
    """`{"id": "1", "category": "Shoes", "title": "Velmora Loafer", "attributes": {"Brand": ["Velmora"]}, "absent": []}`"""
    return LabelledOffer(**{k: row[k] for k in LabelledOffer.model_fields if k in row})


def papers(row: Row) -> LabelledOffer:
    """OA-Mine, AE-110K and WDC-PAVE as ExtractGPT publishes them (https://github.com/wbsg-uni-mannheim/ExtractGPT):

    `{"input": "Velmora Loafer", "category": "Shoes", "target_scores": {"Brand": {"Velmora": 1}, "Color": {"n/a": 1}}}`

    The first entry decides whether there is a value. Offers with a description have `input_title` and `input_description`.
    """
    attributes, absent = {}, []
    for name, targets in row["target_scores"].items():
        values = list(targets)
        if not values or values[0] == "n/a":
            absent.append(name)
        else:
            attributes[name] = [v for v in values if v != "n/a"]
    return LabelledOffer(
        id=str(row["id"]),
        title=row.get("input") or row.get("input_title") or "",
        description=row.get("input_description") or None,
        category=row.get("category"),
        attributes=attributes,
        absent=absent,
    )


def mave(row: Row) -> LabelledOffer:
    """MAVE (https://github.com/google-research-datasets/MAVE), joined with its product texts; no evidence means absent:

    `{"id": "1", "category": "Shoes", "paragraphs": [{"text": "Velmora Loafer", "source": "title"}],
    "attributes": [{"key": "Type", "evidences": [{"value": "Loafer", "pid": 0, "begin": 8, "end": 14}]}]}`
    """
    texts: dict[str, list[str]] = {"title": [], "other": []}
    for paragraph in row["paragraphs"]:
        texts["title" if paragraph["source"] == "title" else "other"].append(paragraph["text"])
    attributes: dict[str, list[str]] = {}
    absent = []
    for item in row["attributes"]:
        values = list(dict.fromkeys(e["value"] for e in item["evidences"]))
        if values:
            attributes[item["key"]] = values
        else:
            absent.append(item["key"])
    return LabelledOffer(
        id=str(row["id"]),
        title=" ".join(texts["title"]),
        description="\n".join(texts["other"]) or None,
        category=row.get("category"),
        attributes=attributes,
        absent=absent,
    )


def bio(lines: list[str]) -> LabelledOffer:
    """CoNLL: a token and its tag a line, a blank line between offers; `# key = value` lines may name id and category.

    `Velmora B-Brand` / `Suede B-Material` / `Loafer O`. Tokens are joined by spaces; an I- tag that continues nothing begins.
    """
    about: dict[str, str] = {}
    tokens: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith("# ") and "=" in line:
            key, _, value = line[2:].partition("=")
            about[key.strip()] = value.strip()
            continue
        parts = line.split()
        if len(parts) < 2:
            raise ValueError(f"expected a token and a tag, found {line.strip()!r}")
        tokens.append((parts[0], parts[-1]))
    attributes: dict[str, list[str]] = {}
    before = "O"
    for token, tag in tokens:
        kind, _, name = tag.partition("-")
        if kind not in ("B", "I", "O") or (kind != "O" and not name):
            raise ValueError(f"tag {tag!r} is neither O nor B-… nor I-…")
        if kind == "I" and before == name:
            attributes[name][-1] += " " + token
        elif kind != "O":
            attributes.setdefault(name, []).append(token)
        before = name
    return LabelledOffer(
        id=about["id"],
        title=" ".join(token for token, _ in tokens),
        category=about.get("category"),
        attributes={name: list(dict.fromkeys(values)) for name, values in attributes.items()},
    )


def columns(row: Row) -> LabelledOffer:
    """A table: `id,category,title,description` and a column for each attribute. An empty cell means absent, `|` separates
    values, `?` means unknown."""
    fixed = ("id", "category", "title", "description")
    attributes, absent = {}, []
    for name, cell in row.items():
        text = (cell or "").strip() if isinstance(cell, str | None) else str(cell)
        if name in fixed or text == "?":
            continue
        if text:
            attributes[name] = [v.strip() for v in text.split("|") if v.strip()]
        else:
            absent.append(name)
    given = {k: str(row[k]) for k in fixed if row.get(k) not in (None, "")}
    return LabelledOffer(**{"title": "", **given}, attributes=attributes, absent=absent)


FORMS: dict[str, Callable[[Any], LabelledOffer]] = {
    "house": house,
    "papers": papers,
    "mave": mave,
    "bio": bio,
    "columns": columns,
}


def recognize(row: Row) -> str:
    """The form of a JSON record, by its keys."""
    if "target_scores" in row:
        return "papers"
    if "paragraphs" in row:
        return "mave"
    return "house" if isinstance(row.get("attributes"), dict) else "columns"


# --- files ------------------------------------------------------------------------------------------------------------

ENDINGS = {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".conll": "bio", ".bio": "bio", ".txt": "bio"}


def load_dataset(
    path: Path,
    split: str | None = None,
    form: str | None = None,
    schema: Path | None = None,
    strict: bool = True,
) -> Dataset:
    """Read a file, or `split` of a folder. Without a schema (YAML by `schema`, or `schema.json` beside the file, category ->
    names), each category is asked for the attributes that its labels name.

    Raises InputError with file and line; with `strict` off, rows that cannot be used are left out and counted instead.
    """
    file = _file(path, split)
    if form and form not in FORMS:
        raise InputError(f"unknown form {form!r}; there are {', '.join(FORMS)}")
    left_out: Counter[str] = Counter()
    offers: dict[str, LabelledOffer] = {}
    for number, parse, row in _rows(file, form):
        try:
            offer = parse(row)
            if offer.id in offers:
                raise ValueError(f"an earlier offer has the id {offer.id!r}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = _reason(error)
            if strict:
                raise InputError(f"{file}:{number}: not a labelled offer: {reason}") from error
            left_out[reason] += 1
        else:
            offers[offer.id] = offer
    if not offers:
        raise InputError(f"{file}: there are no labelled offers in it")
    kept = tuple(offers.values())
    schemas = tuple(load_schemas(schema) if schema else _schemas(file.parent / "schema.json", kept))
    name = path.name if path.is_dir() else path.stem
    dataset = Dataset(name, split or file.stem, kept, schemas, dict(left_out))
    if missing := sorted(category for category, names in dataset.asked.items() if not names):
        raise InputError(
            f"{file}: no schema for category {missing[0]!r}; there are {sorted(map(str, _named(schemas)))}"
        )
    return dataset


def _named(schemas: Iterable[AttributeSchema]) -> list[str | None]:
    return [s.category for s in schemas]


def _file(path: Path, split: str | None) -> Path:
    if path.is_dir():
        names = {p.stem: p for p in sorted(path.iterdir()) if p.suffix.lower() in ENDINGS}
        if split is None:
            raise InputError(f"{path}: a folder; say --split: {', '.join(names) or 'it holds no data file'}")
        if split not in names:
            raise InputError(f"{path}: no split {split!r}; there are {', '.join(names) or 'no data files'}")
        return names[split]
    if not path.is_file():
        raise InputError(f"{path}: no such file or folder")
    if path.suffix.lower() not in ENDINGS:
        raise InputError(f"{path}: unknown format; labelled files end in {', '.join(ENDINGS)}")
    return path


def _rows(file: Path, form: str | None) -> Iterator[tuple[int, Callable[[Any], LabelledOffer], Any]]:
    """Line number, form and row; rows without an id get one from their line."""
    kind = ENDINGS[file.suffix.lower()]
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            if kind == "csv":
                reader = csv.DictReader(stream)
                for row in reader:
                    if not row.get("title"):
                        raise InputError(f"{file}:{reader.line_num}: no 'title'; columns are {', '.join(row)}")
                    yield reader.line_num, columns, {"id": f"line-{reader.line_num}"} | row
            elif kind == "bio" or form == "bio":
                yield from _blocks(stream)
            else:
                for number, line in enumerate(stream, 1):
                    if not line.strip():
                        continue
                    try:
                        row = json.loads(line)
                    except ValueError as error:
                        raise InputError(f"{file}:{number}: not JSON: {error}") from error
                    if not isinstance(row, dict):
                        raise InputError(f"{file}:{number}: a JSON {type(row).__name__}, not an object")
                    form = form or recognize(row)
                    yield number, FORMS[form], {"id": f"line-{number}"} | row
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error


def _blocks(stream: Iterable[str]) -> Iterator[tuple[int, Callable[[Any], LabelledOffer], list[str]]]:
    block: list[str] = []
    begin = 1
    for number, line in enumerate((*stream, ""), 1):
        if line.strip():
            block.append(line)
        elif block:
            named = any(part.startswith("# id") for part in block)
            yield begin, bio, block if named else [f"# id = line-{begin}", *block]
            block = []
        if not block:
            begin = number + 1


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return explain(error)
    return f"no key {error}" if isinstance(error, KeyError) else str(error)


def _schemas(beside: Path, offers: Iterable[LabelledOffer]) -> list[AttributeSchema]:
    """From schema.json, else every attribute that the labels of a category name, in order of appearance."""
    if beside.is_file():
        listed: dict[str, list[str]] = json.loads(beside.read_text(encoding="utf-8"))
    else:
        listed = {}
        for offer in offers:
            names = listed.setdefault(offer.category or "", [])
            names += [n for n in (*offer.attributes, *offer.absent) if n not in names]
    return [AttributeSchema.from_names(names, category or None) for category, names in listed.items() if names]
