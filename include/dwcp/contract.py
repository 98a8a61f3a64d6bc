"""The one source of truth about a transfer: every column, every enum, every feature.

Derived from this module by code, never by hand: the split of good rows from quarantined ones, the DDL's column list,
the Great Expectations suite, the data dictionary in ``docs/``, the InfluxDB reader's type check and the models' inputs.

Units: bandwidth is megabit/s, sizes are bytes, times are milliseconds, shares are fractions in [0, 1].
Standard library only: DAG files import this module at parse time.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum

BUCKET = "dwcp_metrics"
MEASUREMENT = "compression_metrics"

CANDIDATES = ("hde", "amst", "none")
"""What the selector chooses between; the order is the models' class order."""
BASELINE = "zstd"
"""The conservative choice; never a label, always measured beside the candidates."""
ALGORITHMS = (*CANDIDATES, BASELINE)
LINK_TYPES = ("dc", "metro", "wan")
DATA_TYPES = ("vm_memory", "vm_disk", "database", "container", "logs", "media", "metadata", "other")
REGIONS = ("us-east", "us-west", "eu-central", "eu-west", "ap-south", "ap-northeast")
ARMS = ("rules", "shadow", "canary", "champion")
"""Which part of the rollout a transfer fell into: ``rules`` has no model at all; ``shadow`` logs a model, rules act."""
REASONS = (
    "model",
    "rules",
    "low_confidence",
    "model_missing",
    "model_invalid",
    "model_stale",
    "inference_error",
    "non_finite_input",
    "deadline_passed",
    "not_worth_it",
)
"""Why the executed choice was made."""
UNKNOWN_CODE = 0
"""The feature code of an enum value that the contract does not know; known values count from 1 in their order."""
FULLY_MEASURED = ",".join(ALGORITHMS)
"""The value of ``measured_candidates`` when every algorithm was measured; only such rows get a label."""
ROLLOUT_BUCKETS = 10_000

AMST_CHUNK_BYTES = 262_144
"""AMST deals a payload in chunks of this size to its streams in turn; a stream is a thread."""

RTT_BINS_MS = (1.0, 10.0)
"""Seed §4.2.1: below 1 ms datacenter, up to 10 ms metro, beyond it WAN."""
SIZE_BINS_BYTES = (1_024, 1_048_576)
"""Seed §4.2.2: small below 1 KiB, medium up to 1 MiB, large beyond it."""
PLAUSIBLE_BANDWIDTH_MBPS = {"dc": (10.0, 400_000.0), "metro": (1.0, 100_000.0), "wan": (0.05, 40_000.0)}
"""What one link of a kind can carry. A value outside is most often kbit/s or byte/s in a Mbit/s column."""


def link_type_of(network_mode: str, rtt_ms: float) -> str:
    """Map the seed's §3.3 network mode to a link type: ``hybrid`` is told apart by RTT (§4.2.1).

    Raises ``ValueError`` on a mode that the seed does not name.
    """
    modes = {"datacenter": "dc", "wan": "wan"}
    if network_mode == "hybrid":
        return LINK_TYPES[(rtt_ms >= RTT_BINS_MS[0]) + (rtt_ms > RTT_BINS_MS[1])]
    if network_mode not in modes:
        raise ValueError(f"unknown network mode {network_mode!r}: expected datacenter, wan or hybrid")
    return modes[network_mode]


class Role(StrEnum):
    """Where a column lives: InfluxDB's timestamp, a tag, a field, or the warehouse alone."""

    TIME = "time"
    TAG = "tag"
    FIELD = "field"
    WAREHOUSE = "warehouse"


class Kind(StrEnum):
    """Value type. InfluxDB's names of field types follow: float, integer, string."""

    FLOAT = "float"
    INTEGER = "integer"
    STRING = "string"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a transfer's row. ``minimum`` and ``maximum`` are inclusive; NaN and infinity are never legal."""

    name: str
    role: Role
    kind: Kind
    postgres: str
    unit: str
    meaning: str
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    values: tuple[str, ...] | None = None
    max_length: int | None = None
    seed: bool = False


