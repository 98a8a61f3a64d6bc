"""One run of the fleet: library, mix, policy and destination put together."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dwcp.fleet.library import RECORDED, load_library
from dwcp.fleet.mix import DEFAULT_MIX, load_mix
from dwcp.fleet.policy import Policy
from dwcp.fleet.simulate import WORLD_START, simulate, window_of
from dwcp.fleet.write import write_to_archive, write_to_influx
from dwcp.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FleetRun:
    """What a run wrote: rows, their time span (half-open, UTC) and where they are; the digests it follows from."""

    rows: int
    start: datetime
    end: datetime
    place: str
    mix_digest: str
    library_sha256: str


def run_fleet(
    settings: Settings,
    *,
    weeks: int = 8,
    first_week: int = 0,
    transfers_per_week: int | None = None,
    start: datetime = WORLD_START,
    seed: int | None = None,
    to: str = "archive",
    serve: Path | None = None,
    share: float = 1.0,
    defects: bool = True,
    library: Path = RECORDED,
    mix_file: Path = DEFAULT_MIX,
) -> FleetRun:
    """Simulate ``weeks`` weeks and write them to the settings' archive or InfluxDB (``to``).

    ``serve`` names a bundle whose model decides ``share`` of the rollout buckets from ``first_week`` on. Run again, it
    replaces the same days by the same rows. Raises ``LibraryError``, ``MixError``, ``ModelError``, ``SourceError``, or
    ``ValueError`` on weeks outside the world or an unknown destination.
    """
    if to not in ("archive", "influxdb"):
        raise ValueError(f"unknown destination {to!r}: choose archive or influxdb")
    profiles, manifest = load_library(library)
    mix = load_mix(mix_file)
    if manifest["quiet"]["noisy"]:
        _log.warning("the library in %s was recorded on a busy machine: its labels are worth less", library)
    policy: Policy | None = None
    if serve is not None:
        from dwcp.fleet.serve import BundlePolicy

        policy = BundlePolicy(serve, share=share)
    tables = simulate(
        profiles,
        mix,
        seed=settings.seed if seed is None else seed,
        start=start,
        first_week=first_week,
        weeks=weeks,
        transfers_per_week=transfers_per_week,
        policy=policy,
        runs=int(manifest["runs"]),
        defects=defects,
    )
    if to == "archive":
        rows, place = write_to_archive(settings.archive_dir, tables), str(settings.archive_dir)
    else:
        rows, place = write_to_influx(settings, tables), f"{settings.influx_url} bucket {settings.influx_bucket}"
    begin_ns, end_ns = window_of(start, first_week, weeks)
    span = [datetime.fromtimestamp(ns / 1e9, UTC) for ns in (begin_ns, end_ns)]
    return FleetRun(rows, span[0], span[1], place, mix.digest, str(manifest["sha256"]))
