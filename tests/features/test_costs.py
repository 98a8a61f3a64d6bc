"""The cost structure: the formula, the plan of streams, and that no input makes it anything but a finite number."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import AMST_CHUNK_BYTES, FEATURES
from dwcp.features.costs import (
    CALL_BYTES,
    COST_FEATURES,
    DELTA_MS_PER_MB,
    LEAST_SHARE,
    NEW_MS_PER_MB,
    busiest_bytes,
    cost_ratios,
    ms_per_mb,
)
from dwcp.features.history import HISTORY_COLUMNS
from dwcp.features.recompute import RAW_COLUMNS, SEEN_FEATURES, feature_matrix, recompute_features, served_features
from dwcp.fleet.engines import makespan
from dwcp.oracle import transfer_costs_ms
from transfers import make_transfers

AT = {feature.name: position for position, feature in enumerate(FEATURES)}
KNOWN = {
    "size_bytes": 4e6,
    "bandwidth_mbps": 1_000.0,
    "packet_loss_rate": 0.25,
    "compressibility_score": 0.5,
    "known_share": 0.75,
    "amst_streams": 4.0,
    "peer_has_version": 1.0,
    "recent_amst_ratio": 2.0,
    "recent_amst_ms_per_mb": 1.0,
    "probe_zstd_share": 0.4,
    "probe_zstd_ms_per_mb": 6.0,
    "probe_lz4_ms_per_mb": 1.5,
    "baseline_ratio": 2.5,
    "recent_zstd_ms_per_mb": 5.0,
    "hde_past_size_quotient": 0.4,
    "hde_past_time_quotient": 0.9,
    "hde_size_quotient": 0.5,
    "amst_size_quotient": 0.8,
    "zstd_size_quotient": 0.9,
    "amst_time_quotient": 0.5,
    "zstd_time_quotient": 0.75,
}


def ratios(**changes: float) -> dict[str, float]:
    found = cost_ratios({name: np.array([value]) for name, value in (KNOWN | changes).items()})
    assert tuple(found) == COST_FEATURES
    return {name: float(values[0]) for name, values in found.items()}


def test_the_formula_by_hand():
    none_ms = 4e6 * 8 / 1e6 / 0.75  # 4 MB at 1,000 Mbit/s of which 3/4 arrive
    whole = (4e6 + CALL_BYTES) / 1e6 / none_ms
    thread = (4 * AMST_CHUNK_BYTES + CALL_BYTES) / 1e6 / none_ms  # 16 chunks on 4 threads, the last one on the fourth
    light, heavy, new = 0.5 + LEAST_SHARE, 0.4 + LEAST_SHARE, 1 - 0.75
    delta = (DELTA_MS_PER_MB + NEW_MS_PER_MB * new) * 0.9 * whole
    hde, amst = (new + LEAST_SHARE) / 2.5 * 0.4 + delta, 1 / 2 + 1.0 * thread
    zstd, probe_zstd = 1 / 2.5 + 5.0 * whole, heavy * 0.9 + 6.0 * 0.75 * whole
    assert ratios() == pytest.approx(
        {
            "hde_cost_ratio": hde,
            "amst_cost_ratio": amst,
            "zstd_cost_ratio": zstd,
            "hde_amst_cost_ratio": hde / amst,
            "probe_hde_cost_ratio": (new + LEAST_SHARE) * heavy * 0.5 + delta,
            "probe_amst_cost_ratio": light * 0.8 + 1.5 * 0.5 * thread,
            "probe_zstd_cost_ratio": probe_zstd,
        }
    )
    whole_version = ratios(peer_has_version=0.0)
    assert whole_version["hde_cost_ratio"] == pytest.approx(zstd)
    assert whole_version["probe_hde_cost_ratio"] == pytest.approx(probe_zstd)


@pytest.mark.parametrize("streams", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [1, 200, AMST_CHUNK_BYTES, AMST_CHUNK_BYTES + 1, 5 * AMST_CHUNK_BYTES, 2_300_001])
def test_busiest_thread_is_the_one_that_the_engine_waits_for(size, streams):
    """Chunks that take a time as long as they are: the engine's makespan is the busiest thread's bytes."""
    chunks = [min(AMST_CHUNK_BYTES, size - at) for at in range(0, size, AMST_CHUNK_BYTES)]
    waited = makespan(np.array([chunks], np.float64), streams)
    np.testing.assert_array_equal(busiest_bytes(np.array([float(size)]), np.array([float(streams)])), waited)


def test_a_transfer_just_like_the_last_costs_what_the_oracle_says():
    """The same object over and over on one node: the cost ratios by history are those of the oracle."""
    log = make_transfers(2, fully_measured=1.0)
    first = log.slice(0, 1)
    keep = ("timestamp_ns", "transfer_id")
    again = pa.table({name: (log.slice(1, 1) if name in keep else first)[name] for name in log.schema.names})
    features = recompute_features(pa.concat_tables([first, again]))[1]
    hde, amst, none, _ = transfer_costs_ms(first.combine_chunks(), "seed_3_1")[0]
    assert features[AT["history_source"]] == 2
    assert features[AT["hde_cost_ratio"]] == pytest.approx(hde / none, rel=1e-5)
    assert features[AT["amst_cost_ratio"]] == pytest.approx(amst / none, rel=1e-5)
    assert features[AT["hde_amst_cost_ratio"]] == pytest.approx(hde / amst, rel=1e-5)


def test_time_per_megabyte_counts_the_call():
    assert ms_per_mb(np.array([3.0]), np.array([1e6 - CALL_BYTES])).tolist() == [3.0]


def test_every_corner_of_the_contract_gives_finite_features_in_range():
    bounds = {feature.name: (feature.minimum, feature.default, feature.maximum) for feature in FEATURES}
    corners = [bounds.get(name, (1e-4, 1.0, 1e4)) for name in KNOWN]
    # All corners of 21 inputs are two million: a sample of them, and of what lies on their edges.
    few = [sorted({low, at, high}) for low, at, high in corners]
    rng = np.random.default_rng(3)
    rows = np.column_stack([rng.choice(values, 20_000) for values in few]).astype(np.float32)
    log = make_transfers(len(rows))
    raw = {
        name: log[name] if name in ("region", "link_type", "data_type") else log[name].to_numpy()
        for name in RAW_COLUMNS
    }
    column = dict(zip(KNOWN, rows.T, strict=True))
    raw |= {
        "data_size_bytes": column["size_bytes"],
        "available_bandwidth_mbps": column["bandwidth_mbps"],
        "packet_loss_rate": column["packet_loss_rate"],
        "compressibility_score": column["compressibility_score"],
    }
    seen = {"delta_potential": np.zeros(len(rows))}
    seen |= {name: column[name] for name in SEEN_FEATURES if name in column} | {"zero_share": np.zeros(len(rows))}
    history = np.ones((len(rows), len(HISTORY_COLUMNS)), np.float32)
    for position, name in enumerate(HISTORY_COLUMNS):
        history[:, position] = column.get(name, history[:, position])
    made = feature_matrix(raw, history, seen)
    assert np.isfinite(made).all()
    for name in COST_FEATURES:
        assert made[:, AT[name]].min() >= bounds[name][0]
        assert made[:, AT[name]].max() <= bounds[name][2]


def test_cost_ratios_follow_the_known_share_and_the_plan_as_served_not_as_measured():
    log = make_transfers(400, fully_measured=1.0)
    position = log.schema.get_field_index("served_amst_streams")
    other_plan = log.set_column(position, "served_amst_streams", pa.array(np.full(400, 1.0)))
    position = log.schema.get_field_index("served_known_share")
    nothing_known = log.set_column(position, "served_known_share", pa.array(np.zeros(400)))
    before, slower, larger = (recompute_features(table) for table in (log, other_plan, nothing_known))
    many_chunks = served_features(log)[:, AT["size_bytes"]] > 4 * AMST_CHUNK_BYTES
    assert many_chunks.any()
    for name in ("amst_cost_ratio", "probe_amst_cost_ratio"):
        assert (slower[many_chunks, AT[name]] > before[many_chunks, AT[name]]).all()
    assert (larger[:, AT["probe_hde_cost_ratio"]] > before[:, AT["probe_hde_cost_ratio"]]).mean() > 0.9
    assert (larger[:, AT["hde_cost_ratio"]] > before[:, AT["hde_cost_ratio"]]).mean() > 0.9
    np.testing.assert_array_equal(larger[:, AT["zstd_cost_ratio"]], before[:, AT["zstd_cost_ratio"]])
