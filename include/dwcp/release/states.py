"""The rollout's states and moves: one table, from which the documentation is written and which SQL enforces.

``sql/migrations/0101_rollout.sql`` holds the same rows (a test compares them) and refuses everything else. A region's
first model takes the long way of seed §9.1; once a version was full there, later ones take the short one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from dwcp.contract import ROLLOUT_BUCKETS
from dwcp.settings import Settings

Role = Literal["none", "challenger", "champion"]
Ladder = Literal["first", "next"]
Asks = Literal["PASS", "no FAIL"]

NONE, REGISTERED, SHADOW, CANARY, FULL = "none", "registered", "shadow", "canary", "full"
RETIRED, ROLLED_BACK = "retired", "rolled_back"


@dataclass(frozen=True, slots=True)
class State:
    """Where a version is in one region. ``share_buckets`` of ``ROLLOUT_BUCKETS`` follow it."""

    name: str
    role: Role
    share_buckets: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Move:
    """A legal transition. ``forward`` moves give a version more say: a paused region refuses them.

    ``ladder``: the only one in which the move is legal, or ``any``. ``soak``: the setting that says how long the
    version must have been in ``origin``. ``asks``: what the field's verdict must be. ``approval``: the setting that
    makes it wait for a person.
    """

    name: str
    origin: str
    target: str
    meaning: str
    ladder: Literal["first", "next", "any"] = "any"
    forward: bool = False
    soak: str | None = None
    asks: Asks | None = None
    approval: str | None = None


_STATES = (
    State(NONE, "none", 0, "not known in the region"),
    State(REGISTERED, "none", 0, "passed the gate and waits for its turn"),
    State(SHADOW, "challenger", 0, "nodes hold it; where no champion serves they log what it would have chosen"),
    State(CANARY, "challenger", ROLLOUT_BUCKETS * 5 // 100, "decides for 5 % of the objects"),
    State("share_25", "challenger", ROLLOUT_BUCKETS * 25 // 100, "decides for 25 %"),
    State("share_50", "challenger", ROLLOUT_BUCKETS * 50 // 100, "decides for 50 %"),
    State("share_75", "challenger", ROLLOUT_BUCKETS * 75 // 100, "decides for 75 %"),
    State(FULL, "champion", ROLLOUT_BUCKETS, "serves the region"),
    State(RETIRED, "none", 0, "gave way to a newer version; one can go back to it if it was full"),
    State(ROLLED_BACK, "none", 0, "was taken back for harm; only a person brings it back"),
)
STATES = {state.name: state for state in _STATES}
_STAGES = tuple(state.name for state in _STATES if state.role == "challenger")
_FORWARD: tuple[Move, ...] = (
    Move("start", REGISTERED, SHADOW, "its turn has come: no challenger is left in the region", forward=True),
    Move("advance", SHADOW, CANARY, "", "first", True, "rollout_shadow_soak", "PASS", "rollout_approve_canary"),
    Move("advance", CANARY, "share_25", "", "first", True, "rollout_canary_soak", "PASS"),
    Move("advance", "share_25", "share_50", "", "first", True, "rollout_25_soak", "PASS"),
    Move("advance", "share_50", "share_75", "", "first", True, "rollout_50_soak", "PASS"),
    Move("advance", "share_75", FULL, "", "first", True, "rollout_75_soak", "PASS", "rollout_approve_full"),
    # Beside a champion nodes ask the challenger within its share only, so its shadow leaves no rows to judge.
    Move("advance", SHADOW, CANARY, "", "next", True, "rollout_next_shadow_soak", "no FAIL", "rollout_approve_canary"),
    Move("advance", CANARY, FULL, "", "next", True, "rollout_next_canary_soak", "PASS", "rollout_approve_full"),
    Move("publish", REGISTERED, FULL, "at once, where `rollout_immediate` says so", forward=True),
)
MOVES: tuple[Move, ...] = (
    Move("register", NONE, REGISTERED, "the gate said PASS and the bundle verifies"),
    *_FORWARD,
    Move("replace", REGISTERED, RETIRED, "a newer version passed the gate before its turn came"),
    Move("replace", SHADOW, RETIRED, "a newer version passed the gate; it takes over the time spent in shadow"),
    Move("retire", FULL, RETIRED, "a newer version is full"),
    *(Move("revert", stage, ROLLED_BACK, "the field says FAIL, or a person says so") for stage in _STAGES),
    Move("roll_back", FULL, ROLLED_BACK, "realised harm, or a person says so"),
    *(
        Move("recall", state.name, FULL, "a rollback goes back to a version that was full before")
        for state in _STATES
        if state.name != FULL
    ),
)


def next_move(state: str, ladder: Ladder) -> Move | None:
    """The step forward from ``state`` in the ladder, or None where there is none."""
    steps = (move for move in _FORWARD if move.name in ("start", "advance") and move.ladder in (ladder, "any"))
    return next((move for move in steps if move.origin == state), None)


def soak_of(move: Move, settings: Settings) -> timedelta:
    """How long a version must have been in the move's origin."""
    soak: timedelta = getattr(settings, move.soak) if move.soak else timedelta(0)
    return soak


