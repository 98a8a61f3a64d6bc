"""The watch's policy: one table says what is done about what was measured.

Realised harm rolls back, drift alone does not, and too little data does nothing (it says so). Judged are intervals, not
estimates: FAIL is surely beyond the limit, PASS surely within it, INCONCLUSIVE neither. The hand stays still between
two acts: what stands clears by a PASS only, and whatever was done is not done again before its cool-down is over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from dwcp.settings import Settings
from dwcp.watch.measure import Figure, Measurement

Action = Literal["rollback", "retrain", "alert", "none"]
Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Kind = Literal["below", "above", "regression"]
STRENGTH: tuple[Action, ...] = ("none", "alert", "retrain", "rollback")
"""Weakest first; the strongest action that a rule asks for is the decision's."""
ACTING = ("canary", "champion")
EVERYWHERE = ("shadow", *ACTING)


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the policy: where ``quantity`` surely is beyond the limit, then ``action``.

    ``harm``: beyond is ``below`` the limit, ``above`` it, or a ``regression``: surely slower than control, and a loss
    of the limit not ruled out. ``roles``: where the version must stand for the action; elsewhere the verdict is only
    told. ``least``: the setting of the rows needed, None where the interval says it all. ``persists``: the setting
    after which standing harm asks for ``retrain``. ``decides``: for these roles the rollout's verdict needs its PASS.
    """

    quantity: str
    condition: str
    harm: Kind
    setting: str
    action: Action
    seed: str
    roles: tuple[str, ...] = ACTING
    least: str | None = None
    persists: str | None = None
    decides: tuple[str, ...] = ()
    unit: str = "%"


POLICY = (
    Rule(
        "accuracy",
        "realised accuracy (logged argmax, fully measured rows) is below",
        *("below", "watch_rollback_accuracy", "rollback", "§8.3, §9.1"),
        least="watch_min_rows",
        decides=EVERYWHERE,
    ),
    Rule(
        "throughput_gain",
        "the typical transfer in canary is slower than in control, perhaps by more than",
        *("regression", "watch_rollback_throughput_drop", "rollback", "§9.2"),
        roles=("canary",),
        least="watch_min_arm_rows",
        decides=("canary",),
    ),
    Rule(
        "bulk_throughput_gain",
        "canary moves fewer bytes a second than control, perhaps by more than",
        *("regression", "watch_rollback_throughput_drop", "rollback", "§9.2"),
        roles=("canary",),
    ),
    Rule(
        "throughput_loss",
        "the executed choices lose, against the best of the same fully measured transfers, more than",
        *("above", "watch_rollback_throughput_drop", "rollback", "§9.2"),
        least="watch_min_rows",
    ),
    Rule(
        "accuracy_drop",
        "realised accuracy is lower than at release by more than",
        *("above", "watch_retrain_accuracy_drop", "retrain", "§8.3, §9.2"),
        least="watch_min_rows",
        unit="points",
    ),
    Rule(
        "suboptimal_share",
        "suboptimal selections (over 1 % slower than the best candidate) are more than",
        *("above", "watch_suboptimal", "alert", "§8.3"),
        least="watch_min_rows",
    ),
    Rule(
        "overhead_of_time",
        "looking and deciding take of a transfer's time more than",
        *("above", "watch_overhead", "alert", "§8.3"),
        least="watch_min_rows",
    ),
    Rule(
        "overhead_of_cpu",
        "looking and deciding take of a transfer's CPU more than",
        *("above", "watch_overhead", "alert", "§8.3"),
        least="watch_min_rows",
    ),
    Rule(
        "latency_p99_ms",
        "the 99th percentile of a decision, as nodes logged it, is over",
        *("above", "watch_latency_p99_ms", "alert", "§9.2"),
        roles=EVERYWHERE,
        least="watch_min_rows",
        unit="ms",
    ),
    Rule(
        "feature_psi",
        "a feature's stability index against training, on some link, is over",
        *("above", "watch_drift_psi", "alert", "§10.1"),
        persists="watch_drift_persists",
        unit="",
    ),
    Rule(
        "feature_distance",
        "a feature's distance from training, on some link, is over",
        *("above", "watch_drift_distance", "alert", "§10.1"),
        persists="watch_drift_persists",
        unit="",
    ),
    Rule(
        "prediction_drift",
        "the stability index of what the model says is over",
        *("above", "watch_drift_psi", "alert", "§10.1"),
        persists="watch_drift_persists",
        unit="",
    ),
    Rule(
        "label_drift",
        "the stability index of the labels is over",
        *("above", "watch_drift_psi", "alert", "§10.1"),
        persists="watch_drift_persists",
        unit="",
    ),
    Rule(
        "quarantine_rise",
        "the share of rows that break the contract has risen since training by more than",
        *("above", "watch_quality_drop", "alert", "§10.2"),
        roles=EVERYWHERE,
        unit="points",
    ),
    Rule(
        "missing_predictions",
        "the share of the version's rows without a prediction is more than",
        *("above", "watch_quality_drop", "alert", "§10.2"),
        roles=EVERYWHERE,
    ),
)
"""Read from the top; every rule that holds gives its reason, the strongest action is taken."""
BY_QUANTITY = {rule.quantity: rule for rule in POLICY}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A rule's word on a figure; ``note`` is a whole sentence."""

    status: Status
    threshold: float
    note: str