@dataclass(frozen=True, slots=True)
class Feature:
    """One model input, a finite float32, as the node knew it before it chose.

    ``default`` is what a node serves at cold start; ``codes`` are an enum's values (code = position + 1, 0 = unknown).
    """

    name: str
    unit: str
    default: float
    minimum: float
    maximum: float
    meaning: str
    codes: tuple[str, ...] | None = None

    @property
    def column(self) -> str:
        """The column that logs this feature as it was served."""
        return f"served_{self.name}"


SEED_FEATURES = (
    # Seed §4.1.1, in its order. Network (6), data (5), system (4), history (3).
    Feature("rtt_ms", "ms", 10.0, 0.0, 60_000.0, "round-trip time to the peer"),
    Feature("jitter_ms", "ms", 0.5, 0.0, 60_000.0, "jitter of the round-trip time"),
    Feature("bandwidth_mbps", "Mbit/s", 1_000.0, 0.01, 800_000.0, "available bandwidth to the peer"),
    Feature("packet_loss_rate", "fraction", 0.0, 0.0, 0.99, "share of packets lost"),
    Feature("link_type", "code", 0.0, 0.0, 3.0, "kind of link", LINK_TYPES),
    Feature("region", "code", 0.0, 0.0, 6.0, "region of the sending node", REGIONS),
    Feature("size_bytes", "byte", 0.0, 0.0, 2.0**44, "payload size before compression"),
    Feature("entropy", "fraction", 0.5, 0.0, 1.0, "Shannon entropy of blocks at the last probe, in bytes of 8 bits"),
    Feature("compressibility_score", "fraction", 0.5, 0.0, 1.0, "share that a light codec saved at the last probe"),
    Feature("delta_potential", "fraction", 0.0, 0.0, 1.0, "share of blocks that the peer had at the last probe"),
    Feature("data_type", "code", 0.0, 0.0, 8.0, "kind of payload", DATA_TYPES),
    Feature("cpu_usage", "fraction", 0.3, 0.0, 1.0, "CPU in use on the sending node"),
    Feature("memory_available", "MB", 8_192.0, 0.0, 2.0**31, "free memory on the sending node"),
    Feature("active_transfers", "count", 0.0, 0.0, 100_000.0, "transfers in flight on the sending node"),
    Feature("time_of_day", "hour", 12.0, 0.0, 23.0, "UTC hour of the decision"),
    Feature("recent_hde_ratio", "ratio", 4.0, 0.01, 1e6, "EMA of HDE's past compression ratios on this object"),
    Feature("recent_amst_ratio", "ratio", 2.0, 0.01, 1e6, "EMA of AMST's past compression ratios on this object"),
    Feature("baseline_ratio", "ratio", 3.0, 0.01, 1e6, "EMA of zstd's past compression ratios on this object"),
)
DERIVED_FEATURES = (
    # Seed §4.2; they follow the 18 and never replace them.
    Feature("rtt_bin", "code", 0.0, 0.0, 3.0, "RTT bin of §4.2.1", LINK_TYPES),
    Feature("bandwidth_ratio", "ratio", 1.0, 1e-6, 1e6, "bandwidth over the EMA of past bandwidth to this peer"),
    Feature("jitter_average_ms", "ms", 0.5, 0.0, 60_000.0, "moving average of jitter to this peer"),
    Feature("size_category", "code", 0.0, 0.0, 3.0, "size bin of §4.2.2", ("small", "medium", "large")),
    # What a node can know before it chooses, and the cost structure that follows from it.
    Feature("known_share", "fraction", 0.0, 0.0, 1.0, "share of the payload's bytes in blocks that the peer has"),
    Feature("zero_share", "fraction", 0.0, 0.0, 1.0, "share of the payload's bytes in blocks of nothing but zeros"),
    Feature("probe_zstd_share", "fraction", 0.5, 0.0, 1.0, "share that zstd left at the last probe"),
    Feature("probe_zstd_ms_per_mb", "ms/MB", 8.0, 1e-6, 1e6, "zstd's time at the last probe"),
    Feature("probe_lz4_ms_per_mb", "ms/MB", 2.5, 1e-6, 1e6, "lz4's time at the last probe"),
    Feature("peer_has_version", "code", 0.0, 0.0, 1.0, "1 if the peer holds an earlier version of the object"),
    Feature("amst_streams", "count", 1.0, 1.0, 1_024.0, "streams that AMST would cut the payload into"),
    Feature("recent_hde_ms_per_mb", "ms/MB", 8.0, 1e-6, 1e6, "EMA of HDE's time, both ways, on this object"),
    Feature("recent_amst_ms_per_mb", "ms/MB", 1.0, 1e-6, 1e6, "EMA of AMST's time of one thread on this object"),
    Feature("recent_zstd_ms_per_mb", "ms/MB", 3.0, 1e-6, 1e6, "EMA of zstd's time, both ways, on this object"),
    Feature("history_source", "code", 0.0, 0.0, 2.0, "whose past the times are", ("data_type", "object")),
    Feature("hde_cost_ratio", "ratio", 1.0, 0.0, 1e6, "HDE's cost by history over that of sending uncompressed"),
    Feature("amst_cost_ratio", "ratio", 1.0, 0.0, 1e6, "AMST's cost by history over that of sending uncompressed"),
    Feature("zstd_cost_ratio", "ratio", 1.0, 0.0, 1e6, "zstd's cost by history over that of sending uncompressed"),
    Feature("hde_amst_cost_ratio", "ratio", 1.0, 0.0, 1e6, "HDE's cost by history over AMST's"),
    Feature("probe_hde_cost_ratio", "ratio", 1.0, 0.0, 1e6, "HDE's cost by probe over that of sending uncompressed"),
    Feature("probe_amst_cost_ratio", "ratio", 1.0, 0.0, 1e6, "AMST's cost by probe over that of sending uncompressed"),
    Feature("probe_zstd_cost_ratio", "ratio", 1.0, 0.0, 1e6, "zstd's cost by probe over that of sending uncompressed"),
)
FEATURES = (*SEED_FEATURES, *DERIVED_FEATURES)
FEATURE_SET_DIGEST = hashlib.sha256(
    json.dumps([asdict(feature) for feature in FEATURES], sort_keys=True).encode()
).hexdigest()[:16]
"""Names the definition that a row's served features follow; any change to a feature changes it."""


