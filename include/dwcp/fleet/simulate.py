"""Cross the recorded library with the emulated world and log what nodes would log, week by week.

What is measured: sizes, times, probes (the library). What is emulated: nodes, links, loads, who sends what and when.
Measured times are scaled by the node's speed; a fully measured transfer finds one of the library's two independent
measurements, and that is all the noise its label has. A transfer of which only the executed choice was measured ran
beside the node's other work: its times carry load and the scatter of a single run.

A choice depends on history and history on earlier choices. Both are solved together, a week at a time, as a fixed
point: history only looks back, so each pass settles at least the first open choice of each node; few settle all.
What is served then equals what ``features.recompute`` finds in the log, bit for bit.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import (
    ALGORITHMS,
    CANDIDATES,
    FEATURE_SET_DIGEST,
    FEATURES,
    FULLY_MEASURED,
    LINK_TYPES,
    OUTCOMES,
    REGIONS,
    ROLLOUT_BUCKETS,
)
from dwcp.features.history import History, Observations
from dwcp.features.recompute import OUTCOME_COLUMNS, feature_matrix, outcomes
from dwcp.fleet.engines import STREAM_COUNTS
from dwcp.fleet.library import Profiles
from dwcp.fleet.mix import Mix
from dwcp.fleet.world import NS_PER_WEEK, Transfers, World, make_world, week_transfers
from dwcp.rules import choose_by_rules
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.units import throughput_mbps, transfer_time_ms

_log = logging.getLogger(__name__)

WORLD_START = datetime(2026, 8, 3, tzinfo=UTC)
"""A Monday. The world's weeks count from here."""
_MEASURED_BY = {name: place for place, algorithm in enumerate(ALGORITHMS) for name in OUTCOMES[algorithm]}
"""Each outcome column's algorithm, by its place."""
_TIMED = ("hde", "hde_back", "amst", "amst_back", "zstd", "zstd_back")
_PROBE_SPEEDS = ("probe_zstd_ms_per_mb", "probe_lz4_ms_per_mb")
_DIRTY_LOG = ("vm_memory", "vm_disk")
"""A hypervisor's dirty log gives these types' known share for nothing; of the others all blocks are hashed for it."""
_LOADED_SLOWDOWN = 0.3
_SINGLE_RUN_SIGMA = 0.05
_MOST_PASSES = 200


@dataclass(frozen=True, slots=True)
class Choices:
    """What a policy decides; arrays of shape (rows,).

    ``executed`` indexes ``ALGORITHMS``. ``predicted`` indexes ``CANDIDATES``; it is -1, and ``confidence`` NaN, where
    no model was asked. ``reason`` and ``arm`` are words of the contract.
    """

    executed: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float32]
    reason: NDArray[np.str_]
    arm: NDArray[np.str_]


class Policy(Protocol):
    """Decides transfers. ``model_version`` is None where no model is asked."""

    model_version: str | None

    def choose(self, features: NDArray[np.float32], bucket: NDArray[np.int64], /) -> Choices:
        """Choices for features (rows, ``len(FEATURES)``) and rollout buckets (rows,)."""
        ...

    def decision_us(self, features: NDArray[np.float32], /) -> NDArray[np.float64] | None:
        """How long each decision took, in µs, shape (rows,); None if nothing was timed and the fleet may emulate it."""
        ...


class RulesPolicy:
    """No model: the rules decide."""

    model_version: str | None = None

    def choose(self, features: NDArray[np.float32], _bucket: NDArray[np.int64], /) -> Choices:
        """The rules' choice for every row."""
        rows = len(features)
        return Choices(
            executed=choose_by_rules(features),
            predicted=np.full(rows, -1),
            confidence=np.full(rows, np.nan, np.float32),
            reason=np.full(rows, "rules"),
            arm=np.full(rows, "rules"),
        )

    def decision_us(self, _features: NDArray[np.float32], /) -> None:
        """Not timed."""


