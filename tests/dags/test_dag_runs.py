"""Both DAGs run through Airflow in this process, each step replaced by one that records its call.

What is tested here is the wiring: which arguments reach which function, what is skipped and what is red. The real steps
behind the real components run in ``test_airflow_site.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from dwcp.pipeline import QualityGateFailed, ReconcileFailed
from dwcp.pipeline.options import BackfillOptions
from dwcp.settings import Settings

COUNTS = {"read": 10, "loaded": 9, "quarantined": 1, "duplicate": 0}
WEEK = {"start": "2026-08-03", "end": "2026-08-05"}
LAST_WEEK = {"start": "2026-07-29", "end": "2026-08-05"}
DAYS = ["2026-08-03", "2026-08-04"]


@dataclass
class Steps:
    """Stand-ins for the pipeline's functions: what each returns (or raises), and how each was called."""

    answers: dict[str, Any]
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def stand_in(settings: Settings, **arguments: Any) -> Any:
            assert isinstance(settings, Settings)
            self.calls.append((name, arguments))
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer(**arguments) if callable(answer) else answer

        return stand_in

    def of(self, name: str) -> list[dict[str, Any]]:
        return [arguments for called, arguments in self.calls if called == name]


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch, dags) -> Steps:
    """A week that passes every gate; tests change single answers."""
    import wiring

    steps = Steps(
        {
            "plan_window": {"start": "2026-08-03T00:00:00+00:00", "end": "2026-08-05T00:00:00+00:00", "days": DAYS},
            "load_day": lambda day, **_: {"day": day, **COUNTS},
            "reconcile": COUNTS,
            "validate": {"passed": True, "report": "quality/r.html"},
            "build_dataset": {"dataset": {"data": "sha256:1/d"}, "rows": {"train": 1}},
            "train_xgboost": {"split": "time", "model": "sha256:2/x"},
            "train_network": {"split": "time", "model": "sha256:3/n"},
            "export_model": {"version": "v1", "onnx": "sha256:4/o"},
            "evaluate_model": {"evaluation": "sha256:5/e", "report": "evaluation/r.html"},
            "apply_gate": {"version": "v1", "verdict": "PASS", "reasons": []},
            "publish_model": {"version": "v1", "serial": 7},
            "verify_published": {"serial": 7},
            "watch_field": {"action": "none", "reasons": []},
            "act_on_field": {"done": "nothing"},
            "plan_backfill": {"days": DAYS, "dry_run": True},
            "backfill_day": lambda day, **_: {"day": day, "rows_now": 1, "rows_after": 2, "label_flips": {}},
            "validate_backfill": {"passed": None, "report": None},
            "summarise_backfill": "3 days",
            "plan_retraining": lambda run_id, **_: {**LAST_WEEK, "run_id": f"after__{run_id}"},
        }
    )
    monkeypatch.setattr(wiring, "import_module", lambda name: steps)
    return steps


def run(dag, **conf: Any) -> tuple[str, dict[str, str]]:
    """State of the run and of each task."""
    ended = dag.test(run_conf=conf, logical_date=None, run_after=datetime.now(UTC))
    states = {}
    for ti in ended.get_task_instances():
        name = ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"
        states[name] = str(ti.state)
    return str(ended.state), states


def test_a_week_that_passes_is_published_and_verified(dags, steps: Steps) -> None:
    state, states = run(dags["dwcp_weekly_retraining"], **WEEK)
    assert state == "success"
    assert len(states) == 17
    assert set(states.values()) == {"success"}
    assert steps.of("plan_window") == [WEEK]
    assert sorted(call["day"] for call in steps.of("load_day")) == DAYS
    assert [load["day"] for load in steps.of("reconcile")[0]["loads"]] == DAYS
    assert type(steps.of("reconcile")[0]["loads"]) is list
    published = steps.of("publish_model")[0]
    assert published["exported"]["onnx"] == "sha256:4/o"
    assert published["gate"]["verdict"] == "PASS"
    assert published["dataset"] == {"data": "sha256:1/d"}
    assert len({call["run_id"] for _, call in steps.calls if "run_id" in call}) == 1
    assert steps.of("verify_published") == [{"published": {"version": "v1", "serial": 7}}]


def test_a_model_that_does_not_pass_leaves_a_green_run_without_a_publication(dags, steps: Steps) -> None:
    steps.answers["apply_gate"] = {"version": "v1", "verdict": "FAIL", "reasons": ["accuracy 0.91 < 0.98"]}
    state, states = run(dags["dwcp_weekly_retraining"], **WEEK)
    assert state == "success"
    assert {name: value for name, value in states.items() if value != "success"} == {
        "publish_model": "skipped",
        "verify_published": "skipped",
    }
    assert steps.of("publish_model") == []


def test_a_failed_quality_gate_is_a_red_run_at_once_and_the_watch_still_acts(dags, steps: Steps) -> None:
    steps.answers["validate"] = QualityGateFailed("37 rows have entropy above 1", "quality/r.html")
    state, states = run(dags["dwcp_weekly_retraining"], **WEEK)
    assert state == "failed"
    assert states["validate"] == "failed"
    assert len(steps.of("validate")) == 1
    assert states["build_dataset"] == states["publish_model"] == "upstream_failed"
    assert states["watch_field"] == states["act_on_field"] == "success"