def _tag(name: str, size: int, meaning: str, values: tuple[str, ...] | None = None) -> Column:
    return Column(
        name, Role.TAG, Kind.STRING, f"VARCHAR({size})", "", meaning, values=values, max_length=size, seed=True
    )


def _text(
    name: str,
    size: int,
    meaning: str,
    *,
    values: tuple[str, ...] | None = None,
    nullable: bool = False,
    seed: bool = False,
    role: Role = Role.FIELD,
) -> Column:
    return Column(
        name, role, Kind.STRING, f"VARCHAR({size})", "", meaning, nullable, values=values, max_length=size, seed=seed
    )


def _float(
    name: str,
    unit: str,
    minimum: float,
    maximum: float,
    meaning: str,
    *,
    nullable: bool = False,
    seed: bool = False,
    role: Role = Role.FIELD,
) -> Column:
    return Column(name, role, Kind.FLOAT, "FLOAT", unit, meaning, nullable, minimum, maximum, seed=seed)


def _integer(
    name: str,
    postgres: str,
    unit: str,
    minimum: float,
    maximum: float,
    meaning: str,
    *,
    nullable: bool = False,
    seed: bool = False,
) -> Column:
    return Column(name, Role.FIELD, Kind.INTEGER, postgres, unit, meaning, nullable, minimum, maximum, seed=seed)


_SIZE_MAX = 2.0**44
_TIME_MAX = 86_400_000.0
_RATIO_MIN, _RATIO_MAX = 0.01, 1e6

