"""A half-open span of UTC time, and its split into the days that loads replace."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """``start`` ≤ t < ``end``; both are aware and in UTC. Raises ``ValueError`` if empty, reversed or naive."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        for bound in (self.start, self.end):
            if bound.tzinfo is None or bound.utcoffset() != timedelta(0):
                raise ValueError(f"window bound {bound.isoformat()} is not in UTC: write it like 2026-01-05T00:00:00Z")
        if self.end <= self.start:
            raise ValueError(f"window ends ({self.end.isoformat()}) at or before it starts ({self.start.isoformat()})")

    @classmethod
    def parse(cls, start: str, end: str) -> Window:
        """From two ISO 8601 texts; a date alone means its midnight, a text without zone means UTC."""
        return cls(_parse(start), _parse(end))

    @classmethod
    def of_day(cls, day: date) -> Window:
        """The whole UTC day."""
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        return cls(start, start + timedelta(days=1))

    @property
    def start_ns(self) -> int:
        """Nanoseconds since 1970."""
        return _ns(self.start)

    @property
    def end_ns(self) -> int:
        """Nanoseconds since 1970."""
        return _ns(self.end)

    def days(self) -> list[date]:
        """The UTC days that the window covers wholly or in part. Loads replace whole days."""
        first, last = self.start.date(), (self.end - timedelta(microseconds=1)).date()
        return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def _parse(text: str) -> datetime:
    try:
        bound = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no date or time: write it like 2026-01-05 or 2026-01-05T06:00:00Z") from None
    return bound.replace(tzinfo=UTC) if bound.tzinfo is None else bound.astimezone(UTC)


def _ns(bound: datetime) -> int:
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return ((bound - epoch) // timedelta(microseconds=1)) * 1_000
