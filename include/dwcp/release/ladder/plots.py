"""The ladder's plots, as inline SVG in the page's own colours; each says in its labels what to read off it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, DATA_TYPES, LINK_TYPES
from dwcp.release.charts import BLUE, INK, RED, as_svg, grid, new_figure
from dwcp.release.intervals import Interval
from dwcp.release.ladder.found import Calibration, Ladder, ModelSize, Point, SplitFound, Worth
from dwcp.release.ladder.score import GAP, LINK_TYPE
from dwcp.release.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GREEN = "#2f9e6b"
AMBER = "#d59b2d"
GRAY = "#8a94a0"
COLOURS = {"time": BLUE, "random": AMBER, "unseen objects": GREEN}
GOAL_ACCURACY = 0.98
GOAL_REGRET = 0.001
_ACCURACY_TICKS = (0.3, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_LEAST_REGRET = 1e-4
"""Where the scale of regrets ends; what is lower, or negative as zstd beat every candidate, is drawn there."""
_MOST_LOSS = 0.05


def accuracies(ladder: Ladder) -> str:
    """Strict accuracy of every rung on every split; the scale is of the errors, so that the top rungs stand apart."""
    names = [rung.name for rung in ladder.splits[0].rungs if (rung.accuracy.estimate or 0) > 0]
    figure, axes = new_figure(10.4, 0.9 + 0.31 * len(names))
    ticks = [1 - tick for tick in _ACCURACY_TICKS]
    for number, split in enumerate(ladder.splits):
        rungs = [split.rung(name) for name in names]
        places = np.arange(len(names)) + 0.22 * (number - 1)
        _intervals(axes, [_error(rung.accuracy) for rung in rungs], places, COLOURS[split.name], split.name)
    axes.axvline(1 - GOAL_ACCURACY, color=RED, linewidth=1, linestyle="--", zorder=0)
    axes.set(xscale="log", xlim=(0.8, 0.004), ylim=(len(names) - 0.4, -0.6))
    axes.set_xticks(ticks, [percent(tick, 1) if tick > 0.99 else percent(tick, 0) for tick in _ACCURACY_TICKS])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("strict accuracy, errors on a logarithmic scale (right is better); red: the gate's 98 %")
    axes.legend(loc="lower left", frameon=False, labelcolor=INK, title="split")
    return as_svg(figure, "Strict accuracy of every rung")


def regrets(ladder: Ladder) -> str:
    """Mean regret of every rung on the time split: what each choice costs, where accuracy only counts."""
    rungs = ladder.splits[0].rungs
    figure, axes = new_figure(10.4, 0.9 + 0.29 * len(rungs))
    values = [rung.mean_regret for rung in rungs]
    _intervals(axes, values, np.arange(len(rungs)), BLUE, "time")
    axes.axvline(GOAL_REGRET, color=RED, linewidth=1, linestyle="--", zorder=0)
    most = max((value.upper or value.estimate or 1.0) for value in values)
    axes.set(xscale="log", xlim=(most * 2, 0.9 * _LEAST_REGRET), ylim=(len(rungs) - 0.4, -0.6))
    ticks = [tick for tick in (10.0, 1.0, 0.1, 0.01, 0.001, 0.0001) if tick <= most * 2]
    axes.set_xticks(ticks, [percent(tick, 2 if tick < 0.001 else 1 if tick < 0.01 else 0) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_yticks(range(len(rungs)), [rung.name for rung in rungs])
    axes.grid(axis="x", color=INK, alpha=0.12, linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("mean cost beyond the oracle's (right is better; at the edge: or less); red: the gate's 0.1 %")
    return as_svg(figure, "Mean regret of every rung")


def gains(split: SplitFound, *, paid: bool) -> str:
    """What the product gains over always-zstd by link and data type, with the interval's lower end."""
    cells = []
    found = {part.name: part for part in split.slices if part.by == LINK_TYPE}
    for link in LINK_TYPES:
        row = []
        for kind in DATA_TYPES:
            part = found.get(f"{link} {kind}")
            gain = Interval(None) if part is None else part.gain_paid if paid else part.gain_over_zstd
            if part is None or gain.estimate is None:
                row.append((0.0, "no rows", GRAY))
            elif gain.lower is None or gain.upper is None:
                row.append((0.3, f"{100 * gain.estimate:+,.0f} %\n{part.objects} objects", GRAY))
            else:
                colour = GREEN if gain.lower > 0 else RED if gain.upper < 0 else AMBER
                text = f"{100 * gain.estimate:+,.0f} %\nfrom {100 * gain.lower:+,.0f} %\n{part.rows:,} rows"
                row.append((min(1.0, 0.3 + abs(gain.estimate)), text, colour))
        cells.append(row)
    figure, axes = new_figure(10.4, 3.2)
    grid(axes, cells, [kind.replace("_", " ") for kind in DATA_TYPES], LINK_TYPES)
    return as_svg(
        figure, f"Gain over zstd by link and data type, {'looking paid' if paid else 'before looking is paid'}"
    )


