"""The forms in which labelled offers are published. Each is a function: a row (or a block of lines) in, a labelled offer out, or
the reason why there is none.
"""

from collections.abc import Callable
from typing import Any

from extractor.records import LabelledOffer

Row = dict[str, Any]


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
