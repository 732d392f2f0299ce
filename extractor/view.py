"""Render attribute records as one HTML page that needs no network."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

from jinja2 import Environment, FileSystemLoader, StrictUndefined

_HUES = 12  # the classes h0 to h11 of the template
_LONG = 280  # code points from which a description starts folded
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(value: Any) -> Any:
    """What a template shows: UTF-8 cannot hold lone surrogates, browsers drop control characters, bidi overrides reorder text."""
    return _UNPRINTABLE.sub("\ufffd", value) if type(value) is str else value


def write_html(records: Iterable[dict[str, Any]], path: Path) -> None:
    """Write the page to ``path``, replacing it; ``records`` is read once and never held in memory as a whole."""
    summary = _Summary()
    # The page opens with totals known only at the end, so the records pass through a spool on disk.
    with tempfile.TemporaryFile("w+", encoding="ascii") as spool:
        for record in records:
            summary.add(record)
            spool.write(json.dumps(record) + "\n")
        spool.seek(0)
        hues = summary.hues()
        names = {name: i for i, name in enumerate(hues)}
        categories = {name: i for i, name in enumerate(sorted(summary.categories))}
        cards = (_card(json.loads(line), hues) for line in spool)
        loader = FileSystemLoader(Path(__file__).parent)
        env = Environment(loader=loader, autoescape=True, finalize=printable, undefined=StrictUndefined)
        env.trim_blocks = env.lstrip_blocks = True
        template = env.get_template("view.html.jinja")
        page = template.stream(summary=summary, hues=hues, names=names, categories=categories, cards=cards)
        page.dump(str(path), encoding="utf-8")


class _Summary:
    def __init__(self) -> None:
        self.offers = self.values = self.failures = 0
        self.categories: dict[str, set[str]] = {}
        self.attributes: dict[str, tuple[int, int]] = {}
        makers = ("model", "adapter", "engine", "template", "calibration")
        self.provenance: dict[str, set[str | None]] = {k: set() for k in makers}

    def add(self, record: dict[str, Any]) -> None:
        self.offers += 1
        self.failures += "failure" in record
        names = self.categories.setdefault(record["category"], set()) if record["category"] is not None else set()
        for key, seen in self.provenance.items():
            seen.add((record.get("provenance") or {}).get(key))
        for name, values in record.get("attributes", {}).items():
            names.add(name)
            self.values += len(values)
            asked, found = self.attributes.get(name, (0, 0))
            self.attributes[name] = (asked + 1, found + bool(values))

    def hues(self) -> dict[str, int]:
        """A name keeps the hue of its hash unless a name of the same category already has it."""
        hues: dict[str, int] = {}
        for name in sorted(self.attributes):
            taken = {hues.get(other) for names in self.categories.values() if name in names for other in names}
            # 5 is coprime to 12: the next try is a distant hue, and all are tried.
            tries = [(crc32(name.encode("utf-8", "surrogatepass")) + 5 * i) % _HUES for i in range(_HUES)]
            hues[name] = next((hue for hue in tries if hue not in taken), tries[0])
        return hues


def _card(record: dict[str, Any], hues: dict[str, int]) -> dict[str, Any]:
    spans: dict[str, list[dict[str, Any]]] = {"title": [], "description": []}
    for name, values in record.get("attributes", {}).items():
        for value in values:
            if evidence := value.get("evidence"):
                value["span"] = sum(map(len, spans.values()))
                spans[evidence["field"]].append({**evidence, "id": value["span"], "name": name, "hue": hues[name]})
    texts = {field: _segments(record[field], spans[field]) for field in spans if record.get(field)}
    return {**record, "texts": texts, "fold": len(record.get("description") or "") > _LONG, "spans": spans}


def _segments(text: str, spans: list[dict[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Cut ``text`` at every span edge; each piece comes with the spans over it, outermost first."""
    # Overlapping spans get different lanes, so that each one's underline keeps one height over its whole length.
    spans.sort(key=lambda s: (s["end"] - s["begin"], s["id"]))
    for i, span in enumerate(spans):
        taken = {s["lane"] for s in spans[:i] if s["begin"] < span["end"] and span["begin"] < s["end"]}
        span["lane"] = next(lane for lane in range(i + 1) if lane not in taken)
    edges = {0, len(text)}.union(*({s["begin"], s["end"]} for s in spans))
    for begin, end in pairwise(sorted(edges)):
        over = [s for s in spans if s["begin"] <= begin and end <= s["end"]]
        over.sort(key=lambda s: s["lane"], reverse=True)
        yield text[begin:end], [{**s, "first": begin == s["begin"], "last": end == s["end"]} for s in over]
