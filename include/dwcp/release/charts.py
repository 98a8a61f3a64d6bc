"""The report's plots as inline SVG: text and lines take the page's colour, so they read in light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from dwcp.contract import CANDIDATES, DATA_TYPES, LINK_TYPES
from dwcp.release.evaluate import Importance, SplitScores
from dwcp.release.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Stands for the page's text colour while matplotlib draws."""
BLUE = "#4a86d8"
RED = "#d9534f"
SHOWN_FEATURES = 12
REGRET_AT_FULL_COLOUR = 0.01
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dwcp",
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


def confusion(scores: SplitScores) -> str:
    """Truth against prediction: the share of each truth, and its count."""
    figure, axes = new_figure(4.6, 3.6)
    rows = [max(1, sum(row)) for row in scores.confusion]
    cells = [
        [
            (count / rows[n], f"{percent(count / rows[n], 1)}\n{count:,}", BLUE if n == m else RED)
            for m, count in enumerate(row)
        ]
        for n, row in enumerate(scores.confusion)
    ]
    grid(axes, cells, CANDIDATES, CANDIDATES)
    axes.set_xlabel("the model's choice")
    axes.set_ylabel("the oracle's choice")
    return as_svg(figure, "Confusion: the oracle's choice against the model's")


def calibration(scores: SplitScores) -> str:
    """How often the model is right, against how sure it is. A dot's area grows with its rows."""
    figure, axes = new_figure(4.6, 3.6)
    axes.plot([0.3, 1], [0.3, 1], color=INK, alpha=0.4, linewidth=1, linestyle="--")
    bins = scores.calibration
    most = max((part.rows for part in bins), default=1)
    axes.plot([part.confidence for part in bins], [part.accuracy for part in bins], color=BLUE, linewidth=1.5)
    axes.scatter(
        [part.confidence for part in bins],
        [part.accuracy for part in bins],
        s=[18 + 200 * part.rows / most for part in bins],
        color=BLUE,
        alpha=0.75,
        linewidths=0,
    )
    axes.set(xlim=(0.3, 1.03), ylim=(0, 1.05), xlabel="confidence", ylabel="share that is right")
    return as_svg(figure, "Calibration: share that is right against confidence")


def regret(scores: SplitScores) -> str:
    """Mean regret of the model by link and data type, with the rows behind it."""
    figure, axes = new_figure(10.4, 2.7)
    found = {(part.link_type, part.data_type): part for part in scores.slices}
    cells = []
    for link in LINK_TYPES:
        row = []
        for kind in DATA_TYPES:
            part = found.get((link, kind))
            if part is None or part.mean_regret.estimate is None:
                row.append((0.0, "no rows", RED))
                continue
            value = part.mean_regret.estimate
            row.append((min(1.0, value / REGRET_AT_FULL_COLOUR), f"{percent(value)}\n{part.rows:,} rows", RED))
        cells.append(row)
    grid(axes, cells, [kind.replace("_", " ") for kind in DATA_TYPES], LINK_TYPES)
    return as_svg(figure, "Mean regret by link and data type")


def importance(parts: Sequence[Importance]) -> str:
    """The features whose shuffling costs most accuracy, in points."""
    shown = sorted(parts, key=lambda part: part.accuracy_lost, reverse=True)[:SHOWN_FEATURES][::-1]
    figure, axes = new_figure(10.4, 0.9 + 0.3 * max(1, len(shown)))
    axes.barh([part.name for part in shown], [100 * part.accuracy_lost for part in shown], color=BLUE, height=0.65)
    for number, part in enumerate(shown):
        axes.text(
            100 * max(0.0, part.accuracy_lost), number, f" {100 * part.accuracy_lost:.1f}", va="center", fontsize=10
        )
    axes.set_xlabel("points of accuracy lost when the feature is shuffled")
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.08)
    return as_svg(figure, "Feature importance")


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches, in the pages' style, with one plot."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots()


def grid(
    axes: Axes, cells: Sequence[Sequence[tuple[float, str, str]]], columns: Sequence[str], rows: Sequence[str]
) -> None:
    """Cells of (share of full colour, text, colour), first row on top."""
    for y, line in enumerate(cells):
        for x, (share, text, colour) in enumerate(line):
            axes.add_patch(
                mpl.patches.Rectangle((x, y), 0.96, 0.94, color=colour, alpha=0.06 + 0.6 * share, linewidth=0)
            )
            axes.text(x + 0.48, y + 0.47, text, ha="center", va="center", fontsize=10, color=INK)
    axes.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    axes.set_xticks([x + 0.48 for x in range(len(columns))], columns)
    axes.set_yticks([y + 0.47 for y in range(len(rows))], rows)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def as_svg(figure: Figure, title: str) -> str:
    """The figure as an SVG element that scales with the page and takes its colour; titles on a page must differ."""
    buffer = io.StringIO()
    with mpl.rc_context(_STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Title": title})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :].replace(INK, "currentColor")
    # The page scales the plot; ids must not meet those of the other plots.
    drawn = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{title}"', drawn, count=1)
    prefix = re.sub(r"\W+", "-", title.lower())
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", drawn)
