"""Log a week's transfers as their nodes would: a table in ``LOGGED_SCHEMA``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURE_SET_DIGEST, FEATURES, FULLY_MEASURED, OUTCOMES
from dwcp.fleet.known import Known
from dwcp.fleet.outcomes import effective_mbps
from dwcp.fleet.policy import Choices, Policy
from dwcp.fleet.world import Transfers
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.units import throughput_mbps, transfer_time_ms


def log_week(
    transfers: Transfers,
    known: Known,
    measured: dict[str, NDArray[Any]],
    features: NDArray[np.float32],
    choices: Choices,
    policy: Policy,
    *,
    runs: int,
    measured_share: float,
) -> pa.Table:
    """One row a transfer, in time order. ``measured`` is null where it was neither executed nor fully measured."""
    rows = len(features)
    full, predicted = transfers.fully_measured, choices.predicted >= 0
    timed_us = policy.decision_us(features)
    asked = (
        pa.repeat(pa.scalar(policy.model_version, pa.string()), rows)
        if choices.version is None
        else pa.array(choices.version.tolist(), pa.string())
    )
    columns: dict[str, Any] = {
        **known.logged,
        **measured,
        **_results(transfers, known.logged["data_size_bytes"], measured, choices.executed),
        "current_compression": _words(ALGORITHMS, choices.executed),
        "predicted_compression": _masked(_words(CANDIDATES, np.maximum(choices.predicted, 0)), predicted),
        "confidence": pa.array(choices.confidence.astype(np.float64), mask=~predicted),
        "reason_code": pa.array(choices.reason.tolist(), pa.string()),
        "decision_time_us": transfers.decision_us if timed_us is None else timed_us,
        "rollout_arm": pa.array(choices.arm.tolist(), pa.string()),
        "model_version": _masked(asked, predicted),
        "feature_set_digest": pa.repeat(FEATURE_SET_DIGEST, rows),
        "measured_candidates": _words((FULLY_MEASURED, *ALGORITHMS), np.where(full, 0, choices.executed + 1)),
        "measured_runs": np.where(full, runs, 1),
        "measurement_propensity": np.full(rows, measured_share),
        **{feature.column: features[:, place].astype(np.float64) for place, feature in enumerate(FEATURES)},
    }
    for place, algorithm in enumerate(ALGORITHMS):
        for name in OUTCOMES[algorithm]:
            columns[name] = pa.array(columns[name], mask=~(full | (choices.executed == place)))
    arrays = [_as_array(columns[field.name]).cast(field.type, safe=False) for field in LOGGED_SCHEMA]
    return pa.Table.from_arrays(arrays, schema=LOGGED_SCHEMA)


def _results(
    transfers: Transfers, size: NDArray[np.int64], measured: dict[str, NDArray[Any]], executed: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """What came of the executed choices: time on the wire, throughput with all waiting, CPU time on both sides."""
    spent_ms = {
        name: measured[f"{name}_compression_time_ms"] + measured[f"{name}_decompression_time_ms"]
        for name in ("hde", "amst", "baseline")
    }
    sent = {name: measured[f"{name}_compressed_size_bytes"] for name in spent_ms}
    amst_cpu_ms = measured["amst_cpu_time_ms"] + measured["amst_decompression_cpu_ms"]
    zero = np.zeros(len(executed))

    def of_executed(hde: NDArray[Any], amst: NDArray[Any], none: NDArray[Any], zstd: NDArray[Any]) -> NDArray[Any]:
        return np.choose(executed, [hde, amst, none, zstd])

    sent_bytes = of_executed(sent["hde"], sent["amst"], size, sent["baseline"])
    wire_ms = transfer_time_ms(sent_bytes.astype(np.float64), effective_mbps(transfers))
    waited_ms = of_executed(spent_ms["hde"], spent_ms["amst"], zero, spent_ms["baseline"])
    return {
        "actual_transfer_time_ms": wire_ms,
        "actual_throughput_mbps": throughput_mbps(size.astype(np.float64), wire_ms + waited_ms),
        "total_cpu_overhead_ms": of_executed(spent_ms["hde"], amst_cpu_ms, zero, spent_ms["baseline"]),
    }


def _words(words: tuple[str, ...], numbers: NDArray[np.int64]) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(numbers))


def _as_array(values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


def _masked(values: pa.Array, present: NDArray[np.bool_]) -> pa.Array:
    return pc.if_else(pa.array(present), values, pa.scalar(None, values.type))
