"""Windows are half-open, in UTC, and split into the days that loads replace."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.window import Window

MOMENTS = st.datetimes(datetime(1971, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    start = draw(MOMENTS)
    return Window(start, start + draw(st.timedeltas(timedelta(microseconds=1), timedelta(days=40))))


@given(windows())
def test_days_cover_the_window_and_no_more(window: Window) -> None:
    days = [Window.of_day(day) for day in window.days()]
    assert days[0].start <= window.start < days[0].end
    assert days[-1].start < window.end <= days[-1].end
    assert all(a.end == b.start for a, b in pairwise(days))


@given(windows())
def test_nanoseconds_are_exact(window: Window) -> None:
    for bound, ns in ((window.start, window.start_ns), (window.end, window.end_ns)):
        assert ns % 1_000 == 0
        assert EPOCH + timedelta(microseconds=ns // 1_000) == bound
    assert window.start_ns < window.end_ns


@given(windows())
def test_what_is_written_is_read(window: Window) -> None:
    assert Window.parse(window.start.isoformat(), window.end.isoformat()) == window


def test_a_day_ends_where_the_next_begins() -> None:
    day = Window.of_day(date(2026, 8, 3))
    assert day.days() == [date(2026, 8, 3)]
    assert day.end_ns - day.start_ns == 86_400 * 10**9


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-08-03", "2026-08-04"),
        ("2026-08-03T00:00", "2026-08-04T00:00:00"),
        ("2026-08-03T00:00:00Z", "2026-08-04T00:00:00Z"),
        ("2026-08-03T05:30:00+05:30", "2026-08-03T19:00:00-05:00"),
    ],
)
def test_texts_of_one_day(start: str, end: str) -> None:
    assert Window.parse(start, end) == Window.of_day(date(2026, 8, 3))


@pytest.mark.parametrize("text", ["", "tomorrow", "2026-13-01", "03.08.2026"])
def test_a_text_that_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="write it like"):
        Window.parse(text, "2026-08-04")


@given(windows(), st.integers(-23, 23).filter(bool))
def test_bounds_that_are_not_utc_are_refused(window: Window, hours: int) -> None:
    elsewhere = window.start.astimezone(timezone(timedelta(hours=hours)))
    for bound in (elsewhere, window.start.replace(tzinfo=None)):
        with pytest.raises(ValueError, match="not in UTC"):
            Window(bound, window.end)


@given(windows())
def test_empty_and_reversed_windows_are_refused(window: Window) -> None:
    with pytest.raises(ValueError, match="at or before it starts"):
        Window(window.end, window.start)
    with pytest.raises(ValueError, match="at or before it starts"):
        Window(window.start, window.start)
