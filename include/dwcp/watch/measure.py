"""What really happened to the transfers that one version decided about: accuracy, regret, throughput, drift.

Accuracy needs counterfactuals, so it comes from fully measured rows alone, each weighted by the inverse of the
propensity with which it was picked (Horvitz and Thompson, 1952; self-normalised); the effective sample size (Kish,
1965) says how many equal rows the weights leave. Accuracy is judged on the logged argmax; regret and throughput on the
executed choice, shadow rows excluded, since there the rules acted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURES
from dwcp.label_worth import ceiling_of
from dwcp.units import throughput_mbps
from dwcp.watch.drift import psi_of
from dwcp.window import Window

MAX_WEIGHT = 100.0
"""Weights are clipped here: a row picked once in a million must not decide alone. Clipped rows are counted."""
MODEL_ARMS = ("canary", "champion")
"""Arms in which the model acted."""
_TIMES_MS = {
    "hde": ("hde_compression_time_ms", "hde_decompression_time_ms"),
    "amst": ("amst_compression_time_ms", "amst_decompression_time_ms"),
    "none": (),
    "zstd": ("baseline_compression_time_ms", "baseline_decompression_time_ms"),
}
COLUMNS = (
    *("timestamp_ns", "region", "model_version", "rollout_arm", "predicted_compression", "optimal_compression"),
    *("current_compression", "measurement_propensity", "measured_runs", "data_size_bytes", "actual_transfer_time_ms"),
    *(f"cost_{algorithm}_ms" for algorithm in ALGORITHMS),
    *(name for names in _TIMES_MS.values() for name in names),
    *(feature.column for feature in FEATURES),
)
"""The warehouse columns that a measurement reads."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """One version over one window, in the regions that it serves. A figure is None where no row allows it.

    ``rows``: transfers that the version predicted; ``measured_rows``: fully measured ones with a prediction;
    ``executed_rows``: those of them in which the model acted; ``effective_*``: Kish's effective sample sizes.
    ``accuracy_half_width``: of the 95 % interval. ``label_ceiling``: what the labels allow, see
    ``dwcp.label_worth``. ``mean_regret``: share of the oracle's cost.
    """

    rows: int
    measured_rows: int
    effective_rows: float
    executed_rows: int
    effective_executed_rows: float
    clipped_rows: int
    accuracy: float | None
    accuracy_half_width: float | None
    label_ceiling: float | None
    mean_regret: float | None
    throughput_mbps: float | None
    psi: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"psi": dict(self.psi)}


def measure(
    log: pa.Table,
    version: str,
    *,
    regions: Sequence[str],
    window: Window,
    training_profile: Mapping[str, object],
    label_ceilings: Mapping[int, float],
) -> Measurement:
    """Measure ``version`` on ``log``, a table with at least ``COLUMNS``; rows outside window or regions are ignored.

    ``training_profile`` is what ``drift.profile_of`` gave at training.
    """
    rows = log.filter(
        (pc.field("model_version") == version)
        & pc.field("region").isin(list(regions))
        & (pc.field("timestamp_ns") >= window.start_ns)
        & (pc.field("timestamp_ns") < window.end_ns)
    )
    measured = rows.filter(pc.field("optimal_compression").is_valid() & pc.field("predicted_compression").is_valid())
    executed = measured.filter(pc.field("rollout_arm").isin(list(MODEL_ARMS)))
    weights, executed_weights = _weights(measured), _weights(executed)
    accuracy, half_width = _accuracy(measured, weights)
    return Measurement(
        rows=rows.num_rows,
        measured_rows=measured.num_rows,
        effective_rows=effective_rows(weights),
        executed_rows=executed.num_rows,
        effective_executed_rows=effective_rows(executed_weights),
        clipped_rows=int((1 / _floats(measured, "measurement_propensity") > MAX_WEIGHT).sum()),
        accuracy=accuracy,
        accuracy_half_width=half_width,
        label_ceiling=ceiling_of(_floats(measured, "measured_runs"), label_ceilings),
        mean_regret=_mean_regret(executed, executed_weights),
        throughput_mbps=_throughput(executed, executed_weights),
        psi=psi_of(training_profile, _features(rows), [feature.name for feature in FEATURES]),
    )


def effective_rows(weights: NDArray[np.float64]) -> float:
    """Kish's effective sample size (Σw)² ÷ Σw²; equal weights give the number of rows exactly."""
    if len(weights) == 0:
        return 0.0
    relative = weights / weights.max()
    return float(relative.sum() ** 2 / (relative**2).sum())


def _weights(rows: pa.Table) -> NDArray[np.float64]:
    return np.minimum(1 / _floats(rows, "measurement_propensity"), MAX_WEIGHT)


def _accuracy(rows: pa.Table, weights: NDArray[np.float64]) -> tuple[float | None, float | None]:
    if rows.num_rows == 0:
        return None, None
    right = _strings(rows, "predicted_compression") == _strings(rows, "optimal_compression")
    share = weights / weights.sum()
    accuracy = float(share @ right)
    # Variance of a self-normalised weighted mean (delta method).
    error = math.sqrt(float(np.sum((share * (right - accuracy)) ** 2)))
    return accuracy, 1.96 * error


def _mean_regret(rows: pa.Table, weights: NDArray[np.float64]) -> float | None:
    if rows.num_rows == 0:
        return None
    costs_ms = np.stack([_floats(rows, f"cost_{algorithm}_ms") for algorithm in ALGORITHMS], axis=1)
    choice = np.searchsorted(sorted(ALGORITHMS), _strings(rows, "current_compression"))
    spent = costs_ms[np.arange(len(costs_ms)), np.argsort(ALGORITHMS)[choice]]
    best = costs_ms[:, : len(CANDIDATES)].min(axis=1)
    return float(np.average((spent - best) / best, weights=weights))


def _throughput(rows: pa.Table, weights: NDArray[np.float64]) -> float | None:
    """Σ bytes ÷ Σ (time on the wire + compression + decompression) of what was executed, weighted, in Mbit/s."""
    if rows.num_rows == 0:
        return None
    executed = _strings(rows, "current_compression")
    time_ms = _floats(rows, "actual_transfer_time_ms").copy()
    for algorithm, names in _TIMES_MS.items():
        for name in names:
            time_ms += np.where(executed == algorithm, _floats(rows, name), 0.0)
    total_ms = float(weights @ time_ms)
    return throughput_mbps(float(weights @ _floats(rows, "data_size_bytes")), total_ms) if total_ms > 0 else None


def _features(rows: pa.Table) -> NDArray[np.float32]:
    return np.stack([_floats(rows, feature.column) for feature in FEATURES], axis=1).astype(np.float32)


def _floats(rows: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _strings(rows: pa.Table, name: str) -> NDArray[np.str_]:
    return np.asarray(rows[name].cast(pa.string()).to_numpy(zero_copy_only=False), np.str_)
