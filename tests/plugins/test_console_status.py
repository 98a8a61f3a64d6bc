"""The one sentence that says whether something is wrong, and how figures and lines read."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from dwcp.console.lines import Line, plot
from dwcp.console.queries import Day, Facts, FailedDay, Figure, Look, Mark, Pause, Place, Point
from dwcp.console.status import judge, lasting
from dwcp.console.wording import QUANTITIES, quantity
from dwcp.settings import Settings
from dwcp.watch.decide import POLICY

NOW = datetime(2026, 11, 24, 3, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = Settings()
FULL = Place("eu-west", "v2", "full", "champion", 10_000, NOW - 48 * HOUR, "staged rollout", "soak over")
LOOK = Look("eu-west", "v2", NOW - HOUR, NOW - HOUR, "PASS", "none", ["everything is within its limits"], None)
STALE = Figure("eu-west", "v2", "champion", NOW, "staleness_days", 15.0, None, None, 0, None, None, "", {})
NOTHING = Facts(NOW, (), (), (), (), (), (), (), (), ())
FINE = replace(NOTHING, places=(FULL,), looks=(LOOK,))


def sentence(facts: Facts) -> str:
    return judge(facts, SETTINGS).sentence


def test_where_all_is_well_it_says_so_and_nothing_else() -> None:
    status = judge(FINE, SETTINGS)
    assert (status.urgency, status.concerns) == ("fine", ())
    assert status.sentence == "Nothing is wrong: every model that decides was found within its limits."


def test_too_little_data_is_not_called_well() -> None:
    unsure = replace(LOOK, verdict="INCONCLUSIVE", reasons=["too little data to judge accuracy"])
    said = "Nothing is known to be wrong; too little was measured to be sure in eu-west."
    assert sentence(replace(FINE, looks=(unsure,))) == said
    just_came = replace(FULL, since=NOW - HOUR)
    assert sentence(replace(FINE, places=(just_came,), looks=())) == said


def test_without_a_model_there_is_nothing_to_fear() -> None:
    assert sentence(NOTHING) == "Nothing is wrong: no model decides anywhere, the rules do."


def test_harm_comes_first_and_names_version_region_and_figure() -> None:
    reason = "accuracy 93.00% (92.00% to 94.00%, 5,200 rows) is beyond the limit (limit 95.00%)"
    harm = replace(LOOK, verdict="FAIL", action="rollback", reasons=[reason])
    pause = Pause("ap-south", NOW - HOUR, "on-call", "link works")
    status = judge(replace(FINE, looks=(harm,), pauses=(pause,)), SETTINGS)
    assert status.sentence == f"Something is wrong: v2 (full) does harm in eu-west: {reason}."
    assert [concern.urgency for concern in status.concerns] == ["now", "day"]
    assert status.regions()[:2] == ("eu-west", "ap-south")


def test_harm_in_the_shadow_wakes_nobody() -> None:
    shadow = replace(FULL, state="shadow", role="challenger", share_buckets=0)
    status = judge(replace(FINE, places=(shadow,), looks=(replace(LOOK, verdict="FAIL"),)), SETTINGS)
    assert status.urgency == "day"


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ((), "v2 (full) in eu-west was never judged"),
        ((replace(LOOK, observed_at=NOW - 40 * HOUR),), "v2 (full) in eu-west was last looked at 1 day ago"),
    ],
)
def test_what_nobody_looks_at_is_not_called_well(looks: tuple[Look, ...], said: str) -> None:
    status = judge(replace(FINE, looks=looks), SETTINGS)
    assert status.urgency == "unknown"
    assert status.sentence.startswith(f"Nobody can tell whether something is wrong: {said}")


@pytest.mark.parametrize(
    "changed",
    [
        {"pauses": (Pause("eu-west", NOW, "on-call", "why"),)},
        {"looks": (replace(LOOK, action="alert", verdict="INCONCLUSIVE", reasons=["p99 is over"]),)},
        {"failed_days": (FailedDay(date(2026, 11, 23), "eu-west", "link_type is unknown"),)},
        {"days": (Day(date(2026, 11, 23), 6, 0, 6, 1_000, 900, 100),)},
        {"places": (FULL, replace(FULL, version="v3", state="rolled_back", role="none", since=NOW - HOUR))},
        {
            "figures": (
                Figure("eu-west", "v2", "champion", NOW, "staleness_days", 15.0, None, None, 0, None, None, "", {}),
            )
        },
    ],
)
def test_what_can_wait_waits_for_the_day(changed: dict[str, object]) -> None:
    status = judge(replace(FINE, **changed), SETTINGS)
    assert (status.urgency, len(status.concerns)) == ("day", 1)
    assert status.sentence == "Nothing is known to do harm now; one thing waits to be looked at by day."


@pytest.mark.parametrize(
    ("span", "text"), [(timedelta(seconds=5), "less than a minute"), (HOUR, "1 hour"), (50 * HOUR, "2 days")]
)
def test_spans_read_as_people_say_them(span: timedelta, text: str) -> None:
    assert lasting(span) == text


def test_every_quantity_of_the_policy_is_worded_with_its_side() -> None:
    for rule in POLICY:
        worded = QUANTITIES[rule.quantity]
        assert worded.loss == (rule.harm == "regression"), rule.quantity
        assert worded.good == ("≤" if rule.harm == "above" else "≥"), rule.quantity


def test_limits_are_written_on_the_scale_of_the_value() -> None:
    assert quantity("throughput_gain").beyond(0.05) == "≥ -5.00 %"
    assert quantity("accuracy").beyond(0.95) == "≥ 95.00 %"
    assert quantity("latency_p99_ms").beyond(15.0) == "≤ 15.000 ms"
    assert quantity("mean_regret").beyond(None) == ""
    assert quantity("accuracy_drop").value(0.012) == "+1.20 points"


def drawn(points: list[Point], *marks: Mark, name: str = "accuracy") -> str:
    return str(
        plot(
            "<b>title",
            [Line(name, points)],
            marks,
            start=NOW - 10 * HOUR,
            until=NOW,
            gap=2 * HOUR,
            quantity=quantity(name),
        )
    )


def point(hours_ago: int, value: float = 0.98, threshold: float | None = 0.95) -> Point:
    return Point("accuracy", NOW - hours_ago * HOUR, "v2", "champion", value, value - 0.01, value + 0.01, threshold)


def test_a_silence_breaks_the_line_and_its_band() -> None:
    svg = drawn([point(9), point(8), point(3), point(2), point(1)])
    assert (svg.count('class="line"'), svg.count('class="band"')) == (2, 2)


def test_a_near_limit_is_drawn_and_a_far_one_is_written() -> None:
    assert 'path class="limit"' in drawn([point(2, 0.96), point(1, 0.97)])
    far = drawn([point(2, 0.96, 0.1), point(1, 0.97, 0.1)])
    assert 'path class="limit"' not in far
    assert "limit far below: 10.00 %" in far


def test_releases_are_marked_and_what_was_taken_back_stands_out() -> None:
    svg = drawn([point(2), point(1)], Mark(NOW - 9 * HOUR, "v2", "full"), Mark(NOW - 2 * HOUR, "v<3>", "rolled_back"))
    assert ">full</text>" in svg
    assert "taken back v&lt;3&gt; at" in svg
    assert 'path class="mark bad"' in svg


def test_nothing_measured_draws_nothing_and_text_is_escaped() -> None:
    assert drawn([]) == ""
    assert "&lt;b&gt;title" in drawn([point(1)])
