"""What really happened to the transfers of one region that one version decided about.

Accuracy needs counterfactuals, so it comes from fully measured rows alone, each weighted by the inverse of the
propensity with which it was picked (Horvitz and Thompson, 1952; self-normalised); the effective sample size (Kish,
1965) says how many equal rows the weights leave. Accuracy is judged on the logged argmax; regret, what was lost and
suboptimal selections on the executed choice, shadow rows excluded, since there the rules acted. What a canary gains
comes from ``experiment``; intervals are those of ``sequential``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURES
from dwcp.label_worth import ceiling_of
from dwcp.release.metrics import TIE_SHARE
from dwcp.units import throughput_mbps
from dwcp.watch.experiment import Comparison, compare, known_before
from dwcp.watch.sequential import Estimate, half_width, ratio, share
from dwcp.window import Window

MAX_WEIGHT = 100.0
"""Weights are clipped here: a row picked once in a million must not decide alone. Clipped rows are counted."""
GAINS = ("throughput_gain", "bulk_throughput_gain")
MODEL_ARMS = ("canary", "champion")
"""Arms in which the model acted."""
EFFECT = 0.1
"""For which an interval is tightest: wide enough to find large harm early, at a tenth more width where data abound."""
_NS_PER_HOUR = 3_600_000_000_000
BLOCK_ROWS = 20_000
"""All features of so many rows are held at a time."""
_TIMES_MS = {
    "hde": ("hde_compression_time_ms", "hde_decompression_time_ms"),
    "amst": ("amst_compression_time_ms", "amst_decompression_time_ms"),
    "none": (),
    "zstd": ("baseline_compression_time_ms", "baseline_decompression_time_ms"),
}
COLUMNS = (
    *("timestamp_ns", "region", "link_type", "model_version", "rollout_arm", "rollout_bucket", "feature_set_digest"),
    *("predicted_compression", "optimal_compression", "current_compression", "measurement_propensity", "measured_runs"),
    *("data_size_bytes", "actual_transfer_time_ms", "total_cpu_overhead_ms", "decision_time_us", "probe_time_ms"),
    *(f"cost_{algorithm}_ms" for algorithm in ALGORITHMS),
    *(name for names in _TIMES_MS.values() for name in names),
    *(feature.column for feature in FEATURES),
)
"""The warehouse columns that a measurement reads."""
_NOT_FEATURES = tuple(name for name in COLUMNS if name not in {feature.column for feature in FEATURES})


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity with the rows behind it. ``lower`` and ``upper`` hold at every look at once; None where unknown.

    ``detail`` is for people: what the figure consists of.
    """

    value: float | None
    lower: float | None = None
    upper: float | None = None
    rows: int = 0
    effective_rows: float = 0.0
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One version in one region over one window.

    ``role``: shadow, canary or champion. ``rows``: transfers that the version predicted; ``measured_rows``: fully
    measured ones with a prediction; ``clipped_rows``: those of them whose weight was clipped; ``label_ceiling``: what
    the labels allow, see ``dwcp.label_worth``; ``throughput_mbps``: Σ bytes ÷ Σ time of what the model executed.
    """

    version: str
    role: str
    rows: int
    measured_rows: int
    clipped_rows: int
    label_ceiling: float | None
    throughput_mbps: float | None
    figures: Mapping[str, Figure]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def measure(
    log: pa.Table,
    version: str,
    *,
    region: str,
    role: str,
    window: Window,
    label_ceilings: Mapping[int, float],
    alpha: float,
    released_accuracy: float | None,
    trained_until: datetime,
) -> Measurement:
    """Measure ``version`` on ``log``, a table with at least ``COLUMNS``; rows outside window or region are ignored.

    ``alpha`` is the chance that an interval misses the truth at any look. Drift is measured by ``drift``.
    """
    here = inside(log, region, window)
    # The features are half of a row, and only canary against control needs them.
    own = _only(here.select(_NOT_FEATURES), pc.equal(here["model_version"], version))
    measured = _only(own, pc.and_(own["optimal_compression"].is_valid(), own["predicted_compression"].is_valid()))
    executed = _only(measured, pc.is_in(measured["rollout_arm"], pa.array(MODEL_ARMS)))
    weights = 1 / _floats(measured, "measurement_propensity")
    figures = {
        **_accuracy(measured, alpha, released_accuracy),
        **_regret(executed, alpha),
        **_gain(here, version, alpha),
        **_service(own, alpha),
        "staleness_days": Figure((window.end - trained_until).total_seconds() / 86_400),
    }
    return Measurement(
        version=version,
        role=role,
        rows=own.num_rows,
        measured_rows=measured.num_rows,
        clipped_rows=int((weights > MAX_WEIGHT).sum()),
        label_ceiling=ceiling_of(_floats(measured, "measured_runs"), label_ceilings),
        throughput_mbps=_throughput(executed),
        figures=figures,
    )


def inside(log: pa.Table, region: str, window: Window) -> pa.Table:
    """The region's rows within the window."""
    at = log["timestamp_ns"]
    within = pc.and_(pc.greater_equal(at, window.start_ns), pc.less(at, window.end_ns))
    return _only(log, pc.and_(pc.equal(log["region"], region), within))