def simulate(
    profiles: Profiles,
    mix: Mix,
    *,
    seed: int,
    start: datetime = WORLD_START,
    first_week: int = 0,
    weeks: int = 8,
    transfers_per_week: int | None = None,
    policy: Policy | None = None,
    runs: int = 5,
    defects: bool = True,
) -> Iterator[pa.Table]:
    """One table in ``LOGGED_SCHEMA`` a week, in time order, for ``weeks`` weeks from week ``first_week`` of the world.

    ``start`` is when the world's week 0 begins. Weeks before ``first_week`` happen too, decided by the rules: they are
    the nodes' history and are not yielded. ``policy`` (default: the rules) decides from ``first_week`` on. The same
    arguments give the same rows. Raises ``ValueError`` if the weeks lie outside the mix's world.
    """
    if first_week < 0 or weeks < 1 or first_week + weeks > mix.world["weeks"]:
        raise ValueError(
            f"weeks {first_week} to {first_week + weeks} are not within the mix's world of {mix.world['weeks']} weeks"
        )
    if start.tzinfo is None:
        raise ValueError(f"the world's start {start} has no zone: give it in UTC")
    world = make_world(profiles, mix, seed)
    names = _Names.of(world)
    rows = transfers_per_week or mix.world["transfers_per_week"]
    start_ns = int(start.timestamp()) * 1_000_000_000
    history = History()
    rules = RulesPolicy()
    for week in range(first_week + weeks):
        transfers = week_transfers(world, week, start_ns, rows)
        acting: Policy = policy if policy is not None and week >= first_week else rules
        measured = _measured(world, transfers)
        looks = _looks(world, transfers)
        features, choices, history, passes = _decide(world, names, transfers, measured, looks, history, acting)
        if week < first_week:
            continue
        table = _log_rows(world, names, transfers, measured, looks, features, choices, acting, runs)
        if defects:
            table = with_defects(table, mix, seed, week)
        _log.info("week %d: %d transfers, choices settled in %d passes", week, table.num_rows, passes)
        yield table


def window_of(start: datetime, first_week: int, weeks: int) -> tuple[int, int]:
    """First and past-the-last nanosecond of a run."""
    start_ns = int(start.timestamp()) * 1_000_000_000
    return start_ns + first_week * NS_PER_WEEK, start_ns + (first_week + weeks) * NS_PER_WEEK


# -- deciding ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Names:
    """Texts of the world, made once: columns are taken from them by number."""

    node: pa.Array
    zone: pa.Array
    object: pa.Array
    data_type: pa.Array
    digest: pa.Array
    region: pa.Array
    link: pa.Array
    bucket: NDArray[np.int64]

    @classmethod
    def of(cls, world: World) -> _Names:
        table, first = world.profiles.table, world.profiles.first_row
        objects = table["object_id"].take(pa.array(first)).to_pylist()
        nodes = world.nodes.node_id.tolist()
        bucket = np.array([[rollout_bucket(node, name) for name in objects] for node in nodes])
        return cls(
            node=pa.array(nodes, pa.string()),
            zone=pa.array(world.nodes.zone_name.tolist(), pa.string()),
            object=table["object_id"].combine_chunks(),
            data_type=table["data_type"].combine_chunks(),
            digest=table["payload_digest"].combine_chunks(),
            region=pa.array(REGIONS, pa.string()),
            link=pa.array(LINK_TYPES, pa.string()),
            bucket=bucket,
        )


