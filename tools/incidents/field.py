"""The field of an incident: what the region's nodes log, hour by hour, and the watch that looks at it every hour."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwcp.fleet.channel import ChannelPolicy
from dwcp.fleet.library import RECORDED, load_library
from dwcp.fleet.mix import Mix, load_mix
from dwcp.fleet.simulate import WORLD_START, simulate
from dwcp.notify import notify
from dwcp.pipeline.watch import act_in_region, look_at_region, plan_look, refresh_rows
from dwcp.release.registry import connect, region_states
from dwcp.sources.archive import write_archive
from incidents.site import HERE, WEEKS, Site

FIELD_ROWS = 120_000
"""Transfers a week in the field, about 2,900 a day and region; the past has the mix's 25,000 a week."""
HOUR = timedelta(hours=1)


def fleet_week(
    site: Site,
    number: int = WEEKS,
    *,
    start: datetime = WORLD_START,
    mix: Callable[[Mix], Mix] | None = None,
    region: str | None = HERE,
    rows: int = FIELD_ROWS,
) -> pa.Table:
    """What the nodes of ``region``, or of all, log in this week of the world, deciding as the channel has it now.

    ``mix`` changes the world that they find; then its past was such a world, too.
    """
    with connect(site.settings) as db:
        told = region_states(db)
    if region:  # the others' rows are not kept, so nobody needs to decide them well
        told = {region: told[region]}
    profiles, manifest = load_library(RECORDED)
    frozen = load_mix()
    weeks = simulate(
        profiles,
        mix(frozen) if mix else frozen,
        seed=site.settings.seed,
        start=start,
        first_week=number,
        weeks=1,
        transfers_per_week=[25_000] * number + [rows],
        policy=ChannelPolicy(told, site.settings.bundle_dir),
        runs=int(manifest["runs"]),
        defects=False,
    )
    (table,) = weeks
    return (table.filter(pc.equal(table["region"], region)) if region else table).combine_chunks()


def changed(mix: Mix, **sections: Mapping[str, Any]) -> Mix:
    """``mix`` with other entries in some of its sections."""
    return dataclasses.replace(mix, **{name: {**getattr(mix, name), **entries} for name, entries in sections.items()})


def within(table: pa.Table, start: datetime, end: datetime) -> pa.Table:
    """The rows of a span of time."""
    at = table["timestamp_ns"].to_numpy()
    return table.filter(pa.array((at >= _ns(start)) & (at < _ns(end))))


def set_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    """``table`` with other values in the place of ``name``; NaN in an array of numpy's stays NaN."""
    place, field = table.schema.get_field_index(name), table.schema.field(name)
    if not isinstance(values, pa.ChunkedArray):
        values = pa.array(values, field.type)
    return table.set_column(place, field, values.cast(field.type))


@dataclass(frozen=True)
class Look:
    """One hourly run of the watch. ``until``: the hour's end; ``actions`` and ``lines``: what was decided and done."""

    until: datetime
    fresh: bool
    actions: tuple[str, ...]
    verdicts: Mapping[str, str]
    notices: tuple[str, ...]
    lines: tuple[str, ...]
    retrain: bool

    def speaks_of(self, *quantities: str) -> bool:
        """Whether a notice says that one of them is beyond its limit: a busy machine has others to tell."""
        reasons = [reason for line in self.notices for reason in line.split("; ") if "is beyond the limit" in reason]
        return any(quantity in reason for reason in reasons for quantity in quantities)


def log_until(site: Site, table: pa.Table, until: datetime) -> None:
    """The archive has what was logged before ``until``, and of the day in progress no more."""
    day, region = (until - HOUR).replace(hour=0), table["region"][0].as_py()
    write_archive(site.settings.archive_dir, day.date(), region, within(table, day, until).to_batches())


def watch(site: Site, until: datetime, region: str = HERE) -> Look:
    """One hourly run for ``region``, notices sent, as ``dwcp_drift_watch`` does."""
    settings = site.settings
    plan = plan_look(settings, until=until.isoformat())
    refreshed = refresh_rows(settings, run_id=f"watch__{until:%Y-%m-%dT%H}", until=plan["until"])
    tell(site, refreshed["notices"])
    if not refreshed["fresh"]:
        return Look(until, False, (), {}, tuple(refreshed["notices"]), (), False)
    looked = look_at_region(settings, region=region, refreshed=refreshed)
    acted = act_in_region(settings, looked=looked)
    tell(site, acted["notices"])
    return Look(
        until,
        True,
        tuple(looked["actions"]),
        looked["verdicts"],
        tuple(acted["notices"]),
        tuple(acted["lines"]),
        acted["retrain"],
    )


def watch_hours(site: Site, table: pa.Table, start: datetime, hours: int, every: int = 1) -> Iterator[Look]:
    """The watch, hour by hour, on a field that logs ``table``."""
    for hour in range(every, hours + 1, every):
        until = start + hour * HOUR
        for back in range(every - 1, -1, -1):
            # A day that ended between two looks is complete.
            if (until - back * HOUR).hour == 0 or not back:
                log_until(site, table, until - back * HOUR)
                if back:
                    refresh_rows(site.settings, run_id="watch", until=(until - back * HOUR).isoformat())
        yield watch(site, until, table["region"][0].as_py())


def tell(site: Site, lines: Any) -> None:
    """Send notices as the DAGs' notifier does."""
    for line in lines:
        notify(site.settings, line, about=line)


def nodes_of(table: pa.Table) -> list[str]:
    """The region's nodes."""
    return sorted(pc.unique(table["node_id"]).to_pylist())


def rows_of(table: pa.Table, nodes: list[str], start: datetime, end: datetime) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows some nodes logged in a span of time."""
    at = table["timestamp_ns"].to_numpy()
    theirs = pc.is_in(table["node_id"], value_set=pa.array(nodes)).to_numpy()
    return np.asarray((at >= _ns(start)) & (at < _ns(end)) & theirs)


def _ns(moment: datetime) -> int:
    return int(moment.astimezone(UTC).timestamp()) * 1_000_000_000
