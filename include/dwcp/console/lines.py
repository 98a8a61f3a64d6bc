"""A quantity over time as inline SVG: the line, its interval as a band, its limit, and releases as marks.

Text and lines take the page's colours, so that they read in light and dark; no script, nothing from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median

from markupsafe import Markup, escape

from dwcp.console.queries import Mark, Point
from dwcp.console.wording import Quantity

WIDTH, HEIGHT = 540, 220
LEFT, RIGHT, TOP, BOTTOM = 72, 12, 26, 26
LIMIT_WITHIN = 4.0
"""A limit that lies farther off than so many spans of the data is written and not drawn: it would flatten the line."""
MARK_APART = 74
"""Closer marks keep their lines and lose their words; the log has them all."""
MARKED = {"canary": ("canary", "mark"), "full": ("full", "mark"), "rolled_back": ("taken back", "mark bad")}
DASHES = ("", "6 3", "2 3")
"""Of the lines of one plot: told apart without colour."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot; ``points`` oldest first."""

    name: str
    points: Sequence[Point]


@dataclass(frozen=True, slots=True)
class _Frame:
    start: datetime
    until: datetime
    low: float
    high: float

    def x(self, at: datetime) -> float:
        share = (at - self.start) / (self.until - self.start)
        return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def plot(
    title: str,
    lines: Sequence[Line],
    marks: Sequence[Mark],
    *,
    start: datetime,
    until: datetime,
    gap: timedelta,
    quantity: Quantity,
) -> Markup:
    """The plot as an SVG element; empty if there is no point. ``quantity`` words the values and the limit.

    ``gap``: a line is broken where two points lie farther apart, so that a silence is seen as one. The band is that of
    the first line.
    """
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup()
    said, threshold = quantity.value, quantity.limit(points[-1].threshold)
    frame = _Frame(start, until, *_range(points, threshold))
    parts = [_axes(frame, said)]
    parts += _marks(frame, marks)
    if threshold is not None:
        parts.append(_limit(frame, threshold, said))
    parts += [_band(frame, part) for part in _parts(lines[0].points, gap)]
    for line, dash in zip(lines, DASHES, strict=False):
        parts += [_line(frame, part, dash) for part in _parts(line.points, gap)]
    newest = "; ".join(f"{line.name} {said(line.points[-1].value)}" for line in lines if line.points)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, f"{title}, newest: {newest}", Markup().join(parts)
    )


def _range(points: Sequence[Point], threshold: float | None) -> tuple[float, float]:
    """What the y axis spans: every value, of the bands as much as is usual (some are huge), the limit if it is near."""
    values = [point.value for point in points]
    halves = [(p.upper - p.lower) / 2 for p in points if p.lower is not None and p.upper is not None]
    room = median(halves) if halves else 0.0
    low, high = min(values) - room, max(values) + room
    near = LIMIT_WITHIN * (high - low)
    if threshold is not None and low - near <= threshold <= high + near:
        low, high = min(low, threshold), max(high, threshold)
    pad = (high - low) * 0.06 or abs(high) * 0.05 or 0.01
    return low - pad, high + pad


def _limit(frame: _Frame, threshold: float, said: Callable[[float | None], str]) -> Markup:
    if frame.low < threshold < frame.high:
        y = frame.y(threshold)
        line, text = Markup('<path class="limit" d="M{} {}H{}"/>').format(LEFT, y, WIDTH - RIGHT), "limit"
        y -= 4
    else:
        line, text = Markup(), "limit far above:" if threshold >= frame.high else "limit far below:"
        y = TOP + 10 if threshold >= frame.high else HEIGHT - BOTTOM - 6
    words = Markup('<text class="limit" x="{}" y="{}" text-anchor="end">{} {}</text>')
    return line + words.format(WIDTH - RIGHT - 2, y, text, said(threshold))


def _axes(frame: _Frame, said: Callable[[float | None], str]) -> Markup:
    rows = Markup().join(
        Markup('<path class="grid" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text>').format(
            LEFT, frame.y(value), WIDTH - RIGHT, LEFT - 6, frame.y(value) + 4, said(value)
        )
        for value in (frame.low + (frame.high - frame.low) * share for share in (0.04, 0.5, 0.96))
    )
    days = (frame.until - frame.start).days
    columns = Markup().join(
        Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
            frame.x(at), HEIGHT - 8, anchor, f"{at:%d %b %Y}" if days > 300 else f"{at:%d %b}"
        )
        for at, anchor in (
            (frame.start, "start"),
            (frame.start + (frame.until - frame.start) / 2, "middle"),
            (frame.until, "end"),
        )
    )
    return rows + columns


def _marks(frame: _Frame, marks: Sequence[Mark]) -> Iterator[Markup]:
    """A line each; words where there is room for them."""
    free = 0.0
    for mark in marks:
        word, kind = MARKED[mark.state]
        x = frame.x(mark.at)
        text = Markup()
        if x >= free:
            anchor = "end" if x > WIDTH - RIGHT - MARK_APART else "start"
            text = Markup('<text class="{}" x="{}" y="14" text-anchor="{}">{}</text>').format(kind, x, anchor, word)
            free = x + MARK_APART
        yield Markup('<g><title>{} {} at {}</title><path class="{}" d="M{} {}V{}"/>{}</g>').format(
            word, mark.version, f"{mark.at:%Y-%m-%d %H:%M} UTC", kind, x, TOP - 8, HEIGHT - BOTTOM, text
        )


def _parts(points: Sequence[Point], gap: timedelta) -> list[list[Point]]:
    """The points, cut where they lie farther apart than ``gap``."""
    parts: list[list[Point]] = []
    for point in points:
        if parts and point.hour - parts[-1][-1].hour <= gap:
            parts[-1].append(point)
        else:
            parts.append([point])
    return parts


def _line(frame: _Frame, part: Sequence[Point], dash: str) -> Markup:
    if len(part) == 1:
        return Markup('<circle class="line" cx="{}" cy="{}" r="2.5"/>').format(
            frame.x(part[0].hour), frame.y(part[0].value)
        )
    path = "L".join(f"{frame.x(point.hour)} {frame.y(point.value)}" for point in part)
    return Markup('<path class="line" stroke-dasharray="{}" d="M{}"/>').format(dash, path)


def _band(frame: _Frame, part: Sequence[Point]) -> Markup:
    known = [(frame.x(p.hour), p.lower, p.upper) for p in part if p.lower is not None and p.upper is not None]
    if not known:
        return Markup()
    if len(known) == 1:
        x, lower, upper = known[0]
        return Markup('<path class="whisker" d="M{} {}V{}"/>').format(x, frame.y(lower), frame.y(upper))
    above = [f"{x} {frame.y(upper)}" for x, _, upper in known]
    below = [f"{x} {frame.y(lower)}" for x, lower, _ in reversed(known)]
    return Markup('<path class="band" d="M{}Z"/>').format(escape("L".join(above + below)))