@dataclass(frozen=True, slots=True)
class Before:
    """What the watch did in the region before this look.

    ``standing`` is the previous look's at this version; the times are ends of evidence, so that a look that is repeated
    decides the same.
    """

    standing: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    rolled_back: datetime | None = None
    retrained: datetime | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """``reasons`` are whole sentences for a person, the deciding ones first; ``verdict`` is what a rollout is told."""

    action: Action
    reasons: tuple[str, ...]
    verdict: Status = "INCONCLUSIVE"
    judgements: Mapping[str, Judgement] = field(default_factory=dict)
    standing: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)


def decide(m: Measurement, settings: Settings, *, now: datetime, before: Before | None = None) -> Decision:
    """What to do about ``m``, whose window ends ``now``."""
    before = before or Before()
    judgements = {rule.quantity: judge(rule, m, settings) for rule in POLICY}
    reasons: list[tuple[int, str]] = []
    action: Action = "none"
    standing: dict[str, Mapping[str, str | None]] = {}
    for rule in POLICY:
        found = judgements[rule.quantity]
        was = before.standing.get(rule.quantity, {})
        since = _since(found.status, was, now)
        acted = was.get("acted")
        if found.status == "FAIL" and m.role in rule.roles:
            wanted = _wanted(rule, since, settings, now)
            rests = _rests(wanted, acted, before, settings, now)
            if rests is None:
                action, acted = max(action, wanted, key=STRENGTH.index), f"{wanted} {now.isoformat()}"
            reasons.append((STRENGTH.index(wanted) if rests is None else 0, f"{found.note}{rests or ''}"))
        if since or acted:
            standing[rule.quantity] = {"since": since, "acted": acted}
    verdict, why = _verdict(m, judgements)
    reasons.sort(key=lambda reason: -reason[0])
    said = tuple(text for _, text in reasons)
    return Decision(action, said + tuple(text for text in why if text not in said), verdict, judgements, standing)


def judge(rule: Rule, m: Measurement, settings: Settings) -> Judgement:
    """PASS, FAIL or INCONCLUSIVE of one rule, with a sentence."""
    threshold = float(getattr(settings, rule.setting))
    figure = m.figures.get(rule.quantity, Figure(None))
    name = rule.quantity.replace("_", " ")
    least = getattr(settings, rule.least) if rule.least else 1
    if figure.value is None or figure.effective_rows < least or figure.lower is None or figure.upper is None:
        counted = f"{figure.rows:,} rows count as {figure.effective_rows:,.0f}"
        return Judgement(
            "INCONCLUSIVE",
            threshold,
            f"too little data to judge {name}: {counted}; {least:,} are needed"
            if figure.effective_rows < least
            else f"{name} cannot be told: nothing to compare with, or too few objects behind it",
        )
    if rule.quantity == "accuracy" and m.label_ceiling is not None and m.label_ceiling < threshold:
        # Labels that repeat less often than that would roll back a perfect model.
        said = f"accuracy cannot be judged: such labels repeat in {m.label_ceiling:.1%} of transfers only"
        return Judgement("INCONCLUSIVE", threshold, said)
    failed, passed = _beyond(rule.harm, figure.lower, figure.upper, threshold)
    limit = f"limit {_say(-threshold if rule.harm == 'regression' else threshold, rule.unit)}"
    value, lower, upper = (_say(part, rule.unit) for part in (figure.value, figure.lower, figure.upper))
    where = _where(figure) if rule.unit == "" else ""
    words = (
        "is beyond the limit" if failed else "is within the limit" if passed else "cannot be told from the limit yet"
    )
    ceiling = f"; labels repeat in {m.label_ceiling:.1%}" if rule.quantity == "accuracy" and m.label_ceiling else ""
    return Judgement(
        "FAIL" if failed else "PASS" if passed else "INCONCLUSIVE",
        threshold,
        f"{name} {value} ({lower} to {upper}, {figure.rows:,} rows{ceiling}) {words} ({limit}){where}",
    )