def rollout_bucket(node_id: str, object_id: str) -> int:
    """Stable bucket of a node's object, 0 to 9,999: an object stays in its arm as long as its node sends it."""
    digest = hashlib.blake2b(f"{node_id}/{object_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % ROLLOUT_BUCKETS


def _take(texts: pa.Array, numbers: NDArray[np.int64]) -> pa.Array:
    return texts.take(pa.array(numbers))


def _decide(
    world: World,
    names: _Names,
    transfers: Transfers,
    measured: dict[str, NDArray[Any]],
    looks: _Looks,
    history: History,
    policy: Policy,
) -> tuple[NDArray[np.float32], Choices, History, int]:
    """Features and choices that agree with one another, the history after them, and the passes it took."""
    profiles, profile = world.profiles, transfers.profile
    size = profiles.column("size_bytes")[profile].astype(np.float64)
    raw = {
        "timestamp_ns": transfers.timestamp_ns,
        "region": _take(names.region, world.nodes.region[transfers.node]),
        "link_type": _take(names.link, transfers.link),
        "rtt_ms": transfers.rtt_ms,
        "jitter_ms": transfers.jitter_ms,
        "available_bandwidth_mbps": transfers.bandwidth_mbps,
        "packet_loss_rate": transfers.loss,
        "data_size_bytes": size,
        "data_type": _take(names.data_type, profile),
        "entropy": profiles.column("entropy")[profile],
        "compressibility_score": profiles.column("compressibility_score")[profile],
        "cpu_usage": transfers.cpu_usage,
        "memory_available_mb": transfers.memory_mb,
        "active_transfers": transfers.active_transfers,
    }
    seen = {
        **{name: profiles.column(name)[profile] for name in ("delta_potential", "zero_share", "probe_zstd_share")},
        **{name: profiles.column(name)[profile] * looks.slowdown for name in _PROBE_SPEEDS},
        "known_share": profiles.column("hde_hit_rate")[profile],
        "peer_has_version": profiles.column("version")[profile] > 0,
        "amst_streams": transfers.streams,
    }
    served_probe = {
        f"served_{name}": seen[name].astype(np.float32).astype(np.float64)
        for name in ("probe_zstd_share", *_PROBE_SPEEDS)
    }
    bucket = names.bucket[transfers.node, profiles.object_of_row[profile]]
    node_names, peer_names = _take(names.node, transfers.node), _take(names.node, transfers.peer)
    object_names = _take(names.object, profile)
    full = transfers.fully_measured
    executed = np.full(len(profile), -1)
    for number in range(1, _MOST_PASSES + 1):
        after = copy.deepcopy(history)
        keys = after.keys(node_names, object_names, raw["data_type"], peer_names)
        logged = {
            "data_size_bytes": size,
            "compressibility_score": raw["compressibility_score"],
            **served_probe,
        } | {
            name: np.where(full | (executed == _MEASURED_BY[name]), measured[name], np.nan)
            for name in OUTCOME_COLUMNS
            if name in _MEASURED_BY
        }
        remembered = after.advance(
            keys,
            transfers.timestamp_ns,
            Observations(outcomes(logged, full), transfers.bandwidth_mbps, transfers.jitter_ms),
        )
        features = feature_matrix(raw, remembered, seen)
        choices = policy.choose(features, bucket)
        chosen = choices.executed
        if policy.model_version is None:  # a share of the rules' choices is replaced by chance, to keep seeing others
            chosen = np.where(transfers.explore >= 0, transfers.explore, chosen)
        if np.array_equal(chosen, executed):
            settled = Choices(chosen, choices.predicted, choices.confidence, choices.reason, choices.arm)
            return features, settled, after, number
        executed = chosen
    raise RuntimeError(f"choices did not settle in {_MOST_PASSES} passes")


# -- looking, before the choice ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Looks:
    """What looking at the payloads costs; arrays of shape (rows,).

    ``slowdown`` is a probe's time on the node, beside its other work, over the library's; ``time_ms`` that of the probe
    and of hashing where no dirty log says which blocks the peer has.
    """

    slowdown: NDArray[np.float64]
    time_ms: NDArray[np.float64]


def _looks(world: World, transfers: Transfers) -> _Looks:
    profiles, profile = world.profiles, transfers.profile
    rng = np.random.default_rng([world.seed, int(transfers.number[0]), 1])
    slowdown = _beside_other_work(rng, transfers) / world.nodes.speed[transfers.node]
    data_type = np.array(profiles.table["data_type"].to_pylist())
    hashed = (profiles.column("version") > 0) & ~np.isin(data_type, _DIRTY_LOG)
    looked_ms = profiles.column("probe_time_ms") + np.where(hashed, profiles.column("hash_ms"), 0.0)
    return _Looks(slowdown, looked_ms[profile] * slowdown)


def _beside_other_work(rng: np.random.Generator, transfers: Transfers) -> NDArray[np.float64]:
    """A single run's time over the least of many on an idle core."""
    scatter = np.exp(rng.normal(0, _SINGLE_RUN_SIGMA, len(transfers.profile)))
    return np.asarray((1 + _LOADED_SLOWDOWN * transfers.cpu_usage) * scatter)


# -- logging -----------------------------------------------------------------------------------------------------------


def _measured(world: World, transfers: Transfers) -> dict[str, NDArray[Any]]:
    """What measuring each algorithm on each transfer would log, whether or not it is measured."""
    profiles, profile = world.profiles, transfers.profile
    rows = len(profile)
    size = profiles.column("size_bytes")[profile]
    rng = np.random.default_rng([world.seed, int(transfers.number[0])])
    slowdown = _beside_other_work(rng, transfers)
    factor = np.where(transfers.fully_measured, 1.0, slowdown) / world.nodes.speed[transfers.node]
    stream_at = np.searchsorted(STREAM_COUNTS, transfers.streams)

    scatter = {engine: rng.normal(size=rows) for engine in _TIMED}

    def time_ms(name: str) -> NDArray[np.float64]:
        # As if measured anew: the library's two measurements give the middle, and how far repeats of it scatter. Were
        # one of the two logged as it is, an object's history would hold the very figures of its next label.
        one, other = (profiles.column(f"{name}_{measured}")[profile] for measured in ("a", "b"))
        spread = np.abs(np.log(one / other)) / np.sqrt(2)
        engine = f"{name.split('_')[0]}{'_back' if '_back' in name else ''}"
        drawn: NDArray[np.float64] = np.sqrt(one * other) * np.exp(scatter[engine] * spread) * factor
        return drawn

    def amst_time_ms(back: str) -> NDArray[np.float64]:
        return np.choose(stream_at, [time_ms(f"amst_{streams}{back}_ms") for streams in STREAM_COUNTS])

    sizes = {name: profiles.column(f"{name}_bytes")[profile] for name in ("hde", "amst", "zstd")}
    hde_ms = time_ms("hde_ms")
    return {
        "hde_compression_ratio": size / sizes["hde"],
        "hde_delta_hit_rate": profiles.column("hde_hit_rate")[profile],
        "hde_compression_time_ms": hde_ms,
        "hde_compressed_size_bytes": sizes["hde"],
        "hde_throughput_mbps": throughput_mbps(size.astype(np.float64), hde_ms),
        "hde_decompression_time_ms": time_ms("hde_back_ms"),
        "amst_streams": transfers.streams,
        "amst_transfer_rate_mbps": _effective_mbps(transfers),
        "amst_compression_time_ms": amst_time_ms(""),
        "amst_compressed_size_bytes": sizes["amst"],
        "amst_decompression_time_ms": amst_time_ms("_back"),
        "amst_cpu_time_ms": time_ms("amst_cpu_ms"),
        "amst_decompression_cpu_ms": time_ms("amst_back_cpu_ms"),
        "baseline_compression_ratio": size / sizes["zstd"],
        "baseline_compression_time_ms": time_ms("zstd_ms"),
        "baseline_compressed_size_bytes": sizes["zstd"],
        "baseline_decompression_time_ms": time_ms("zstd_back_ms"),
    }


def _effective_mbps(transfers: Transfers) -> NDArray[np.float64]:
    return transfers.bandwidth_mbps * (1 - transfers.loss) * transfers.realised_share


def _log_rows(
    world: World,
    names: _Names,
    transfers: Transfers,
    measured: dict[str, NDArray[Any]],
    looks: _Looks,
    features: NDArray[np.float32],
    choices: Choices,
    policy: Policy,
    runs: int,
) -> pa.Table:
    profiles, profile = world.profiles, transfers.profile
    rows = len(profile)
    full, executed = transfers.fully_measured, choices.executed
    size = profiles.column("size_bytes")[profile]
    hde_ms, hde_back_ms = measured["hde_compression_time_ms"], measured["hde_decompression_time_ms"]
    amst_ms, amst_back_ms = measured["amst_compression_time_ms"], measured["amst_decompression_time_ms"]
    zstd_ms, zstd_back_ms = measured["baseline_compression_time_ms"], measured["baseline_decompression_time_ms"]
    amst_cpu_ms = measured["amst_cpu_time_ms"] + measured["amst_decompression_cpu_ms"]
    zero = np.zeros(rows)
    sent = np.choose(
        executed,
        [
            measured["hde_compressed_size_bytes"],
            measured["amst_compressed_size_bytes"],
            size,
            measured["baseline_compressed_size_bytes"],
        ],
    )
    wire_ms = transfer_time_ms(sent.astype(np.float64), _effective_mbps(transfers))
    waited_ms = np.choose(executed, [hde_ms + hde_back_ms, amst_ms + amst_back_ms, zero, zstd_ms + zstd_back_ms])
    cpu_ms = np.choose(executed, [hde_ms + hde_back_ms, amst_cpu_ms, zero, zstd_ms + zstd_back_ms])
    predicted = choices.predicted >= 0
    timed_us = policy.decision_us(features)
    columns: dict[str, Any] = {
        "region": _take(names.region, world.nodes.region[transfers.node]),
        "availability_zone": _take(names.zone, transfers.node),
        "link_type": _take(names.link, transfers.link),
        "node_id": _take(names.node, transfers.node),
        "peer_id": _take(names.node, transfers.peer),
        "rtt_ms": transfers.rtt_ms,
        "jitter_ms": transfers.jitter_ms,
        "available_bandwidth_mbps": transfers.bandwidth_mbps,
        "packet_loss_rate": transfers.loss,
        "data_size_bytes": size,
        "data_type": _take(names.data_type, profile),
        "entropy": profiles.column("entropy")[profile],
        "compressibility_score": profiles.column("compressibility_score")[profile],
        "cpu_usage": transfers.cpu_usage,
        "memory_available_mb": transfers.memory_mb,
        "active_transfers": transfers.active_transfers,
        **measured,
        "current_compression": _take(pa.array(ALGORITHMS, pa.string()), executed),
        "actual_transfer_time_ms": wire_ms,
        "actual_throughput_mbps": throughput_mbps(size.astype(np.float64), wire_ms + waited_ms),
        "total_cpu_overhead_ms": cpu_ms,
        "timestamp_ns": transfers.timestamp_ns,
        "transfer_id": pc.binary_join_element_wise(f"f{world.seed}", pa.array(transfers.number).cast(pa.string()), "-"),
        "object_id": _take(names.object, profile),
        "object_version": profiles.column("version")[profile],
        "payload_digest": _take(names.digest, profile),
        "predicted_compression": _masked(
            _take(pa.array(CANDIDATES, pa.string()), np.maximum(choices.predicted, 0)), predicted
        ),
        "confidence": pa.array(choices.confidence.astype(np.float64), mask=~predicted),
        "reason_code": pa.array(choices.reason.tolist(), pa.string()),
        "decision_time_us": transfers.decision_us if timed_us is None else timed_us,
        "probe_time_ms": looks.time_ms,
        "rollout_bucket": names.bucket[transfers.node, profiles.object_of_row[profile]],
        "rollout_arm": pa.array(choices.arm.tolist(), pa.string()),
        "model_version": _masked(pa.array([policy.model_version] * rows, pa.string()), predicted),
        "feature_set_digest": pa.array([FEATURE_SET_DIGEST] * rows, pa.string()),
        "measured_candidates": _take(
            pa.array([FULLY_MEASURED, *ALGORITHMS], pa.string()), np.where(full, 0, executed + 1)
        ),
        "measured_runs": np.where(full, runs, 1),
        "measurement_propensity": np.full(rows, float(world.mix.world["measured_share"])),
        **{feature.column: features[:, place].astype(np.float64) for place, feature in enumerate(FEATURES)},
    }
    for place, algorithm in enumerate(ALGORITHMS):
        for name in OUTCOMES[algorithm]:
            columns[name] = pa.array(columns[name], mask=~(full | (executed == place)))
    arrays = [_as_array(columns[field.name]).cast(field.type, safe=False) for field in LOGGED_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=LOGGED_SCHEMA)


def _as_array(values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


def _masked(values: pa.Array, present: NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(present), values, pa.scalar(None, values.type))


# -- defects -----------------------------------------------------------------------------------------------------------


def with_defects(table: pa.Table, mix: Mix, seed: int, week: int) -> pa.Table:
    """``table`` with the mix's small share of defective rows: what real nodes now and then log."""
    rng = np.random.default_rng([seed, week, 4_711])
    rows = table.num_rows
    changes: dict[str, tuple[str, Callable[[pa.ChunkedArray], Any]]] = {
        "not_a_number": ("jitter_ms", lambda _: float("nan")),
        "missing": ("cpu_usage", lambda _: None),
        "unknown_enum": ("data_type", lambda _: "vm_snapshot"),
        "wrong_unit": ("available_bandwidth_mbps", lambda value: value * 1_000),
    }
    for name, (column, change) in changes.items():
        hit = rng.random(rows) < mix.defects[name]
        if hit.any():
            place = table.schema.get_field_index(column)
            values = table[column].to_pylist()
            for row in np.flatnonzero(hit).tolist():
                values[row] = change(values[row])
            table = table.set_column(
                place, LOGGED_SCHEMA.field(column), pa.array(values, LOGGED_SCHEMA.field(column).type)
            )
    again = np.flatnonzero(rng.random(rows) < mix.defects["duplicate"])
    return table.take(pa.array(np.sort(np.concatenate([np.arange(rows), again]))))