def test_lost_rows_stop_everything_after_reconcile(dags, steps: Steps) -> None:
    steps.answers["reconcile"] = ReconcileFailed("one row is missing")
    state, states = run(dags["dwcp_weekly_retraining"], **WEEK)
    assert state == "failed"
    assert states["watch_field"] == states["validate"] == "upstream_failed"


def test_a_backfill_hands_on_what_the_form_says(dags, steps: Steps) -> None:
    form = {"source": "influxdb", "oracle": "seed_3_2", "relabel_only": False, "dry_run": False}
    state, states = run(dags["dwcp_manual_backfill"], **WEEK, **form, regions=["eu-west"])
    assert state == "success"
    assert len(states) == 7
    assert {name for name, value in states.items() if value == "skipped"} == {"plan_retraining", "retrain"}
    options = BackfillOptions(**form, regions=("eu-west",))
    assert steps.of("plan_backfill") == [{**WEEK, "options": options}]
    for call, day in zip(sorted(steps.of("backfill_day"), key=lambda call: call["day"]), DAYS, strict=True):
        assert call == {"options": options, "day": day, "run_id": call["run_id"]}
    assert len(steps.of("summarise_backfill")[0]["days"]) == 2


@pytest.mark.parametrize(("dry_run", "started"), [(False, 1), (True, 0)])
def test_a_backfill_retrains_once_if_it_is_asked_to(
    dags, steps: Steps, weekly_runs, dry_run: bool, started: int
) -> None:
    steps.answers["plan_backfill"] = {"days": DAYS, "dry_run": dry_run, "retrain": True}
    state, states = run(dags["dwcp_manual_backfill"], **WEEK, dry_run=dry_run, retrain=True)
    assert state == "success"
    assert states["retrain"] == ("success" if started else "skipped")
    assert [conf for _, conf, _ in weekly_runs()] == [LAST_WEEK] * started
    if started:
        [(run_id, _, waits)] = weekly_runs()
        assert run_id == f"after__{steps.of('backfill_day')[0]['run_id']}"
        assert waits == "queued"


def test_a_backfill_that_failed_a_day_or_the_checks_retrains_nothing(dags, steps: Steps, weekly_runs) -> None:
    steps.answers["plan_backfill"] = {"days": DAYS, "dry_run": False, "retrain": True}
    steps.answers["validate_backfill"] = QualityGateFailed("37 rows have entropy above 1", "quality/r.html")
    state, states = run(dags["dwcp_manual_backfill"], **WEEK, dry_run=False, retrain=True)
    assert state == "failed"
    assert states["plan_retraining"] == states["retrain"] == "upstream_failed"
    assert weekly_runs() == []


@pytest.mark.parametrize(
    ("step", "answer", "told"),
    [
        ("apply_gate", {"verdict": "FAIL", "reasons": ["accuracy"], "notices": ["v1: FAIL"]}, "v1: FAIL"),
        ("publish_model", {"version": "v1", "serial": 7, "notices": ["v1: published"]}, "v1: published"),
        ("reconcile", ReconcileFailed("one row is missing"), "dwcp_weekly_retraining: reconcile failed: one row is"),
    ],
)
def test_a_week_tells_people_its_end_in_one_line(
    dags, steps: Steps, sink, monkeypatch: pytest.MonkeyPatch, step: str, answer: object, told: str
) -> None:
    monkeypatch.setenv("DWCP_NOTIFY_WEBHOOK", sink.url)
    steps.answers[step] = answer
    run(dags["dwcp_weekly_retraining"], **WEEK)
    [body] = sink.bodies
    assert body["text"].startswith(told)
    assert "\n" not in body["text"]


def test_a_backfill_is_dry_and_takes_all_regions_unless_told_otherwise(dags, steps: Steps) -> None:
    run(dags["dwcp_manual_backfill"], **WEEK)
    asked = steps.of("plan_backfill")[0]["options"]
    assert asked.dry_run is True
    assert asked.regions == ()


def test_a_refused_backfill_touches_nothing_and_is_not_tried_again(dags, steps: Steps) -> None:
    steps.answers["plan_backfill"] = ValueError("400 days are more than a backfill may take (92)")
    state, states = run(dags["dwcp_manual_backfill"], **WEEK)
    assert state == "failed"
    assert states["plan_backfill"] == "failed"
    assert [name for name, _ in steps.calls] == ["plan_backfill"]


def test_a_form_with_a_wrong_choice_is_refused(dags, steps: Steps) -> None:
    from airflow.sdk.exceptions import AirflowException

    for wrong in ({"source": "prometheus"}, {"regions": ["mars"]}, {"start": "yesterday"}, {"dry_run": "no"}):
        with pytest.raises((AirflowException, ValueError)):
            run(dags["dwcp_manual_backfill"], **{**WEEK, **wrong})
    assert steps.calls == []
