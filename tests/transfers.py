"""Rows that satisfy the contract, for tests that need transfers but no fleet. They are not realistic."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dwcp import contract
from dwcp.contract import ALGORITHMS, FEATURE_SET_DIGEST, FEATURES, FULLY_MEASURED, OUTCOMES
from dwcp.sources.archive import write_archive
from dwcp.sources.schema import LOGGED_SCHEMA

START = datetime(2026, 8, 3, tzinfo=UTC)  # a Monday
NS_PER_S = 1_000_000_000


def make_transfers(
    rows: int = 1_000,
    *,
    start: datetime = START,
    seconds: float = 86_400.0,
    seed: int = 0,
    fully_measured: float = 0.3,
    objects: int = 40,
) -> pa.Table:
    """``rows`` valid transfers spread evenly over ``seconds`` from ``start``, in time order."""
    rng = np.random.default_rng(seed)
    step_ns = int(seconds * NS_PER_S / rows)
    timestamp_ns = int(start.timestamp()) * NS_PER_S + np.arange(rows, dtype=np.int64) * step_ns
    object_number = rng.integers(objects, size=rows)
    type_number = object_number % len(contract.DATA_TYPES)
    link_number = rng.integers(3, size=rows)
    region_number = rng.integers(len(contract.REGIONS), size=rows)
    size = np.maximum(1, (10 ** rng.uniform(2, 7, rows))).astype(np.int64)
    bandwidth = np.choose(link_number, [10_000.0, 1_000.0, 100.0]) * rng.uniform(0.3, 1.0, rows)
    loss = np.choose(link_number, [0.0, 1e-4, 1e-3]) * rng.uniform(0, 2, rows)
    rtt = np.choose(link_number, [0.3, 4.0, 60.0]) * rng.uniform(0.7, 1.3, rows)
    saving = rng.uniform(0, 1, rows)
    delta = rng.uniform(0, 1, rows)
    zstd_size = np.maximum(1, size * (1 - 0.8 * saving)).astype(np.int64)
    amst_size = np.maximum(1, size * (1 - 0.6 * saving)).astype(np.int64)
    hde_size = np.maximum(1, zstd_size * (1 - 0.95 * delta)).astype(np.int64)
    full = rng.random(rows) < fully_measured
    executed = np.array(ALGORITHMS)[rng.integers(4, size=rows)]
    mb = size / 1e6
    outcome = {
        "hde_compression_ratio": size / hde_size,
        "hde_delta_hit_rate": delta,
        "hde_compression_time_ms": 6.0 * mb + 0.01,
        "hde_compressed_size_bytes": hde_size,
        "hde_throughput_mbps": size / ((6.0 * mb + 0.01) * 125),
        "hde_decompression_time_ms": 2.0 * mb + 0.005,
        "amst_streams": np.full(rows, 4),
        "amst_transfer_rate_mbps": bandwidth * (1 - loss),
        "amst_compression_time_ms": 0.6 * mb + 0.01,
        "amst_compressed_size_bytes": amst_size,
        "amst_decompression_time_ms": 0.3 * mb + 0.005,
        "amst_cpu_time_ms": 2.4 * mb + 0.01,
        "baseline_compression_ratio": size / zstd_size,
        "baseline_compression_time_ms": 4.0 * mb + 0.01,
        "baseline_compressed_size_bytes": zstd_size,
        "baseline_decompression_time_ms": 1.5 * mb + 0.005,
    }
    sent = np.select(
        [executed == "hde", executed == "amst", executed == "zstd"], [hde_size, amst_size, zstd_size], size
    )
    wire_ms = sent / (bandwidth * (1 - loss) * 125)
    cpu_ms = np.select(
        [executed == "hde", executed == "amst", executed == "zstd"],
        [8.0 * mb + 0.015, 2.7 * mb + 0.015, 5.5 * mb + 0.015],
        0.0,
    )
    columns: dict[str, object] = {
        "region": np.array(contract.REGIONS)[region_number],
        "availability_zone": np.char.add(np.array(contract.REGIONS)[region_number], "-a"),
        "link_type": np.array(contract.LINK_TYPES)[link_number],
        "node_id": np.char.add("node-", region_number.astype(str)),
        "peer_id": np.char.add("node-", ((region_number + 1) % len(contract.REGIONS)).astype(str)),
        "rtt_ms": rtt,
        "jitter_ms": rtt * 0.05,
        "available_bandwidth_mbps": bandwidth,
        "packet_loss_rate": loss,
        "data_size_bytes": size,
        "data_type": np.array(contract.DATA_TYPES)[type_number],
        "entropy": 1 - 0.7 * saving,
        "compressibility_score": saving,
        "cpu_usage": rng.uniform(0.05, 0.9, rows),
        "memory_available_mb": rng.integers(1_000, 64_000, rows),
        "active_transfers": rng.integers(0, 20, rows),
        "current_compression": executed,
        "actual_transfer_time_ms": wire_ms,
        "actual_throughput_mbps": size / ((wire_ms + cpu_ms) * 125),
        "total_cpu_overhead_ms": cpu_ms,
        "timestamp_ns": timestamp_ns,
        "transfer_id": [f"t{seed}-{start:%Y%m%d}-{n}" for n in range(rows)],
        "object_id": np.char.add("object-", object_number.astype(str)),
        "object_version": seed * rows + np.arange(rows) // objects,
        "payload_digest": [f"{seed * rows + n:032x}" for n in range(rows)],
        "predicted_compression": np.array(contract.CANDIDATES)[rng.integers(3, size=rows)],
        "confidence": rng.uniform(0.34, 1.0, rows),
        "reason_code": np.full(rows, "rules"),
        "decision_time_us": rng.uniform(5, 50, rows),
        "probe_time_ms": rng.uniform(0.1, 5.0, rows),
        "rollout_bucket": rng.integers(contract.ROLLOUT_BUCKETS, size=rows),
        "rollout_arm": np.full(rows, "rules"),
        "model_version": np.full(rows, "test-model"),
        "feature_set_digest": np.full(rows, FEATURE_SET_DIGEST),
        "measured_candidates": np.where(full, FULLY_MEASURED, executed),
        "measured_runs": np.where(full, 5, 1),
        "measurement_propensity": np.full(rows, fully_measured or 0.3),
    }
    masks: dict[str, np.ndarray] = {}
    for algorithm, names in OUTCOMES.items():
        for name in names:
            columns[name] = outcome[name]
            masks[name] = ~(full | (executed == algorithm))
    # Estimates as a node makes them: what each would cost over sending uncompressed, wrong by a tenth.
    none_ms = size / (bandwidth * (1 - loss) * 125)
    estimated = {
        name: (compressed / size + time_ms / none_ms) * np.random.default_rng([seed, number]).lognormal(0, 0.1, rows)
        for number, (name, compressed, time_ms) in enumerate(
            (("hde", hde_size, 8.0 * mb + 0.015), ("amst", amst_size, 0.9 * mb + 0.015), ("zstd", zstd_size, 5.5 * mb))
        )
    }
    served = {
        **{f"{name}_cost_ratio": ratio for name, ratio in estimated.items()},
        "history_source": np.full(rows, 2),
        "rtt_ms": rtt,
        "jitter_ms": rtt * 0.05,
        "bandwidth_mbps": bandwidth,
        "packet_loss_rate": loss,
        "link_type": link_number + 1,
        "region": region_number + 1,
        "size_bytes": size,
        "entropy": 1 - 0.7 * saving,
        "compressibility_score": saving,
        "delta_potential": delta,
        "known_share": delta,
        "probe_zstd_share": 1 - 0.9 * saving,
        "peer_has_version": np.ones(rows),
        "amst_streams": outcome["amst_streams"],
        "data_type": type_number + 1,
        "cpu_usage": columns["cpu_usage"],
        "memory_available": columns["memory_available_mb"],
        "active_transfers": columns["active_transfers"],
        "time_of_day": (timestamp_ns // (3_600 * NS_PER_S)) % 24,
    }
    for feature in FEATURES:
        value = served.get(feature.name, np.full(rows, feature.default))
        columns[feature.column] = np.asarray(value).astype(np.float32).astype(np.float64)
    arrays = [
        pa.array(columns[field.name], mask=masks.get(field.name)).cast(field.type, safe=False)
        for field in LOGGED_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=LOGGED_SCHEMA)


def archive_transfers(directory: Path, table: pa.Table) -> None:
    """Write the table, all of one day, into the Parquet archive."""
    day = datetime.fromtimestamp(table["timestamp_ns"][0].as_py() // NS_PER_S, UTC).date()
    for region in table["region"].unique().to_pylist():
        rows = table.filter(pc.equal(table["region"], region))
        write_archive(directory, day, region, rows.to_batches())


def replace(table: pa.Table, name: str, row: int, value: object) -> pa.Table:
    """The table with one cell changed."""
    values = table[name].to_pylist()
    values[row] = value
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, table.schema.field(name).type))
