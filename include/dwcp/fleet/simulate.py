"""Cross the recorded library with the emulated world and log what nodes would log, week by week.

What is measured: sizes, times, probes (the library). What is emulated: nodes, links, loads, who sends what and when.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pyarrow as pa

from dwcp.features.history import History
from dwcp.fleet.defects import with_defects
from dwcp.fleet.known import Nodes
from dwcp.fleet.library import Profiles
from dwcp.fleet.log import log_week
from dwcp.fleet.mix import Mix
from dwcp.fleet.outcomes import Laboratory
from dwcp.fleet.policy import Policy, RulesPolicy
from dwcp.fleet.settle import settle
from dwcp.fleet.world import NS_PER_WEEK, make_world, week_transfers

_log = logging.getLogger(__name__)

WORLD_START = datetime(2026, 8, 3, tzinfo=UTC)
"""A Monday. The world's weeks count from here."""


def simulate(
    profiles: Profiles,
    mix: Mix,
    *,
    seed: int,
    start: datetime = WORLD_START,
    first_week: int = 0,
    weeks: int = 8,
    transfers_per_week: int | Sequence[int] | None = None,
    policy: Policy | None = None,
    runs: int = 5,
    defects: bool = True,
) -> Iterator[pa.Table]:
    """One table in ``LOGGED_SCHEMA`` a week, in time order, for ``weeks`` weeks from week ``first_week`` of the world.

    ``transfers_per_week`` is one number, or one for each week from week 0. ``start`` is when the world's week 0 begins.
    Weeks before ``first_week`` happen too, decided by the rules: they are the nodes' history and are not yielded.
    ``policy`` (default: the rules) decides from ``first_week`` on. The same arguments give the same rows. Raises
    ``ValueError`` if the weeks lie outside the mix's world.
    """
    if first_week < 0 or weeks < 1 or first_week + weeks > mix.world["weeks"]:
        raise ValueError(
            f"weeks {first_week} to {first_week + weeks} are not within the mix's world of {mix.world['weeks']} weeks"
        )
    if start.tzinfo is None:
        raise ValueError(f"the world's start {start} has no zone: give it in UTC")
    world = make_world(profiles, mix, seed)
    nodes, laboratory, history, rules = Nodes(world), Laboratory(world), History(), RulesPolicy()
    rows = transfers_per_week or mix.world["transfers_per_week"]
    by_week = [rows] * (first_week + weeks) if isinstance(rows, int) else rows
    start_ns = int(start.timestamp()) * 1_000_000_000
    for week in range(first_week + weeks):
        acting: Policy = policy if policy is not None and week >= first_week else rules
        transfers = week_transfers(world, week, start_ns, by_week[week])
        known, measured = nodes.know(transfers), laboratory.measure(transfers)
        features, choices, passes = settle(transfers, known, measured, history, acting)
        if week < first_week:
            continue
        share = float(mix.world["measured_share"])
        table = log_week(transfers, known, measured, features, choices, acting, runs=runs, measured_share=share)
        if defects:
            table = with_defects(table, mix, seed, week)
        _log.info("week %d: %d transfers, choices settled in %d passes", week, table.num_rows, passes)
        yield table


def window_of(start: datetime, first_week: int, weeks: int) -> tuple[int, int]:
    """First and past-the-last nanosecond of a run."""
    start_ns = int(start.timestamp()) * 1_000_000_000
    return start_ns + first_week * NS_PER_WEEK, start_ns + (first_week + weeks) * NS_PER_WEEK
