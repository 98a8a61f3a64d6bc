"""What the DAGs share: which window, and when a model is not published."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

WEEK = (datetime(2026, 8, 3, 3, tzinfo=UTC), datetime(2026, 8, 10, 3, tzinfo=UTC))


@pytest.fixture
def wiring(airflow_home):
    import wiring

    return wiring


def test_the_form_goes_before_the_interval(wiring) -> None:
    chosen = wiring.chosen_window({"start": "2026-07-01", "end": "2026-07-02"}, *WEEK)
    assert chosen == ("2026-07-01", "2026-07-02")


def test_a_scheduled_run_takes_whole_days(wiring) -> None:
    chosen = wiring.chosen_window({"start": None, "end": None}, *WEEK)
    assert chosen == ("2026-08-03T00:00:00+00:00", "2026-08-10T00:00:00+00:00")


@pytest.mark.parametrize("params", [{"start": "2026-07-01"}, {"end": "2026-07-01"}])
def test_half_a_window_is_refused(wiring, params) -> None:
    with pytest.raises(ValueError, match="only one of From and To"):
        wiring.chosen_window(params, *WEEK)


@pytest.mark.parametrize("interval", [(None, None), (WEEK[0], WEEK[0])])
def test_a_run_without_a_week_asks_for_one(wiring, interval) -> None:
    with pytest.raises(ValueError, match="give From and To"):
        wiring.chosen_window({}, *interval)


def test_only_a_pass_is_published_and_the_reason_is_a_sentence(dags) -> None:
    import sys

    weekly = sys.modules[dags["dwcp_weekly_retraining"].get_task("plan_window").python_callable.__module__]
    assert weekly.why_not_published({"gate": {"verdict": "PASS", "reasons": []}}) is None
    reason = weekly.why_not_published({"gate": {"verdict": "INCONCLUSIVE", "reasons": ["12 rows", "wide interval"]}})
    assert reason == "not published: the gate says INCONCLUSIVE: 12 rows; wide interval"
