"""Figures of the reports: SVG whose ink and series take their colours from the page, so that they read in light and dark."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from eval.confidence import Bin
    from eval.metrics import Floats

INK = "#010203"
# Stand-ins that no page uses: `svg` replaces them by the page's own --c0 … --c5 and currentColor.
SERIES = ("#0102f0", "#0102f1", "#0102f2", "#0102f3", "#0102f4", "#0102f5")
MARKS = ("o", "s", "^", "D", "v", "P")  # a series is told by its mark too, not by colour alone


def svg(draw: Callable[["Axes"], None], width: float = 7.0, height: float = 3.6) -> str:
    """What `draw` puts on the axes, `width` by `height` inches, as an <svg> element with text as text."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    )
    style |= {"svg.fonttype": "none", "svg.hashsalt": "shelfwise", "font.family": "sans-serif", "font.size": 10}
    style |= {"axes.spines.top": False, "axes.spines.right": False, "grid.color": INK, "grid.alpha": 0.12}
    style |= {"legend.frameon": False, "savefig.transparent": True}
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(True)
        axes.set_axisbelow(True)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    for i, colour in enumerate(SERIES):
        text = text.replace(colour, f"var(--c{i})")
    return re.sub(r"font: (?:\d+ )?(\d+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)


def lines(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    xlabel: str,
    ylabel: str,
    ticks: Sequence[tuple[float, str]] = (),
) -> str:
    """A line for each series, points (x, y, low, high) with a bar from low to high."""

    def draw(axes: "Axes") -> None:
        _draw_lines(axes, series)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if ticks:
            axes.set_xticks([x for x, _ in ticks], [label for _, label in ticks])
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return svg(draw)


def _draw_lines(axes: "Axes", series: Mapping[str, Sequence[tuple[float, float, float, float]]]) -> None:
    for i, (name, points) in enumerate(series.items()):
        colour, mark = SERIES[i % len(SERIES)], MARKS[i % len(MARKS)]
        xs, ys, low, high = (list(column) for column in zip(*points, strict=True))
        axes.plot(xs, ys, color=colour, marker=mark, markersize=5, linewidth=1.6, label=name)
        axes.vlines(xs, low, high, color=colour, linewidth=1, alpha=0.5)


def reliability(series: Mapping[str, Sequence["Bin"]]) -> str:
    """The reliability diagram: how many of the values of a confidence are right, with 95 % intervals. On the diagonal
    confidence is what it says."""

    def draw(axes: "Axes") -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=1, linestyle="--", label="calibrated")
        _draw_lines(
            axes, {name: [(b.confidence, b.right, b.low, b.high) for b in bins] for name, bins in series.items()}
        )
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share of values that are right")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return svg(draw)


def risk_coverage(series: Mapping[str, tuple["Floats", "Floats"]], points: int = 300) -> str:
    """The risk-coverage curve (El-Yaniv and Wiener 2010): the errors among the values that a threshold accepts. At most
    `points` thresholds are drawn."""

    def draw(axes: "Axes") -> None:
        for i, (name, (coverage, risk)) in enumerate(series.items()):
            step = -(-len(coverage) // points) or 1
            # From the last threshold, which accepts everything, so that it is always drawn.
            xs, ys = 100 * coverage[::-1][::step], 100 * risk[::-1][::step]
            axes.plot(xs, ys, color=SERIES[i], linestyle=("-", "--", ":")[i % 3], linewidth=1.8, label=name)
        axes.set_xlim(0, 100)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("values accepted, %")
        axes.set_ylabel("of these wrong, %")
        if len(series) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return svg(draw)


def changes(rows: Sequence[tuple[str, float, float, float]], xlabel: str) -> str:
    """A point for each row (label, x, low, high) with a bar from low to high, the first at the top, and a line at 0. Points
    whose bar is clear of 0 are filled."""

    def draw(axes: "Axes") -> None:
        for y, (_, x, low, high) in enumerate(rows):
            clear = low > 0 or high < 0
            axes.hlines(y, low, high, color=SERIES[0], linewidth=1.6, alpha=0.6)
            axes.plot(x, y, MARKS[0], color=SERIES[0], fillstyle="full" if clear else "none", markersize=6)
        axes.axvline(0, color=INK, linewidth=1, alpha=0.6)
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(xlabel)

    return svg(draw, height=1.0 + 0.28 * len(rows))