COLUMNS: tuple[Column, ...] = (
    # -- Seed §6.1, in its order (``id`` is the warehouse's own and no part of a row) --
    Column(
        "timestamp", Role.WAREHOUSE, Kind.INTEGER, "TIMESTAMPTZ", "µs", "time of the decision, cut to µs", seed=True
    ),
    _tag("region", 50, "region of the sending node"),
    _tag("availability_zone", 50, "availability zone of the sending node"),
    _tag("link_type", 20, "kind of link", LINK_TYPES),
    _tag("node_id", 100, "the sending node"),
    _text("peer_id", 100, "the receiving node", seed=True),
    _float("rtt_ms", "ms", 0.0, 60_000.0, "round-trip time to the peer", seed=True),
    _float("jitter_ms", "ms", 0.0, 60_000.0, "jitter of the round-trip time", seed=True),
    _float("available_bandwidth_mbps", "Mbit/s", 0.01, 800_000.0, "bandwidth available to the peer", seed=True),
    _float("packet_loss_rate", "fraction", 0.0, 0.99, "share of packets lost", seed=True),
    _integer("data_size_bytes", "BIGINT", "byte", 1, _SIZE_MAX, "payload size before compression", seed=True),
    _tag("data_type", 50, "kind of payload", DATA_TYPES),
    _float("entropy", "fraction", 0.0, 1.0, "Shannon entropy of blocks at the object's last probe", seed=True),
    _float(
        "compressibility_score", "fraction", 0.0, 1.0, "share a light codec saved at the object's last probe", seed=True
    ),
    _float("cpu_usage", "fraction", 0.0, 1.0, "CPU in use on the sending node", seed=True),
    _integer("memory_available_mb", "BIGINT", "MB", 0, 2.0**31, "free memory on the sending node", seed=True),
    _integer("active_transfers", "INT", "count", 0, 100_000, "transfers in flight on the node", seed=True),
    _float("hde_compression_ratio", "ratio", _RATIO_MIN, _RATIO_MAX, "size over HDE's size", nullable=True, seed=True),
    _float("hde_delta_hit_rate", "fraction", 0.0, 1.0, "share of blocks unchanged", nullable=True, seed=True),
    _float("hde_compression_time_ms", "ms", 0.0, _TIME_MAX, "HDE's compression time", nullable=True, seed=True),
    _integer("hde_compressed_size_bytes", "BIGINT", "byte", 1, _SIZE_MAX, "HDE's size", nullable=True, seed=True),
    _float("hde_throughput_mbps", "Mbit/s", 0.0, 1e8, "payload over HDE's compression time", nullable=True, seed=True),
    _integer("amst_streams", "INT", "count", 1, 1_024, "AMST's parallel streams", nullable=True, seed=True),
    _float("amst_transfer_rate_mbps", "Mbit/s", 0.0, 1e8, "what AMST's streams carry", nullable=True, seed=True),
    _float("amst_compression_time_ms", "ms", 0.0, _TIME_MAX, "AMST's makespan over threads", nullable=True, seed=True),
    _integer("amst_compressed_size_bytes", "BIGINT", "byte", 1, _SIZE_MAX, "AMST's size", nullable=True, seed=True),
    _float("baseline_compression_ratio", "ratio", _RATIO_MIN, _RATIO_MAX, "size over zstd's", nullable=True, seed=True),
    _float("baseline_compression_time_ms", "ms", 0.0, _TIME_MAX, "zstd's compression time", nullable=True, seed=True),
    _integer("baseline_compressed_size_bytes", "BIGINT", "byte", 1, _SIZE_MAX, "zstd's size", nullable=True, seed=True),
    _tag("current_compression", 20, "the executed choice", ALGORITHMS),
    _text(
        "optimal_compression",
        20,
        "the oracle's label; NULL unless fully measured",
        values=CANDIDATES,
        nullable=True,
        seed=True,
        role=Role.WAREHOUSE,
    ),
    _float("actual_transfer_time_ms", "ms", 0.0, _TIME_MAX, "time on the wire of the executed choice", seed=True),
    _float("actual_throughput_mbps", "Mbit/s", 0.0, 1e8, "payload over its whole time", seed=True),
    _float("total_cpu_overhead_ms", "ms", 0.0, _TIME_MAX, "CPU time of the executed choice, both ends", seed=True),
    # -- Beside the seed's table: identity --
    Column(
        "timestamp_ns",
        Role.TIME,
        Kind.INTEGER,
        "BIGINT",
        "ns",
        "time of the decision since 1970 UTC; strictly increasing per node",
        minimum=0,
        maximum=2.0**63,
    ),
    _text("transfer_id", 100, "names one transfer; unique"),
    _text("object_id", 200, "the object transferred; its versions share it"),
    _integer("object_version", "BIGINT", "count", 0, 2.0**53, "version of the object, counting from 0"),
    _text("payload_digest", 64, "digest of the payload's bytes"),
    # -- what was decided, and how --
    _text("predicted_compression", 20, "the model's argmax before any fallback", values=CANDIDATES, nullable=True),
    _float("confidence", "fraction", 0.0, 1.0, "the model's highest probability", nullable=True),
    _text("reason_code", 40, "why the executed choice was made", values=REASONS),
    _float("decision_time_us", "µs", 0.0, 1e9, "time that the decision took"),
    _float(
        "probe_time_ms",
        "ms",
        0.0,
        _TIME_MAX,
        "CPU time of looking at the payload before choosing: a first probe, hashing",
    ),
    _integer("rollout_bucket", "INT", "count", 0, ROLLOUT_BUCKETS - 1, "the transfer's rollout bucket"),
    _text("rollout_arm", 20, "the transfer's rollout arm", values=ARMS),
    _text("model_version", 64, "the model that predicted; NULL without one", nullable=True),
    _text("feature_set_digest", 64, "names the definition of the served features"),
    # -- what was measured --
    _text("measured_candidates", 60, "algorithms measured, comma-separated in contract order"),
    _integer("measured_runs", "INT", "count", 1, 10_000, "runs behind each measured time (the minimum is kept)"),
    _float("measurement_propensity", "fraction", 1e-6, 1.0, "probability that this transfer was fully measured"),
    _float("hde_decompression_time_ms", "ms", 0.0, _TIME_MAX, "HDE's decompression time", nullable=True),
    _float("amst_decompression_time_ms", "ms", 0.0, _TIME_MAX, "AMST's decompression makespan", nullable=True),
    _float("amst_cpu_time_ms", "ms", 0.0, _TIME_MAX, "AMST's compression CPU, sum over threads", nullable=True),
    _float("baseline_decompression_time_ms", "ms", 0.0, _TIME_MAX, "zstd's decompression time", nullable=True),
    *(_float(f.column, f.unit, f.minimum, f.maximum, f"feature as served: {f.meaning}") for f in FEATURES),
    # -- what the oracle and the load add --
    _text("oracle_definition", 20, "which oracle labelled the row", nullable=True, role=Role.WAREHOUSE),
    *(
        _float(f"cost_{a}_ms", "ms", 0.0, 1e12, f"oracle's cost of {a}", nullable=True, role=Role.WAREHOUSE)
        for a in ALGORITHMS
    ),
    _float("oracle_margin_ms", "ms", 0.0, 1e12, "runner-up's cost less the best", nullable=True, role=Role.WAREHOUSE),
    _text("ingestion_run_id", 100, "the run that loaded the row", role=Role.WAREHOUSE),
)
BY_NAME = {column.name: column for column in COLUMNS}

LOGGED = tuple(column for column in COLUMNS if column.role is not Role.WAREHOUSE)
"""What a node logs: one row of a source, in contract order."""
TAGS = tuple(column for column in LOGGED if column.role is Role.TAG)
FIELDS = tuple(column for column in LOGGED if column.role is Role.FIELD)

OUTCOMES = {
    "hde": (
        "hde_compression_ratio",
        "hde_delta_hit_rate",
        "hde_compression_time_ms",
        "hde_compressed_size_bytes",
        "hde_throughput_mbps",
        "hde_decompression_time_ms",
    ),
    "amst": (
        "amst_streams",
        "amst_transfer_rate_mbps",
        "amst_compression_time_ms",
        "amst_compressed_size_bytes",
        "amst_decompression_time_ms",
        "amst_cpu_time_ms",
    ),
    "none": (),
    "zstd": (
        "baseline_compression_ratio",
        "baseline_compression_time_ms",
        "baseline_compressed_size_bytes",
        "baseline_decompression_time_ms",
    ),
}
"""The columns that an algorithm's measurement fills: all of them when it was measured, none of them otherwise."""