def served_features(rows: pa.Table) -> NDArray[np.float32]:
    """Features as they were served, (rows, ``len(FEATURES)``)."""
    features = np.empty((rows.num_rows, len(FEATURES)), np.float32)
    for place, feature in enumerate(FEATURES):
        features[:, place] = rows[feature.column].to_numpy()
    return features


def buckets(rows: pa.Table) -> NDArray[np.int64]:
    """Rollout buckets: one object of one node lies in one of them."""
    return np.asarray(rows["rollout_bucket"].to_numpy(zero_copy_only=False), np.int64)


def _accuracy(rows: pa.Table, alpha: float, released: float | None) -> dict[str, Figure]:
    right = _strings(rows, "predicted_compression") == _strings(rows, "optimal_compression")
    found = _share(share(right, _weights(rows), buckets(rows)), alpha)
    drop = Figure(None, rows=found.rows, effective_rows=found.effective_rows)
    if released is not None and found.value is not None:
        bounds = (None, None) if found.lower is None or found.upper is None else (found.upper, found.lower)
        lower, upper = (None if bound is None else released - bound for bound in bounds)
        drop = Figure(released - found.value, lower, upper, found.rows, found.effective_rows, {"released": released})
    return {"accuracy": found, "accuracy_drop": drop}


def _regret(rows: pa.Table, alpha: float) -> dict[str, Figure]:
    """Mean regret; what Σ time lost against the best candidates (a share of it); choices that were not the best."""
    costs_ms = np.stack([_floats(rows, f"cost_{algorithm}_ms") for algorithm in ALGORITHMS], axis=1)
    executed = _strings(rows, "current_compression")
    spent = np.zeros(len(executed))
    for place, algorithm in enumerate(ALGORITHMS):
        spent = np.where(executed == algorithm, costs_ms[:, place], spent)
    best = costs_ms[:, : len(CANDIDATES)].min(axis=1) if len(executed) else spent
    weights, units = _weights(rows), buckets(rows)
    lost = spent - best
    return {
        "mean_regret": _figure(ratio(lost / best, np.ones(len(best)), weights, units), alpha),
        "throughput_loss": _figure(ratio(lost, spent, weights, units), alpha),
        "suboptimal_share": _share(share(lost > TIE_SHARE * best, weights, units), alpha),
    }


def gain_figures(compared: Comparison, alpha: float) -> dict[str, Figure]:
    """What a canary gains over control, as shares of control's throughput."""
    detail = {"canary_rows": compared.canary_rows, "control_rows": compared.control_rows}
    figures = {}
    for name, found in zip(GAINS, (compared.typical, compared.bulk), strict=True):
        log_gain = _figure(found, alpha)
        value, lower, upper = (
            None if bound is None else math.expm1(bound) for bound in (log_gain.value, log_gain.lower, log_gain.upper)
        )
        # The arm with fewer rows says how much there is to go by.
        rows = min(compared.canary_rows, compared.control_rows)
        figures[name] = Figure(value, lower, upper, rows, log_gain.effective_rows, detail)
    return figures


