"""The policy as a table of cases, and what keeps the watch's hand still."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dwcp.settings import Settings
from dwcp.watch.decide import BY_QUANTITY, POLICY, STRENGTH, Before, Decision, decide, policy_table
from dwcp.watch.measure import Figure, Measurement
from dwcp.watch.page import policy_page

SETTINGS = Settings()
NOW = datetime(2026, 8, 10, 6, tzinfo=UTC)
HOUR = timedelta(hours=1)
WELL = {
    "accuracy": (0.975, 0.985),
    "accuracy_drop": (-0.01, 0.01),
    "throughput_loss": (0.0, 0.01),
    "throughput_gain": (-0.02, 0.03),
    "bulk_throughput_gain": (-0.03, 0.05),
    "suboptimal_share": (0.01, 0.03),
    "overhead_of_time": (0.001, 0.01),
    "overhead_of_cpu": (0.001, 0.01),
    "latency_p99_ms": (0.1, 0.3),
    "feature_psi": (-0.1, 0.1),
    "feature_distance": (-0.1, 0.05),
    "prediction_drift": (-0.1, 0.1),
    "label_drift": (-0.1, 0.1),
    "quarantine_rise": (-0.01, 0.01),
    "missing_predictions": (0.0, 0.01),
}
HARM = {
    "accuracy": (0.90, 0.949),
    "accuracy_drop": (0.031, 0.05),
    "throughput_loss": (0.051, 0.2),
    "throughput_gain": (-0.08, -0.001),
    "bulk_throughput_gain": (-0.08, -0.001),
    "suboptimal_share": (0.051, 0.1),
    "overhead_of_time": (0.021, 0.1),
    "overhead_of_cpu": (0.021, 0.1),
    "latency_p99_ms": (15.1, 20.0),
    "feature_psi": (0.26, 0.5),
    "feature_distance": (0.11, 0.2),
    "prediction_drift": (0.26, 0.5),
    "label_drift": (0.26, 0.5),
    "quarantine_rise": (0.06, 0.1),
    "missing_predictions": (0.06, 0.1),
}


def figure(lower: float, upper: float, rows: int = 1_000) -> Figure:
    return Figure((lower + upper) / 2, lower, upper, rows, float(rows))


def measured(role: str = "champion", **changes: tuple[float, float] | Figure) -> Measurement:
    parts = {**WELL, **changes}
    figures = {name: part if isinstance(part, Figure) else figure(*part) for name, part in parts.items()}
    return Measurement("v1", role, 5_000, 1_000, 0, 0.99, 200.0, figures)


def decided(role: str = "champion", *, now: datetime = NOW, before: Before | None = None, **changes) -> Decision:
    return decide(measured(role, **changes), SETTINGS, now=now, before=before)


@pytest.mark.parametrize("role", ["shadow", "canary", "champion"])
def test_all_well_passes_and_does_nothing(role: str):
    found = decided(role)
    assert (found.action, found.verdict, found.standing) == ("none", "PASS", {})
    assert found.reasons[0].startswith("accuracy 98.00% (97.50% to 98.50%, 1,000 rows")


@pytest.mark.parametrize(
    ("role", "changes", "action"),
    [
        # realised accuracy below 95 %, in canary and after
        ("canary", {"accuracy": (0.90, 0.9499)}, "rollback"),
        ("champion", {"accuracy": (0.90, 0.9499)}, "rollback"),
        ("champion", {"accuracy": (0.90, 0.9501)}, "none"),
        ("champion", {"accuracy": (0.0, 0.0)}, "rollback"),
        ("shadow", {"accuracy": (0.0, 0.1)}, "none"),
        # throughput regression over 5 %
        ("canary", {"throughput_gain": (-0.07, -0.03)}, "rollback"),
        ("canary", {"throughput_gain": (-0.051, -0.0001)}, "rollback"),
        ("canary", {"throughput_gain": (-0.20, 0.0001)}, "none"),
        ("canary", {"throughput_gain": (-0.049, -0.02)}, "none"),
        ("canary", {"throughput_gain": (0.1, 0.9)}, "none"),
        ("canary", {"bulk_throughput_gain": (-0.3, -0.1)}, "rollback"),
        ("champion", {"throughput_gain": (-0.3, -0.1)}, "none"),
        ("champion", {"throughput_loss": (0.0501, 0.2)}, "rollback"),
        ("champion", {"throughput_loss": (0.0499, 0.2)}, "none"),
        # accuracy 3 points below that of the release
        ("champion", {"accuracy_drop": (0.0301, 0.04)}, "retrain"),
        ("champion", {"accuracy_drop": (0.0299, 0.04)}, "none"),
        # suboptimal over 5 %, overhead over 2 %, p99 over 15 ms
        ("champion", {"suboptimal_share": (0.0501, 0.1)}, "alert"),
        ("champion", {"suboptimal_share": (0.0499, 0.1)}, "none"),
        ("canary", {"overhead_of_time": (0.0201, 0.1)}, "alert"),
        ("canary", {"overhead_of_cpu": (0.0201, 0.1)}, "alert"),
        ("canary", {"overhead_of_cpu": (0.0199, 0.1)}, "none"),
        ("shadow", {"latency_p99_ms": (15.1, 99.0)}, "alert"),
        ("champion", {"latency_p99_ms": (14.9, 99.0)}, "none"),
        # drift alone
        ("champion", {"feature_psi": (0.26, 9.0), "feature_distance": (0.2, 0.3)}, "alert"),
        ("champion", {"feature_psi": (0.24, 9.0)}, "none"),
        ("champion", {"label_drift": (9.0, 9.0), "prediction_drift": (9.0, 9.0)}, "alert"),
        ("champion", {"quarantine_rise": (0.2, 0.3)}, "alert"),
        ("shadow", {"missing_predictions": (0.2, 0.3)}, "alert"),
        # the strongest action wins
        ("champion", {"feature_psi": (1.0, 1.0), "accuracy_drop": (0.04, 0.05)}, "retrain"),
        ("champion", {"accuracy_drop": (0.06, 0.08), "accuracy": (0.91, 0.93)}, "rollback"),
        # too little data does nothing, however bad it looks
        ("champion", {"accuracy": figure(0.0, 0.1, rows=499), "accuracy_drop": figure(0.8, 0.9, rows=499)}, "none"),
        ("champion", {"accuracy": figure(0.0, 0.1, rows=500)}, "rollback"),
        ("canary", {"throughput_gain": figure(-0.9, -0.8, rows=199)}, "none"),
        ("canary", {"throughput_gain": Figure(-0.9, None, None, 900, 900.0)}, "none"),
        ("champion", {"suboptimal_share": figure(0.5, 0.6, rows=499)}, "none"),
    ],
)
def test_every_row_of_the_table(role: str, changes: dict, action: str):
    assert decided(role, **changes).action == action


@pytest.mark.parametrize("rule", POLICY, ids=lambda rule: rule.quantity)
def test_every_rule_fires_alone_and_has_limit_and_sentence(rule):
    found = decided(rule.roles[-1], **{rule.quantity: HARM[rule.quantity]})
    assert found.action == rule.action
    assert "is beyond the limit" in found.reasons[0]
    assert found.judgements[rule.quantity].status == "FAIL"
    assert found.judgements[rule.quantity].threshold == getattr(SETTINGS, rule.setting)


@pytest.mark.parametrize("rule", POLICY, ids=lambda rule: rule.quantity)
def test_every_threshold_is_a_setting(rule):
    relaxed = SETTINGS.model_copy(update={rule.setting: 0.01 if rule.harm == "below" else 1e3})
    harmed = measured(rule.roles[-1], **{rule.quantity: HARM[rule.quantity]})
    assert decide(harmed, relaxed, now=NOW).action == "none"


def test_too_little_data_is_said_and_no_verdict():
    found = decided(accuracy=figure(0.0, 0.1, rows=20))
    assert (found.action, found.verdict) == ("none", "INCONCLUSIVE")
    assert found.reasons == ("too little data to judge accuracy: 20 rows count as 20; 500 are needed",)


def test_labels_that_do_not_repeat_roll_nothing_back():
    """Nine labels of ten repeat: a perfect model would score 90 %, and 88 % says nothing."""
    noisy = replace(measured(accuracy=(0.87, 0.89)), label_ceiling=0.9)
    found = decide(noisy, SETTINGS, now=NOW)
    assert (found.action, found.verdict) == ("none", "INCONCLUSIVE")
    assert found.reasons == ("accuracy cannot be judged: such labels repeat in 90.0% of transfers only",)


@pytest.mark.parametrize(
    ("role", "changes", "verdict"),
    [
        ("shadow", {"accuracy": (0.9, 0.94)}, "FAIL"),
        ("shadow", {"accuracy": (0.94, 0.97)}, "INCONCLUSIVE"),
        ("canary", {"throughput_gain": (-0.2, 0.1)}, "INCONCLUSIVE"),
        ("canary", {"throughput_gain": (-0.049, -0.02)}, "PASS"),
        ("canary", {"bulk_throughput_gain": (-0.5, 0.5)}, "PASS"),
        ("canary", {"bulk_throughput_gain": (-0.5, -0.1)}, "FAIL"),
        ("champion", {"throughput_gain": (-0.5, 0.5)}, "PASS"),
        ("champion", {"accuracy_drop": (0.04, 0.05)}, "PASS"),
        ("canary", {"feature_psi": (9.0, 9.0)}, "PASS"),
    ],
)
def test_what_a_rollout_is_told(role: str, changes: dict, verdict: str):
    assert decided(role, **changes).verdict == verdict


def hours(count: int, step: timedelta = HOUR, **changes) -> list[Decision]:
    """Looks one after another at the same state; ``changes`` may be lists, a state a look."""
    looks: list[Decision] = []
    for number in range(count):
        now = NOW + number * step
        state = {name: part[number] if isinstance(part, list) else part for name, part in changes.items()}
        looks.append(decided(now=now, before=Before(looks[-1].standing if looks else {}), **state))
    return looks


def test_an_alert_is_said_once_and_again_after_its_rest():
    actions = [look.action for look in hours(50, suboptimal_share=HARM["suboptimal_share"])]
    assert [number for number, action in enumerate(actions) if action == "alert"] == [0, 24, 48]
    rested = hours(3, suboptimal_share=HARM["suboptimal_share"])[2]
    assert rested.reasons[0].endswith("this was said 2026-08-10 06:00 UTC and rests until 2026-08-11 06:00")


def test_what_goes_to_and_fro_is_said_once():
    states = [HARM["suboptimal_share"], WELL["suboptimal_share"]] * 6
    assert [look.action for look in hours(12, suboptimal_share=states)].count("alert") == 1


def test_what_cannot_be_told_clears_nothing_and_a_pass_does():
    between = (0.04, 0.06)
    looks = hours(3, suboptimal_share=[HARM["suboptimal_share"], between, WELL["suboptimal_share"]])
    since = [look.standing["suboptimal_share"]["since"] for look in looks]
    assert since == [NOW.isoformat(), NOW.isoformat(), None]


def test_drift_that_stays_asks_for_retraining():
    actions = [look.action for look in hours(9, timedelta(days=1), feature_psi=HARM["feature_psi"])]
    assert actions == ["alert"] * 7 + ["retrain"] * 2
    again = decided(
        feature_psi=HARM["feature_psi"],
        now=NOW + timedelta(days=8),
        before=Before(
            hours(8, timedelta(days=1), feature_psi=HARM["feature_psi"])[-1].standing, retrained=NOW + timedelta(days=7)
        ),
    )
    assert again.action == "none"
    assert "retraining was asked for 2026-08-17 06:00 UTC and rests until 2026-08-24 06:00" in again.reasons[0]


def test_a_region_that_was_just_rolled_back_is_left_alone_for_a_while():
    def at(hours: int) -> Decision:
        return decided(accuracy=HARM["accuracy"], now=NOW + hours * HOUR, before=Before(rolled_back=NOW))

    assert at(23).action == "none"
    assert at(23).verdict == "FAIL"
    assert "this region was rolled back 2026-08-10 06:00 UTC" in at(23).reasons[0]
    assert at(24).action == "rollback"


def test_deciding_twice_decides_the_same():
    before = Before(hours(3, feature_psi=HARM["feature_psi"])[-1].standing)
    looks = [decided(feature_psi=HARM["feature_psi"], now=NOW + 3 * HOUR, before=before) for _ in range(2)]
    assert looks[0] == looks[1]


def test_reasons_are_sentences_with_the_deciding_one_first():
    found = decided(feature_psi=replace(figure(0.3, 0.9), detail={"rtt_ms@wan": [0.9, 0.3]}), accuracy=(0.93, 0.945))
    assert found.reasons == (
        "accuracy 93.75% (93.00% to 94.50%, 1,000 rows; labels repeat in 99.0%) is beyond the limit (limit 95.00%)",
        "feature psi 0.6 (0.3 to 0.9, 1,000 rows) is beyond the limit (limit 0.25): rtt_ms@wan",
    )


def test_the_table_names_settings_that_exist_and_sections_of_the_seed():
    assert {rule.setting for rule in POLICY} <= set(Settings.model_fields)
    assert {rule.action for rule in POLICY} == set(STRENGTH) - {"none"}
    assert len(BY_QUANTITY) == len(POLICY)
    table = policy_table()
    for rule in POLICY:
        assert f"`DWCP_{rule.setting.upper()}`" in table
        assert rule.seed.startswith("§")


def test_the_page_is_current():
    page = Path(__file__).parents[2] / "docs" / "watch_policy.md"
    assert page.read_text() == policy_page(), "run: make generate"