def needs_approval(move: Move, settings: Settings) -> bool:
    """Whether a person has to say yes."""
    return bool(move.approval and getattr(settings, move.approval))


def render_states() -> str:
    """``docs/rollout_states.md``."""
    defaults = Settings.model_fields
    lines = [
        "# The states of a rollout",
        "",
        "Generated from `include/dwcp/release/states.py` by `make generate`; change the table there, not this page.",
        "",
        "Per region, each version is in one state. At most one is full (the champion) and one is on its way (the",
        "challenger). What nodes poll is derived from these states and nothing else.",
        "",
        "| state | role | share of the objects | meaning |",
        "|---|---|---|---|",
        *(
            f"| `{state.name}` | {state.role if state.role != 'none' else ''} "
            f"| {state.share_buckets / ROLLOUT_BUCKETS:.0%} | {state.meaning} |"
            for state in _STATES
        ),
        "",
        "## Forward",
        "",
        "A step is taken when the soak is over, the field's verdict is what the step asks, nobody paused the region",
        "and, where the setting is on, a person approved. FAIL reverts at any stage; anything else holds.",
    ]
    for ladder, title in (
        ("first", "A region's first model (seed §9.1)"),
        ("next", "Later versions, once one was full in the region"),
    ):
        steps = [move for move in _FORWARD if move.name == "advance" and move.ladder == ladder]
        days = [defaults[str(move.soak)].default.total_seconds() / 86_400 for move in steps]
        lines += [
            "",
            f"### {title}",
            "",
            "| from | to | soak (default) | earliest day | verdict | approval |",
            "|---|---|---|---|---|---|",
            *(
                f"| `{move.origin}` | `{move.target}` | `DWCP_{str(move.soak).upper()}` ({days[number]:g} days) "
                f"| {sum(days[: number + 1]):g} | {move.asks} "
                f"| {f'`DWCP_{move.approval.upper()}`' if move.approval else ''} |"
                for number, move in enumerate(steps)
            ),
        ]
    lines += [
        "",
        "One challenger at a time. A newer version that passes the gate replaces one that is still in shadow and takes",
        "over the time spent there, so that weekly retraining does not begin the ladder anew for ever; behind a",
        "challenger that has left the shadow it waits, and only the newest waits.",
        "",
        "## Every legal move",
        "",
        "A paused region refuses the forward ones. SQL refuses whatever is not in this table.",
        "",
        "| move | from | to | ladder | forward | when |",
        "|---|---|---|---|---|---|",
        *_move_lines(),
    ]
    return "\n".join(lines) + "\n"


def _move_lines() -> list[str]:
    """A line for moves that differ in their origin alone."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for move in MOVES:
        key = (move.name, move.target, move.ladder, "yes" if move.forward else "", move.meaning)
        alike.setdefault(key if move.meaning else (*key, move.origin), []).append(f"`{move.origin}`")
    return [
        f"| {name} | {', '.join(origins)} | `{target}` | {ladder} | {forward} "
        f"| {meaning or 'soak over, verdict as asked'} |"
        for (name, target, ladder, forward, meaning, *_), origins in alike.items()
    ]


def sql_rows() -> tuple[set[tuple[str, str, int]], set[tuple[str, str, str, str, bool]]]:
    """The rows that ``rollout_states`` and ``rollout_moves`` must hold; of one move in both ladders, SQL has one."""
    pairs: dict[tuple[str, str, str], list[Move]] = {}
    for move in MOVES:
        pairs.setdefault((move.name, move.origin, move.target), []).append(move)
    states = {(state.name, str(state.role), state.share_buckets) for state in _STATES}
    moves: set[tuple[str, str, str, str, bool]] = {
        (*key, str(same[0].ladder) if len(same) == 1 else "any", same[0].forward) for key, same in pairs.items()
    }
    return states, moves
