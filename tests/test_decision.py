"""Never worse than zstd: the rule, its margins, and that a bound fitted on some rows holds on others."""

from __future__ import annotations

import numpy as np
import pytest

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURES
from dwcp.decision import ALWAYS_ZSTD, FEWEST_ROWS, LEVEL, ZSTD, Rule, decide, estimated_log_costs, fit_rule

AT = {feature.name: position for position, feature in enumerate(FEATURES)}


def features_of(rows: int = 1, **values: object) -> np.ndarray:
    made = np.tile(np.array([feature.default for feature in FEATURES], np.float32), (rows, 1))
    for name, value in values.items():
        made[:, AT[name]] = value
    return made


def sure(label: str, confidence: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
    probabilities = np.full((1, 3), (1 - confidence) / 2, np.float32)
    probabilities[0, CANDIDATES.index(label)] = confidence
    return probabilities, np.array([CANDIDATES.index(label)])


@pytest.mark.parametrize(
    ("label", "confidence", "zstd", "executed", "reason"),
    [
        ("hde", 0.9, 0.5, "hde", "model"),
        ("hde", 0.5, 0.5, "hde", "model"),  # unsure between candidates that both beat zstd
        ("hde", 0.9, 0.21, "zstd", "not_worth_it"),
        ("hde", 0.5, 0.21, "zstd", "low_confidence"),
        ("amst", 0.9, 0.5, "amst", "model"),
        ("none", 0.9, 0.5, "zstd", "not_worth_it"),
        ("none", 0.9, 2.0, "none", "model"),
    ],
)
def test_zstd_runs_unless_the_gain_outlives_the_margin(label, confidence, zstd, executed, reason):
    """Costs of hde 0.2 and amst 0.3 of sending uncompressed; a margin of a tenth."""
    features = features_of(history_source=2, hde_cost_ratio=0.2, amst_cost_ratio=0.3, zstd_cost_ratio=zstd)
    rule = Rule(0.6, (9.0, 9.0, 0.1))
    made = decide(features, *sure(label, confidence), rule)
    assert (ALGORITHMS[made.executed[0]], made.reason[0]) == (executed, reason)


def test_the_past_speaks_for_known_objects_and_the_probe_for_new_ones():
    past = {"hde_cost_ratio": 0.2, "amst_cost_ratio": 0.3, "zstd_cost_ratio": 0.4}
    seen = {f"probe_{name}": 10 * value for name, value in past.items()}
    known, new = (
        np.exp(estimated_log_costs(features_of(history_source=source, **past, **seen)))[0] for source in (2, 1)
    )
    np.testing.assert_allclose(known, [0.2, 0.3, 1.0, 0.4], rtol=1e-6)
    np.testing.assert_allclose(new, [2.0, 3.0, 1.0, 4.0], rtol=1e-6)


def test_a_fitted_bound_holds_on_other_rows_as_often_as_it_says():
    rng = np.random.default_rng(5)
    rows = 20_000
    ratios = np.exp(rng.normal(-1, 1, (rows, 3))).astype(np.float32)
    columns = dict(zip(("hde_cost_ratio", "amst_cost_ratio", "zstd_cost_ratio"), ratios.T, strict=True))
    features = features_of(rows, history_source=2, **columns)
    log_costs = estimated_log_costs(features) + rng.normal(0, 0.3, (rows, 4))
    fit, held = slice(0, rows // 2), slice(rows // 2, rows)
    rule = fit_rule(features[fit], np.exp(log_costs[fit]), fallback_confidence=0.6)
    assert rule.gain_margins[:2] == (ALWAYS_ZSTD, ALWAYS_ZSTD), "no row has such a source"
    choice = estimated_log_costs(features[held])[:, :3].argmin(axis=1)
    made = decide(features[held], np.eye(3, dtype=np.float32)[choice], choice, rule)
    ran = made.executed != ZSTD
    gain = log_costs[held][:, ZSTD] - log_costs[held][np.arange(len(choice)), choice]
    assert 0.2 < ran.mean() < 0.95
    assert (gain[ran] > 0).mean() > LEVEL
    unguarded = decide(features[held], np.eye(3, dtype=np.float32)[choice], choice, Rule())
    assert (gain[unguarded.executed != ZSTD] > 0).mean() < (gain[ran] > 0).mean()


def test_the_margin_lies_where_gains_become_likely_however_much_large_gains_scatter():
    """The error is half of the gain: positive gains stay positive, and their scatter must not raise the margin."""
    rng = np.random.default_rng(6)
    rows = 40_000
    gain = rng.uniform(-1, 3, rows)
    columns = {"hde_cost_ratio": np.full(rows, 0.1), "amst_cost_ratio": np.full(rows, 9.0)}
    features = features_of(rows, history_source=2, **columns, zstd_cost_ratio=0.1 * np.exp(gain))
    true_gain = gain * (1 + rng.normal(0, 0.5, rows)) + rng.normal(0, 0.05, rows)
    log_costs = np.log(
        np.column_stack([np.full(rows, 0.1), np.full(rows, 9.0), np.ones(rows), 0.1 * np.exp(true_gain)])
    )
    margin = fit_rule(features, np.exp(log_costs), fallback_confidence=0.6).gain_margins[2]
    gained = true_gain > 0
    assert 0.0 < margin < 0.2 < float(np.quantile(gain - true_gain, LEVEL))
    assert gained[(gain > margin) & (gain < margin + 0.1)].mean() >= LEVEL
    assert gained[(gain < margin) & (gain > margin - 0.1)].mean() < LEVEL


def test_too_few_rows_give_no_bound():
    features = features_of(FEWEST_ROWS - 1, history_source=2)
    assert fit_rule(features, np.ones((FEWEST_ROWS - 1, 4)), fallback_confidence=0.6).gain_margins[2] == ALWAYS_ZSTD


def test_a_rule_survives_its_json_and_refuses_nonsense():
    rule = Rule(0.7, (ALWAYS_ZSTD, 0.25, 0.125))
    assert Rule.from_json(rule.to_json()) == rule
    for text in ("{}", "[]", '{"fallback_confidence": 0.6, "gain_margins": [1]}', "no"):
        with pytest.raises(ValueError, match=r"rule|Expecting"):
            Rule.from_json(text)
    with pytest.raises(ValueError, match="margins"):
        Rule(0.6, (0.0, -1.0, 0.0))
