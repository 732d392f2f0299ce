"""Labelled offers from the forms in which they are published, and from a user's own files.

    load_dataset(Path("labels.jsonl"))                       # the form is recognized by its first record
    load_dataset(Path("sets/oa_mine"), split="validation")   # a folder with validation.jsonl, perhaps schema.json

Each form is a function of forms.py.
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

from eval.forms import FORMS, bio, columns, recognize
from extractor.errors import InputError, explain
from extractor.io import read_labelled
from extractor.records import LabelledOffer
from extractor.schema import AttributeSchema, category_key, load_schemas


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


def load_demonstrations(path: Path | None) -> list[LabelledOffer]:
    """Labelled offers of a file in any form, or of a folder with one file a category; none where none is named."""
    if path is None:
        return []
    return read_labelled(path) if path.is_dir() else list(load_dataset(path).offers)


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
