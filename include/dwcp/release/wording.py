"""How figures read in the report, the model card and the evaluation page: one format a unit, units always written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dwcp.release.gate import Line
    from dwcp.release.intervals import Interval

NOTHING = "–"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent."""
    return NOTHING if value is None else f"{value:.{digits}%}".replace("%", " %")


def interval(found: Interval, digits: int = 2) -> str:
    """An estimate with its 95 % interval, in percent: ``98.32 % (97.85 to 98.77)``."""
    if found.estimate is None or found.lower is None or found.upper is None:
        return percent(found.estimate, digits)
    return f"{percent(found.estimate, digits)} ({bounds(found.lower, found.upper, digits)})"


def bounds(lower: float | None, upper: float | None, digits: int = 2) -> str:
    """The bounds of an interval, in percent without the sign."""
    if lower is None or upper is None:
        return NOTHING
    return f"{100 * lower:.{digits}f} to {100 * upper:.{digits}f}"


def by_region(said: Mapping[str, str]) -> str:
    """What is said of each region, those of which the same is said together: ``eu-west, us-east: v2 is …; …``."""
    regions: dict[str, list[str]] = {}
    for region, text in said.items():
        regions.setdefault(text, []).append(region)
    return "; ".join(f"{', '.join(where)}: {text}" for text, where in regions.items())


def quantity(value: float | None, unit: str) -> str:
    """``value`` in a unit of the gate's lines."""
    if value is None:
        return NOTHING
    if unit == "ms":
        return f"{value:.3g} ms"
    if unit == "byte":
        return f"{value / 1e6:.1f} MB"
    if unit == "count":
        return f"{value:,.0f}"
    if unit == "points":
        return f"{100 * value:+.2f} points"
    return percent(value, 3 if unit == "regret" else 2)


def threshold(line: Line) -> str:
    """The gate's threshold with its side."""
    return f"{'≥' if line.at_least else '≤'} {quantity(line.threshold, line.unit)}"


def line_bounds(line: Line) -> str:
    """The interval of a gate's line; a dash for a figure that is counted and not estimated."""
    return bounds(line.lower, line.upper, 3 if line.unit == "regret" else 2)
