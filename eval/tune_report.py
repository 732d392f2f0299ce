"""What a search for prompts found: a table, JSON, and the best as a new version of its template."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from eval.tune import Outcome, Search
from eval.variants import Variant, shuffled, text_without
from extractor.prompts import TEMPLATES, Template, list_templates

_HEAD = re.compile(r"\A\{#- Tuned from .*?-#\}\n", re.DOTALL)


def show(found: Outcome, console: Console) -> None:
    """Print the variants tried, and how the best one did on the held-out part. Tokens are those of an offer, both ways."""
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", min_width=26)
    for title in ("offers", "F1", "95 %", "change", "p", "tokens"):
        table.add_column(title, justify="right", no_wrap=True)
    for title, rows in (("", found.rows), ("held out: ", found.held_out)):
        for i, row in enumerate(rows):
            change = row["difference"]
            table.add_row(
                f"{title}{row['variant']}{'' if i else ' (baseline)'}",
                str(row["offers"]),
                f"{row['f1']:.1f}",
                _interval(row["interval"], ".1f"),
                *((f"{change['f1']:+.1f}", f"{change['p']:.3f}") if i else ("", "")),
                f"{sum(row['tokens'].values()):.0f}",
            )
    console.print(table)
    if found.held_out:
        low, high = found.held_out[1]["difference"]["interval"]
        console.print(f"held out, the change is within {low:+.1f} to {high:+.1f} (95 %)", highlight=False)


def _interval(bounds: tuple[float, float], form: str) -> str:
    return f"{bounds[0]:{form}} to {bounds[1]:{form}}"


def options_of(variant: Variant) -> str:
    """The variant's demonstrations as options of `shelfwise extract` and `shelfwise eval run`."""
    if not variant.k:
        return "--k 0"
    order = f" --order {variant.order}" if variant.choice == "similar" else ""
    return f"--k {variant.k} --choice {variant.choice}{order}"


def label(template: Template, root: Path) -> str:
    """name@version, also of a version that was named by its file."""
    if template.path.resolve().parent.parent == root.resolve() and template.path.stem.isdigit():
        return f"{template.path.parent.name}@{template.path.stem}"
    return template.reference


def write(search: Search, found: Outcome, root: Path, demonstrations: Path | None) -> str:
    """Write tune.json into the search's folder, and the chosen variant as the next version of its template in `root`; what
    was done, for people. `demonstrations`: their file."""
    search.folder.mkdir(parents=True, exist_ok=True)
    written, lines = None, [found.reason + "; nothing is written"] if found.reason else []
    if found.chosen:
        options = options_of(found.chosen)
        if found.chosen.k and found.chosen.seed:
            demonstrations = search.folder / "demonstrations.jsonl"
            rows = (d.model_dump_json() for d in shuffled(search.demonstrations, found.chosen.seed))
            demonstrations.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
        if found.chosen.k:
            options += f" --demonstrations {demonstrations}"
        template = search.templates[found.chosen.template]
        text = f"{{#- {_head(search, found, options)} -#}}\n"
        text += text_without(_HEAD.sub("", template.source), found.chosen.left_out)
        written = _next_version(root, found.chosen.template.partition("@")[0], text)
        lines = [
            f"{written} is written; use it with --template {written if root == TEMPLATES else _path(root, written)} {options}"
        ]
    _write_json(search, found, written)
    return "\n".join([*lines, str(search.folder / "tune.json")])


def _head(search: Search, found: Outcome, options: str) -> str:
    best = next(row for row in found.rows[1:] if row["variant"] == str(found.chosen))
    baseline, (other, held) = found.rows[0], found.held_out
    data, settings = search.dataset, search.settings
    lines = [
        f"Tuned from {best['variant'].partition(' ')[0]} by `shelfwise prompts tune` on {data.name} {data.split}"
        f" (seed {search.plan.seed}), engine {settings.engine}, model {settings.model or 'base'}.",
        f"Its settings: {options}",
        f"Chosen on {best['offers']} offers: {_scores(best, baseline)}",
        f"Held out, {held['offers']} offers: {_scores(held, other)}",
        f"The baseline is {baseline['variant']}.",
    ]
    return "\n    ".join(lines).replace("#}", "# }")


def _scores(row: dict[str, Any], baseline: dict[str, Any]) -> str:
    change = row["difference"]
    return (
        f"F1 {row['f1']:.2f} ({_interval(row['interval'], '.2f')}), baseline {baseline['f1']:.2f},"
        f" difference {change['f1']:+.2f} ({_interval(change['interval'], '+.2f')}), p {change['p']:.3f}"
    )


def _next_version(root: Path, name: str, text: str) -> str:
    """Write a version of a template; name@version. A version with the same text is not written again."""
    versions = [int(r.partition("@")[2]) for r in list_templates(root) if r.startswith(f"{name}@")]
    for version in versions:
        if _path(root, f"{name}@{version}").read_text(encoding="utf-8") == text:
            return f"{name}@{version}"
    written = f"{name}@{max(versions, default=0) + 1}"
    path = _path(root, written)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return written


def _path(root: Path, reference: str) -> Path:
    name, _, version = reference.partition("@")
    return root / name / f"{version}.jinja"


def _write_json(search: Search, found: Outcome, written: str | None) -> None:
    chosen = asdict(found.chosen) if found.chosen else None
    content = {"inputs": search.inputs, "written": written} | asdict(found) | {"chosen": chosen}
    (search.folder / "tune.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