def policy_table() -> str:
    """The policy as a Markdown table for the runbook, derived from ``POLICY``."""
    lines = ["| quantity | if surely | threshold | where | then | seed |", "|---|---|---|---|---|---|"]
    for rule in POLICY:
        then = f"**{rule.action}**" + (f"; {_lasting(rule.persists)} → **retrain**" if rule.persists else "")
        where = ", ".join(rule.roles)
        lines.append(
            f"| `{rule.quantity}` | {rule.condition} | {_setting(rule.setting)} | {where} | {then} | {rule.seed} |"
        )
    return "\n".join(lines)


def _beyond(harm: Kind, lower: float, upper: float, threshold: float) -> tuple[bool, bool]:
    """Whether the interval says FAIL, and whether it says PASS."""
    if harm == "below":
        return upper < threshold, lower >= threshold
    if harm == "above":
        return lower > threshold, upper <= threshold
    within = lower > -threshold
    return upper < 0 and not within, within


def _since(status: Status, was: Mapping[str, str | None], now: datetime) -> str | None:
    """Since when it stands: it begins with a FAIL and ends with a PASS; what cannot be told ends nothing."""
    if status == "PASS":
        return None
    return was.get("since") or (now.isoformat() if status == "FAIL" else None)


def _wanted(rule: Rule, since: str | None, settings: Settings, now: datetime) -> Action:
    if rule.persists and since and now - datetime.fromisoformat(since) >= getattr(settings, rule.persists):
        return "retrain"
    return rule.action


def _rests(wanted: Action, acted: str | None, before: Before, settings: Settings, now: datetime) -> str | None:
    """Why nothing is done about it now, as the end of a sentence; None if nothing speaks against it."""
    if wanted == "rollback":
        last, pause = before.rolled_back, settings.watch_cooldown
        what = "this region was rolled back"
    elif wanted == "retrain":
        last, pause = before.retrained, settings.watch_retrain_cooldown
        what = "retraining was asked for"
    else:
        kind, _, at = (acted or "").partition(" ")
        last, pause = (datetime.fromisoformat(at) if kind == wanted else None), settings.watch_cooldown
        what = "this was said"
    if last is None or now - last >= pause:
        return None
    return f"; {what} {last:%Y-%m-%d %H:%M} UTC and rests until {last + pause:%Y-%m-%d %H:%M}"


def _verdict(m: Measurement, judgements: Mapping[str, Judgement]) -> tuple[Status, tuple[str, ...]]:
    """What a rollout is told: harm that rolls back is FAIL; PASS needs every deciding quantity's."""
    failed = [judgements[rule.quantity] for rule in POLICY if rule.action == "rollback" and m.role in _judged(rule)]
    failed = [found for found in failed if found.status == "FAIL"]
    if failed:
        return "FAIL", tuple(found.note for found in failed)
    deciding = [judgements[rule.quantity] for rule in POLICY if m.role in rule.decides]
    open_ = [found for found in deciding if found.status != "PASS"]
    if open_:
        return "INCONCLUSIVE", tuple(found.note for found in open_)
    return "PASS", tuple(found.note for found in deciding)


def _judged(rule: Rule) -> tuple[str, ...]:
    return (*rule.roles, *rule.decides)


def _where(figure: Figure) -> str:
    moved = [name for name, part in figure.detail.items() if isinstance(part, list)][:3]
    return f": {', '.join(moved)}" if moved else ""


def _say(value: float, unit: str) -> str:
    if unit == "%":
        return f"{value:.2%}"
    if unit == "points":
        return f"{100 * value:.2f} points"
    return f"{value:.3g} {unit}".strip()


def _setting(name: str) -> str:
    default: Any = Settings.model_fields[name].default
    return f"`DWCP_{name.upper()}` (default {default:g})"


def _lasting(name: str) -> str:
    default: timedelta = Settings.model_fields[name].default
    return f"after {default.days} days (`DWCP_{name.upper()}`)"
