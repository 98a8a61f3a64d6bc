"""The steps of the staged rollout and of a rollback by hand, and ``dwcp rollout``, on a real Postgres."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dwcp.cli import app
from dwcp.pipeline.rollout import approved_by, judge_region, move_region, plan_rollback, roll_back
from dwcp.release.publish import publish
from dwcp.release.registry import RegionState, connect, region_states
from dwcp.settings import Settings
from releases import clear, ready, settings_for
from rollouts import NO_SOAK, look

ASKED = {"who": "test", "reason": "a test"}
HERE = "us-east"
YES = {"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "kim"}}
NO = {**YES, "chosen_options": ["Reject"]}


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    made = settings_for(tmp_path, warehouse, rollout_immediate=False, rollout_approve_canary=True, **NO_SOAK)
    ready(made, "v1", "v2")
    publish(made.model_copy(update={"rollout_immediate": True}), "v1", **ASKED)
    publish(made, "v2", **ASKED)
    return made


def served(settings: Settings) -> RegionState:
    with connect(settings) as db:
        return region_states(db)[HERE]


def test_a_step_is_taken_once_and_after_a_yes_only(settings: Settings):
    judged = judge_region(settings, region=HERE)
    assert (judged["action"], judged["version"], judged["target"], judged["approval"]) == (
        "advance",
        "v2",
        "canary",
        True,
    )
    asked = {"run_id": "run-1", "region": HERE, "judged": judged}
    assert "waits for a person's approval" in move_region(settings, **asked)["line"]
    assert move_region(settings, **asked, approval=NO)["line"].endswith("kim said no; the next run asks again")
    assert served(settings) == RegionState("v1", "v2", 0)
    for _ in range(2):
        move_region(settings, **asked, approval=YES)
        assert served(settings) == RegionState("v1", "v2", 500)


def test_harm_seen_after_the_approval_reverts(settings: Settings):
    judged = judge_region(settings, region=HERE)
    look(settings, "v2", "rollback")
    moved = move_region(settings, run_id="run-1", region=HERE, judged=judged, approval=YES)
    assert moved["line"].startswith(f"{HERE}: revert v2 from shadow to rolled_back (realised accuracy 50.00%")
    assert served(settings) == RegionState("v1")


@pytest.mark.parametrize(
    ("approval", "name"), [(None, None), (NO, None), (YES, "kim"), ({"chosen_options": ["Approve"]}, "somebody")]
)
def test_only_approve_is_a_yes(approval: dict | None, name: str | None):
    assert approved_by(approval) == name


def test_a_rollback_is_planned_in_one_line_or_refused(settings: Settings):
    plan = plan_rollback(settings, region=HERE, to="last-good", reason=" slow ")
    assert plan == {"regions": [HERE], "to": "last-good", "reason": "slow"}
    with pytest.raises(ValueError, match="v2: it was registered but never published in full") as refused:
        plan_rollback(settings, region="all", to="v2", reason="slow")
    assert type(refused.value) is ValueError, "which is not tried again"
    assert roll_back(settings, who="kim", plan=plan)["changed"] == {HERE: None}
    assert "already" in roll_back(settings, who="kim", plan=plan)["notes"][0]


def test_the_command_line(settings: Settings, warehouse, monkeypatch: pytest.MonkeyPatch):
    for role in ("owner", "loader", "reader", "registry"):
        monkeypatch.setenv(f"DWCP_{role.upper()}_DSN", getattr(warehouse, f"{role}_dsn"))
    monkeypatch.setenv("DWCP_HOME", str(settings.home))
    for name in NO_SOAK:
        monkeypatch.setenv(f"DWCP_{name.upper()}", "PT0S")

    def dwcp(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["rollout", *arguments])
        assert done.exception is None, done.output
        return done.output

    assert f"{HERE}: v1 serves, v2 is in shadow; advance v2 from shadow to canary" in dwcp("status")
    why = ("--reason", "a test", "--who", "kim")
    assert dwcp("pause", "--region", HERE, *why) == f"paused: {HERE}\n"
    assert dwcp("pause", "--region", HERE, *why).startswith("nothing to change")
    assert "hold (paused by kim on" in dwcp("advance", "--region", HERE, "--who", "kim")
    assert served(settings) == RegionState("v1", "v2", 0)
    assert dwcp("resume", *why) == f"resumed: {HERE}\n"
    dwcp("advance", "--region", HERE)
    assert served(settings) == RegionState("v1", "v2", 500)
    assert dwcp("states").startswith("# The states of a rollout")
