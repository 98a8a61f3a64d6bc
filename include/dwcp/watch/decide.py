"""The watch's policy: one table says what is done about what was measured.

Realised harm rolls back, drift alone does not, and too little data does nothing (it says so).
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dwcp.settings import Settings
from dwcp.watch.measure import Measurement

Action = Literal["rollback", "retrain", "flag", "none"]
STRENGTH: tuple[Action, ...] = ("none", "flag", "retrain", "rollback")
"""Weakest first; the strongest action that a rule asks for is the decision's."""


@dataclass(frozen=True, slots=True)
class Released:
    """What was recorded when the version was released; None where nothing was."""

    accuracy: float | None
    throughput_mbps: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """``reasons`` are whole sentences for a person, the deciding ones first."""

    action: Action
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the policy: if ``quantity`` is ``comparison`` the setting's value, then ``action``.

    ``quantity`` answers None where it cannot be known. ``sentence`` is formatted with ``value``, ``limit``, the
    measurement ``m`` and what was ``released``.
    """

    condition: str
    quantity: Callable[[Measurement, Released], float | None]
    comparison: Literal["<", ">", ">="]
    setting: str
    action: Action
    seed: str
    sentence: str


def _throughput_drop(m: Measurement, released: Released) -> float | None:
    if m.throughput_mbps is None or not released.throughput_mbps:
        return None
    return 1 - m.throughput_mbps / released.throughput_mbps


def _accuracy_drop(m: Measurement, released: Released) -> float | None:
    return None if m.accuracy is None or released.accuracy is None else released.accuracy - m.accuracy


def _largest_psi(m: Measurement, _: Released) -> float | None:
    return max(m.psi.values(), default=None)


POLICY = (
    Rule(
        "realised throughput is lower than at the champion's release by more than",
        _throughput_drop,
        ">",
        "watch_rollback_throughput_drop",
        "rollback",
        "§9.2",
        "realised throughput {m.throughput_mbps:.1f} Mbit/s is {value:.1%} below the {released.throughput_mbps:.1f} "
        "Mbit/s of its release (limit {limit:.0%})",
    ),
    Rule(
        "realised accuracy is below",
        lambda m, _: m.accuracy,
        "<",
        "watch_rollback_accuracy",
        "rollback",
        "§8.3, §9.1",
        "realised accuracy {value:.2%} ± {m.accuracy_half_width:.2%} is below {limit:.0%}",
    ),
    Rule(
        "realised accuracy is lower than at the champion's release by more than",
        _accuracy_drop,
        ">",
        "watch_retrain_accuracy_drop",
        "retrain",
        "§8.3, §9.2",
        "realised accuracy {m.accuracy:.2%} is {value:.2%} below the {released.accuracy:.2%} of its release "
        "(limit {limit:.0%})",
    ),
    Rule(
        "a feature's population stability index against training is at least",
        _largest_psi,
        ">=",
        "watch_drift_psi",
        "flag",
        "§10.1",
        "features have drifted from training (limit {limit:g}): {drifted}",
    ),
)
"""Read from the top; every rule that holds gives its reason, the strongest action is taken."""
_COMPARE = {"<": operator.lt, ">": operator.gt, ">=": operator.ge}


def decide(m: Measurement, released: Released, settings: Settings) -> Decision:
    """What to do about ``m``. Fewer effective fully measured rows than ``watch_min_rows`` do nothing and say so."""
    least = settings.watch_min_rows
    effective = min(m.effective_rows, m.effective_executed_rows)
    if effective < least:
        return Decision(
            "none",
            (
                f"too few rows to judge: {m.executed_rows:,} fully measured transfers of {m.rows:,} count as "
                f"{effective:,.0f}; {least:,} are needed",
            ),
        )
    action: Action = "none"
    reasons: list[tuple[int, str]] = []
    for rule in POLICY:
        limit = float(getattr(settings, rule.setting))
        value = rule.quantity(m, released)
        ceiling = m.label_ceiling
        if rule.setting == "watch_rollback_accuracy" and ceiling is not None and ceiling < limit:
            # Labels that repeat less often than that would roll back a perfect model.
            reasons.append((0, f"accuracy cannot be judged: such labels repeat in {ceiling:.1%} of transfers only"))
        elif value is None:
            reasons.append((0, f"cannot tell whether {rule.condition} {limit:g}: no such value was recorded"))
        elif _COMPARE[rule.comparison](round(value, 9), limit):
            drifted = ", ".join(
                f"{name} {psi:.2f}" for name, psi in sorted(m.psi.items(), key=lambda item: -item[1]) if psi >= limit
            )
            sentence = rule.sentence.format(value=value, limit=limit, m=m, released=released, drifted=drifted)
            reasons.append((STRENGTH.index(rule.action), sentence))
            action = max(action, rule.action, key=STRENGTH.index)
    reasons.sort(key=lambda reason: -reason[0])
    return Decision(action, tuple(text for _, text in reasons) or ("all within the limits",))


def policy_table() -> str:
    """The policy as a Markdown table for the runbook, derived from ``POLICY``."""
    lines = ["| if | threshold | then | seed |", "|---|---|---|---|"]
    lines += [
        f"| {rule.condition} | `DWCP_{rule.setting.upper()}` (default {Settings.model_fields[rule.setting].default:g}) "
        f"| {rule.action} | {rule.seed} |"
        for rule in POLICY
    ]
    least = Settings.model_fields["watch_min_rows"].default
    lines.append(f"| the effective fully measured rows are below | `DWCP_WATCH_MIN_ROWS` (default {least}) | none | |")
    return "\n".join(lines)