def accuracy_grid(split: SplitFound) -> str:
    """Strict accuracy by link and data type."""
    found = {part.name: part for part in split.slices if part.by == LINK_TYPE}
    cells = []
    for link in LINK_TYPES:
        row = []
        for kind in DATA_TYPES:
            part = found.get(f"{link} {kind}")
            if part is None or part.accuracy.estimate is None:
                row.append((0.0, "no rows", GRAY))
                continue
            error = 1 - part.accuracy.estimate
            colour = BLUE if part.accuracy.estimate >= GOAL_ACCURACY else RED
            share = min(1.0, error / _MOST_LOSS) if colour == RED else 0.3
            row.append((share, f"{percent(part.accuracy.estimate, 1)}\n{part.rows:,} rows", colour))
        cells.append(row)
    figure, axes = new_figure(10.4, 2.7)
    grid(axes, cells, [kind.replace("_", " ") for kind in DATA_TYPES], LINK_TYPES)
    return as_svg(figure, f"Accuracy by link and data type, {split.name} split")


def by_gap(ladder: Ladder) -> str:
    """Accuracy against the gap to the runner-up: errors should lie where the choice hardly matters."""
    figure, axes = new_figure(5.0, 3.6)
    for number, split in enumerate(ladder.splits):
        parts = [part for part in split.slices if part.by == GAP]
        places = np.arange(len(parts)) + 0.15 * (number - 1)
        _vertical(axes, [part.accuracy for part in parts], places, COLOURS[split.name], split.name)
    parts = [part for part in ladder.splits[0].slices if part.by == GAP]
    labels = [f"{part.name}\n{part.rows / ladder.splits[0].test_rows:.1%}" for part in parts]
    axes.set_xticks(range(len(parts)), labels, fontsize=9)
    axes.set(ylim=(0, 1.04))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("gap to the runner-up; share of the time split")
    axes.set_ylabel("strict accuracy")
    axes.legend(loc="lower right", frameon=False, labelcolor=INK)
    return as_svg(figure, "Accuracy by gap to the runner-up")


def reliability(found: Calibration) -> str:
    """Share that is right against confidence, before and after temperature scaling."""
    figure, axes = new_figure(5.0, 3.6)
    axes.plot([0.3, 1], [0.3, 1], color=INK, alpha=0.4, linewidth=1, linestyle="--")
    for bins, error, colour, name in (
        (found.before, found.error_before, GRAY, "as it is"),
        (found.after, found.error_after, BLUE, f"temperature {found.temperature:.2f}"),
    ):
        most = max(part.rows for part in bins)
        axes.plot(
            [part.confidence for part in bins],
            [part.accuracy for part in bins],
            color=colour,
            label=f"{name}: expected error {percent(error)}",
        )
        axes.scatter(
            [part.confidence for part in bins],
            [part.accuracy for part in bins],
            s=[18 + 200 * part.rows / most for part in bins],
            color=colour,
            alpha=0.75,
            linewidths=0,
        )
    axes.set(xlim=(0.3, 1.03), ylim=(0, 1.05), xlabel="confidence (a dot's area grows with its rows)")
    axes.set_ylabel("share that is right")
    axes.legend(loc="lower right", frameon=False, labelcolor=INK, fontsize=9)
    return as_svg(figure, "Calibration before and after temperature scaling")


def learning(points: Sequence[Point]) -> str:
    """Does more data help? XGBoost's accuracy against the rows that it learned from."""
    figure, axes = new_figure(5.0, 3.6)
    _vertical(axes, [point.accuracy for point in points], np.array([point.rows for point in points]), BLUE, "")
    axes.axhline(GOAL_ACCURACY, color=RED, linewidth=1, linestyle="--")
    axes.set(xscale="log", xlabel="training rows")
    axes.set_xticks([point.rows for point in points], [_thousands(point.rows) for point in points], fontsize=9)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    axes.set_ylabel("strict accuracy, time split")
    return as_svg(figure, "Learning curve")


