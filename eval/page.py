"""Reports of the evaluation room: sections with a figure and a table, as a page that opens offline, as Markdown, or printed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

Cell = str | int | float
_FIGURE = re.compile(r"[\d.,+−–()% -]+(?:to [\d.,+−–()% -]+)?")


@dataclass(frozen=True)
class Section:
    """`columns` name the table's columns and `rows` hold its cells: the first is a label, text stands left and numbers stand
    right (floats with one decimal). Columns of `texts` stand left although a cell may begin with a digit. `figure` is SVG of
    `eval.plots`."""

    heading: str
    note: str = ""
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[Cell]] = ()
    figure: str = ""
    texts: Sequence[str] = ()


def text_of(cell: Cell) -> str:
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def _numeric(section: Section) -> list[bool]:
    """Which columns hold figures: those in which every cell that is not empty is a number, or text of a figure ("+1.5 to 2")."""

    def figure(cell: Cell) -> bool:
        return not isinstance(cell, str) or not cell or bool(_FIGURE.fullmatch(cell))

    columns = range(len(section.columns))
    return [i > 0 and all(figure(row[i]) for row in section.rows) for i in columns]


def show(sections: Sequence[Section], console: Console) -> None:
    """Print the tables."""
    for section in sections:
        console.print()
        console.print(section.heading, style="bold")
        if section.note:
            console.print(section.note, style="dim")
        if not section.rows:
            continue
        table = Table(box=None, pad_edge=False)
        for name, number in zip(section.columns, _numeric(section), strict=True):
            table.add_column(name, justify="right" if number else "left", no_wrap=number)
        for row in section.rows:
            table.add_row(*map(text_of, row))
        console.print(table)


def markdown(sections: Sequence[Section], level: int = 2) -> str:
    """The headings, notes and tables as GitHub Markdown."""
    blocks = []
    for section in sections:
        blocks.append(f"{'#' * level} {section.heading}")
        if section.note:
            blocks.append(section.note)
        if section.rows:
            rule = ["---:" if number else "---" for number in _numeric(section)]
            rows = [section.columns, rule, *([text_of(c).replace("|", "\\|") for c in row] for row in section.rows)]
            blocks.append("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return "\n\n".join(blocks) + "\n"


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """One HTML file without a script or anything outside it."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.lstrip_blocks = True
    shown = [
        {
            "id": f"section-{i}",
            "heading": section.heading,
            "note": section.note,
            "figure": Markup(section.figure),  # made by eval.plots, where text is escaped
            "columns": list(zip(section.columns, _numeric(section), strict=True)),
            "rows": [list(zip(map(text_of, row), _numeric(section), strict=True)) for row in section.rows],
        }
        for i, section in enumerate(sections)
    ]
    page = environment.get_template("page.html.jinja").render(title=title, lead=lead, sections=shown)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8", errors="replace")
