from dataclasses import replace
from pathlib import Path

import pytest

from dwcp.settings import Settings
from dwcp.watch.decide import POLICY, STRENGTH, Released, decide, policy_table
from dwcp.watch.measure import Measurement

SETTINGS = Settings()
RELEASED = Released(accuracy=0.985, throughput_mbps=200.0)
WELL = Measurement(
    rows=5_000,
    measured_rows=1_500,
    effective_rows=1_400.0,
    executed_rows=1_450,
    effective_executed_rows=1_350.0,
    clipped_rows=0,
    accuracy=0.98,
    accuracy_half_width=0.007,
    label_ceiling=0.99,
    mean_regret=0.001,
    throughput_mbps=198.0,
    psi={"rtt_ms": 0.02, "entropy": 0.1},
)


def decided(**changes: object):
    return decide(replace(WELL, **changes), RELEASED, SETTINGS)


def test_all_well_does_nothing():
    assert decided().action == "none"
    assert decided().reasons == ("all within the limits",)


@pytest.mark.parametrize(
    ("changes", "action"),
    [
        # throughput −5 % against the champion's release
        ({"throughput_mbps": 190.0}, "none"),
        ({"throughput_mbps": 189.9}, "rollback"),
        ({"throughput_mbps": 300.0}, "none"),
        # accuracy below 95 %
        ({"accuracy": 0.9499}, "rollback"),
        ({"accuracy": 0.0}, "rollback"),
        # accuracy −3 % against release: 98.5 − 3 = 95.5
        ({"accuracy": 0.9551}, "none"),
        ({"accuracy": 0.955}, "none"),
        ({"accuracy": 0.9549}, "retrain"),
        ({"accuracy": 0.95}, "retrain"),
        # drift alone
        ({"psi": {"rtt_ms": 0.2499}}, "none"),
        ({"psi": {"rtt_ms": 0.25}}, "flag"),
        ({"psi": {"rtt_ms": 9.0, "entropy": 9.0}}, "flag"),
        ({"psi": {}}, "none"),
        # the strongest action wins
        ({"psi": {"rtt_ms": 1.0}, "accuracy": 0.953}, "retrain"),
        ({"psi": {"rtt_ms": 1.0}, "accuracy": 0.94}, "rollback"),
        ({"accuracy": 0.953, "throughput_mbps": 100.0}, "rollback"),
        # too few rows do nothing, however bad they look
        ({"effective_rows": 499.9, "accuracy": 0.1, "throughput_mbps": 1.0, "psi": {"rtt_ms": 9.0}}, "none"),
        ({"effective_executed_rows": 499.9, "accuracy": 0.1, "throughput_mbps": 1.0}, "none"),
        ({"effective_rows": 500.0, "effective_executed_rows": 500.0, "accuracy": 0.1}, "rollback"),
        ({"measured_rows": 0, "effective_rows": 0.0, "accuracy": None, "throughput_mbps": None}, "none"),
    ],
)
def test_every_row_of_the_table(changes: dict, action: str):
    assert decided(**changes).action == action


def test_every_rule_has_been_seen_to_fire():
    harm = replace(WELL, throughput_mbps=1.0, accuracy=0.5, psi={"rtt_ms": 1.0})
    assert len(decide(harm, RELEASED, SETTINGS).reasons) == len(POLICY)


def test_reasons_are_sentences_with_the_deciding_one_first():
    decision = decided(psi={"rtt_ms": 0.3, "entropy": 0.9, "region": 0.1}, accuracy=0.94)
    assert decision.reasons == (
        "realised accuracy 94.00% ± 0.70% is below 95%",
        "realised accuracy 94.00% is 4.50% below the 98.50% of its release (limit 3%)",
        "features have drifted from training (limit 0.25): entropy 0.90, rtt_ms 0.30",
    )
    assert decided(throughput_mbps=100.0).reasons == (
        "realised throughput 100.0 Mbit/s is 50.0% below the 200.0 Mbit/s of its release (limit 5%)",
    )


def test_too_few_rows_are_said():
    assert decided(effective_executed_rows=20.4).reasons == (
        "too few rows to judge: 1,450 fully measured transfers of 5,000 count as 20; 500 are needed",
    )


def test_what_was_not_recorded_is_said_and_decides_nothing():
    decision = decide(WELL, Released(None, None), SETTINGS)
    assert decision.action == "none"
    assert len(decision.reasons) == 2
    assert all(reason.startswith("cannot tell whether") for reason in decision.reasons)
    assert decide(replace(WELL, accuracy=0.9), Released(None, None), SETTINGS).action == "rollback"


@pytest.mark.parametrize(
    ("setting", "value", "changes"),
    [
        ("watch_rollback_throughput_drop", 0.5, {"throughput_mbps": 150.0}),
        ("watch_rollback_accuracy", 0.5, {"accuracy": 0.94}),
        ("watch_retrain_accuracy_drop", 0.5, {"accuracy": 0.953}),
        ("watch_drift_psi", 5.0, {"psi": {"rtt_ms": 1.0}}),
        ("watch_min_rows", 1, {"effective_rows": 3.0, "accuracy": 0.94}),
    ],
)
def test_every_threshold_is_a_setting(setting: str, value: float, changes: dict):
    relaxed = Settings(**{setting: value})
    before = decide(replace(WELL, **changes), RELEASED, SETTINGS).action
    after = decide(replace(WELL, **changes), RELEASED, relaxed).action
    assert before != after


def test_the_table_names_settings_that_exist_and_sections_of_the_seed():
    assert {rule.setting for rule in POLICY} <= set(Settings.model_fields)
    assert {rule.action for rule in POLICY} == set(STRENGTH) - {"none"}
    table = policy_table()
    for rule in POLICY:
        assert f"`DWCP_{rule.setting.upper()}`" in table
        assert rule.seed.startswith("§")


def test_the_runbook_shows_the_table_as_it_is():
    runbook = Path(__file__).parents[2] / "docs" / "compression_selector_ops.md"
    assert policy_table() in runbook.read_text()


def test_labels_that_do_not_repeat_roll_nothing_back():
    """Nine labels of ten repeat: a perfect model would score 90 %, and 88 % says nothing."""
    assert decided(accuracy=0.88).action == "rollback"
    noisy = decided(accuracy=0.88, label_ceiling=0.9)
    assert noisy.action == "retrain"
    assert any("cannot be judged: such labels repeat in 90.0%" in reason for reason in noisy.reasons)