def oracles(worth: Worth) -> str:
    """How often each candidate is best under each definition of the oracle."""
    figure, axes = new_figure(5.0, 0.9 + 0.8 * len(worth.definitions))
    for number, one in enumerate(worth.definitions):
        left = 0.0
        for name, colour in zip(CANDIDATES, (BLUE, GREEN, GRAY), strict=True):
            share = one.mix[name]
            axes.barh(number, share, left=left, color=colour, height=0.55, label=name if number == 0 else None)
            axes.text(left + share / 2, number, f"{share:.0%}", ha="center", va="center", fontsize=10)
            left += share
        axes.text(1.01, number, f"agrees {one.agreement:.1%}", va="center", fontsize=9)
    axes.set(xlim=(0, 1.3), ylim=(len(worth.definitions) - 0.4, -0.9))
    axes.set_xticks([])
    axes.set_yticks(range(len(worth.definitions)), [one.name for one in worth.definitions])
    axes.tick_params(axis="y", length=0)
    axes.spines["bottom"].set_visible(False)
    axes.legend(loc="upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=9)
    return as_svg(figure, "The best choice under each definition of the oracle")


def model_sizes(sizes: Sequence[ModelSize]) -> str:
    """Accuracy against latency for each size of each kind of model; a dot grows with its bytes, a ring is the knee."""
    figure, axes = new_figure(10.4, 3.8)
    kinds = list(dict.fromkeys(size.kind for size in sizes))
    for kind, colour in zip(kinds, (GRAY, BLUE, GREEN, AMBER, RED), strict=False):
        parts = [size for size in sizes if size.kind == kind]
        axes.plot(
            [part.latency_us for part in parts],
            [1 - part.accuracy for part in parts],
            color=colour,
            linewidth=1.2,
            alpha=0.7,
        )
        axes.scatter(
            [part.latency_us for part in parts],
            [1 - part.accuracy for part in parts],
            s=[20 + 40 * part.size_bytes / 1e6 for part in parts],
            color=colour,
            alpha=0.8,
            linewidths=0,
            label=kind,
        )
    for size in sizes:
        if size.knee:
            axes.scatter(size.latency_us, 1 - size.accuracy, s=420, facecolors="none", edgecolors=INK, linewidths=1.5)
            axes.annotate("knee", (size.latency_us, 1 - size.accuracy), xytext=(16, 12), textcoords="offset points")
    ticks = [tick for tick in _ACCURACY_TICKS if tick >= 0.8]
    errors = [1 - size.accuracy for size in sizes]
    axes.set(yscale="log", ylim=(max(errors) * 1.3, min(errors) / 1.3))
    shown = [tick for tick in (*ticks, 0.97, 0.975, 0.985) if min(errors) / 1.3 <= 1 - tick <= max(errors) * 1.3]
    axes.set_yticks([1 - tick for tick in shown], [percent(tick, 1) for tick in shown])
    axes.set_yticks([], minor=True)
    axes.axhline(1 - GOAL_ACCURACY, color=RED, linewidth=1, linestyle="--", zorder=0)
    axes.set_xlabel("one decision through onnxruntime, µs of CPU (left is better); a dot's area grows with its bytes")
    axes.set_ylabel("strict accuracy, time split")
    axes.legend(loc="lower right", frameon=False, labelcolor=INK, fontsize=9)
    return as_svg(figure, "Accuracy against latency for each size of model")


def _intervals(axes: Axes, found: Sequence[Interval], places: NDArray[Any], colour: str, label: str) -> None:
    """Dots with horizontal intervals."""
    middle, low, high = _whiskers(found)
    axes.hlines(places, low, high, color=colour, linewidth=1.6, alpha=0.6)
    axes.scatter(middle, places, s=24, color=colour, linewidths=0, label=label, zorder=3)


def _vertical(axes: Axes, found: Sequence[Interval], places: NDArray[Any], colour: str, label: str) -> None:
    """Dots with vertical intervals, joined."""
    middle, low, high = _whiskers(found)
    axes.vlines(places, low, high, color=colour, linewidth=1.6, alpha=0.6)
    axes.plot(places, middle, color=colour, linewidth=1.2, marker="o", markersize=5, label=label)


def _whiskers(found: Sequence[Interval]) -> tuple[list[float], list[float], list[float]]:
    middle = [max(_LEAST_REGRET, one.estimate or 0.0) for one in found]
    low = [max(_LEAST_REGRET, one.lower) if one.lower is not None else m for one, m in zip(found, middle, strict=True)]
    high = [max(_LEAST_REGRET, one.upper) if one.upper is not None else m for one, m in zip(found, middle, strict=True)]
    return middle, low, high


def _error(accuracy: Interval) -> Interval:
    """The same of what is wrong."""
    lower, upper = accuracy.upper, accuracy.lower
    return Interval(
        1 - (accuracy.estimate or 0.0), None if lower is None else 1 - lower, None if upper is None else 1 - upper
    )


def _thousands(rows: int) -> str:
    return f"{rows / 1_000:.0f}k" if rows >= 10_000 else f"{rows / 1_000:.1f}k" if rows >= 1_000 else str(rows)