def _gain(here: pa.Table, version: str, alpha: float) -> dict[str, Figure]:
    is_canary = (_strings(here, "rollout_arm") == "canary") & (_strings(here, "model_version") == version)
    if not is_canary.any():
        return dict.fromkeys(GAINS, Figure(None))
    hour = np.asarray(here["timestamp_ns"].to_numpy(zero_copy_only=False), np.int64) // _NS_PER_HOUR
    # Block by block: all features at once would be several times what is kept of them.
    blocks = (here.slice(start, BLOCK_ROWS) for start in range(0, here.num_rows, BLOCK_ROWS))
    known = np.concatenate([known_before(served_features(block)) for block in blocks])
    return gain_figures(compare(whole_ms(here), known, is_canary, hour, buckets(here)), alpha)


def _service(own: pa.Table, alpha: float) -> dict[str, Figure]:
    """What deciding costs, and how often it fails: overhead, latency as nodes logged it, missing predictions."""
    acted = _only(own, pc.is_in(own["rollout_arm"], pa.array(MODEL_ARMS)))
    units, ones = buckets(acted), np.ones(acted.num_rows)
    look_ms = _look_ms(acted)
    cpu_ms = look_ms + _floats(acted, "total_cpu_overhead_ms")
    missing = ~np.asarray(own["predicted_compression"].is_valid().to_numpy(zero_copy_only=False), np.bool_)
    return {
        "overhead_of_time": _share(ratio(look_ms, whole_ms(acted), ones, units), alpha),
        "overhead_of_cpu": _share(ratio(look_ms, cpu_ms, ones, units), alpha),
        "missing_predictions": _share(share(missing, np.ones(own.num_rows), buckets(own)), alpha),
        **{f"latency_p{p}_ms": _percentile(_floats(own, "decision_time_us") / 1e3, p, alpha) for p in (50, 95, 99)},
    }


def _percentile(values: NDArray[np.float64], percent: int, alpha: float) -> Figure:
    """A percentile, with those percentiles as bounds that the always-valid interval of its rank reaches."""
    rows = len(values)
    if rows == 0:
        return Figure(None)
    rank = percent / 100
    half = half_width(rank * (1 - rank) / rows, 1 - rank, alpha)
    lower, value, upper = np.quantile(values, [max(rank - half, 0), rank, min(rank + half, 1)])
    return Figure(float(value), float(lower), float(upper), rows, float(rows))


def _figure(found: Estimate | None, alpha: float) -> Figure:
    if found is None:
        return Figure(None)
    lower, upper = found.bounds(EFFECT, alpha) or (None, None)
    return Figure(found.value, lower, upper, found.rows, found.effective_rows)


def _share(found: Estimate | None, alpha: float) -> Figure:
    """As ``_figure``, within 0 and 1."""
    figure = _figure(found, alpha)
    if figure.lower is None or figure.upper is None:
        return figure
    return replace(figure, lower=max(0.0, figure.lower), upper=min(1.0, figure.upper))


def _only(rows: pa.Table, chosen: pa.ChunkedArray) -> pa.Table:
    """The chosen rows; ``rows`` itself, and no copy of it, if that is all."""
    return rows if pc.sum(chosen).as_py() == rows.num_rows else rows.filter(chosen)


def _weights(rows: pa.Table) -> NDArray[np.float64]:
    return np.minimum(1 / _floats(rows, "measurement_propensity"), MAX_WEIGHT)


def _throughput(rows: pa.Table) -> float | None:
    weights = _weights(rows)
    total_ms = float(weights @ (whole_ms(rows) - _look_ms(rows)))
    return throughput_mbps(float(weights @ _floats(rows, "data_size_bytes")), total_ms) if total_ms > 0 else None


def _look_ms(rows: pa.Table) -> NDArray[np.float64]:
    return _floats(rows, "probe_time_ms") + _floats(rows, "decision_time_us") / 1e3


def whole_ms(rows: pa.Table) -> NDArray[np.float64]:
    """Looking and deciding, compression, time on the wire, decompression of what was executed, (rows,)."""
    executed = _strings(rows, "current_compression")
    time_ms = _floats(rows, "actual_transfer_time_ms") + _look_ms(rows)
    for algorithm, names in _TIMES_MS.items():
        for name in names:
            time_ms += np.where(executed == algorithm, _floats(rows, name), 0.0)
    return time_ms


def _floats(rows: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(rows[name].cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _strings(rows: pa.Table, name: str) -> NDArray[np.object_]:
    return np.asarray(rows[name].cast(pa.string()).to_numpy(zero_copy_only=False), np.object_)
