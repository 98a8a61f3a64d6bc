from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import AMST_CHUNK_BYTES, FEATURES, FULLY_MEASURED, OUTCOMES
from dwcp.features.costs import CALL_BYTES, DELTA_MS_PER_MB, LEAST_SHARE, NEW_MS_PER_MB
from dwcp.features.history import ALPHA, HISTORY_COLUMNS, HISTORY_FEATURES, QUOTIENTS, TYPE_ALPHA, History
from dwcp.features.recompute import observations, recompute_features
from transfers import make_transfers

DEFAULT = {feature.name: feature.default for feature in FEATURES} | dict.fromkeys(QUOTIENTS, 1.0)
AT = {feature.name: position for position, feature in enumerate(FEATURES)}


def keys_of(history: History, log: pa.Table):
    return history.keys(log["node_id"], log["object_id"], log["data_type"], log["peer_id"])


def advance(history: History, log: pa.Table) -> np.ndarray:
    return history.advance(keys_of(history, log), log["timestamp_ns"].to_numpy(), observations(log))


def thread_bytes(size: int, streams: int) -> int:
    """What AMST's busiest thread is dealt."""
    chunks = [min(AMST_CHUNK_BYTES, size - at) for at in range(0, size, AMST_CHUNK_BYTES)]
    return max(sum(chunks[stream::streams]) for stream in range(streams))


def outcomes_of(row: dict) -> dict[str, float | None]:
    """What one transfer adds to memory, None where it adds nothing."""
    size, light = row["data_size_bytes"], 1 - row["compressibility_score"] + LEAST_SHARE
    times: dict[str, float | None] = dict.fromkeys(
        ("recent_hde_ms_per_mb", "recent_amst_ms_per_mb", "recent_zstd_ms_per_mb")
    )
    if row["measured_candidates"] == FULLY_MEASURED:
        for name, column, work in (
            ("hde", "hde", size),
            ("amst", "amst", thread_bytes(size, row["amst_streams"])),
            ("zstd", "baseline", size),
        ):
            spent_ms = row[f"{column}_compression_time_ms"] + row[f"{column}_decompression_time_ms"]
            times[f"recent_{name}_ms_per_mb"] = spent_ms * 1e6 / (work + CALL_BYTES)
    hde, amst = row["hde_compression_ratio"], row["amst_compressed_size_bytes"]
    amst_ratio = None if amst is None else size / amst
    heavy, unknown = row["served_probe_zstd_share"] + LEAST_SHARE, 1 - (row["hde_delta_hit_rate"] or 0)
    zstd = row["baseline_compression_ratio"]
    look = {"amst": row["served_probe_lz4_ms_per_mb"], "zstd": row["served_probe_zstd_ms_per_mb"]}
    spent = {name: times[f"recent_{name}_ms_per_mb"] for name in ("hde", "amst", "zstd")}
    delta = row["served_peer_has_version"] > 0
    literal, delta_ms_per_mb = unknown + LEAST_SHARE, DELTA_MS_PER_MB + NEW_MS_PER_MB * unknown
    both = delta and hde is not None and zstd is not None
    return {
        "recent_hde_ratio": hde,
        "recent_amst_ratio": amst_ratio,
        "baseline_ratio": row["baseline_compression_ratio"],
        **times,
        "hde_past_size_quotient": zstd / (hde * literal) if both else None,
        "hde_past_time_quotient": spent["hde"] / delta_ms_per_mb if delta and spent["hde"] is not None else None,
        "hde_size_quotient": 1 / (hde * (literal * heavy)) if delta and hde is not None else None,
        "amst_size_quotient": None if amst_ratio is None else 1 / (amst_ratio * light),
        "zstd_size_quotient": None if zstd is None else 1 / (zstd * heavy),
        **{f"{name}_time_quotient": None if spent[name] is None else spent[name] / look[name] for name in look},
    }


def slow_history(log: pa.Table) -> np.ndarray:
    """The definition, a row at a time."""
    memory: dict[tuple, float] = {}

    def remember(key, value):
        if value is not None:
            alpha = TYPE_ALPHA if "type" in key else ALPHA
            memory[key] = value if key not in memory else memory[key] + alpha * (value - memory[key])

    rows = log.to_pylist()
    result = np.empty((len(rows), len(HISTORY_COLUMNS)))
    for position in sorted(range(len(rows)), key=lambda n: rows[n]["timestamp_ns"]):
        row = rows[position]
        node, thing, kind, peer = row["node_id"], row["object_id"], row["data_type"], row["peer_id"]
        own, of_type, seen = ("object", node, thing), ("type", node, kind), outcomes_of(row)
        past = {name: memory.get((name, *own), memory.get((name, *of_type), DEFAULT[name])) for name in seen}
        past["bandwidth_ratio"] = row["available_bandwidth_mbps"] / memory.get(
            ("bandwidth", node, peer), row["available_bandwidth_mbps"]
        )
        past["jitter_average_ms"] = memory.get(("jitter", node, peer), DEFAULT["jitter_average_ms"])
        timed = "recent_hde_ms_per_mb"
        past["history_source"] = 2 if (timed, *own) in memory else 1 if (timed, *of_type) in memory else 0
        result[position] = [past[name] for name in HISTORY_COLUMNS]
        for name, value in seen.items():
            remember((name, *own), value)
            remember((name, *of_type), value)
        remember(("bandwidth", node, peer), row["available_bandwidth_mbps"])
        remember(("jitter", node, peer), row["jitter_ms"])
    return result


def skewed(rows: int, seed: int) -> pa.Table:
    """Few nodes hold most transfers: both ways of walking a key are taken."""
    log = make_transfers(rows, seed=seed, objects=60)
    nodes = (np.random.default_rng(seed).pareto(0.7, rows)).astype(int).clip(max=80)
    return log.set_column(log.schema.get_field_index("node_id"), "node_id", pa.array([f"node-{n}" for n in nodes]))


@pytest.mark.parametrize("make", [lambda seed: make_transfers(1_500, seed=seed), lambda seed: skewed(3_000, seed)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_slow_reference(make, seed):
    log = make(seed)
    np.testing.assert_array_equal(advance(History(), log), slow_history(log).astype(np.float32))


@pytest.mark.parametrize("cuts", [[0], [1], [700, 701, 1_900], list(range(50, 3_000, 50))])
def test_chunks_and_warm_up_give_the_same_bits_as_one_pass(cuts):
    log = skewed(3_000, 1)
    whole = advance(History(), log)
    history = History()
    edges = [0, *cuts, log.num_rows]
    parts = [advance(history, log.slice(a, b - a)) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    warm_up_end_ns = log["timestamp_ns"][1_000].as_py()
    features = recompute_features(log, warm_up_end_ns)
    for name in HISTORY_FEATURES:
        np.testing.assert_array_equal(features[:, AT[name]], whole[1_000:, HISTORY_COLUMNS.index(name)])


def test_a_copy_remembers_the_same_and_goes_its_own_way():
    log = skewed(1_000, 2)
    history = History()
    advance(history, log.slice(0, 500))
    other = copy.deepcopy(history)
    advance(other, log.slice(900))
    whole = advance(History(), log)
    np.testing.assert_array_equal(advance(history, log.slice(500)), whole[500:])


def test_outcomes_supposed_bit_by_bit_give_what_all_of_them_give_at_once():
    """First wrong ones, then none of some rows, then the right ones a few rows at a time: with a past already there."""
    log, rng = skewed(2_000, 4), np.random.default_rng(4)
    history = History()
    advance(history, log.slice(0, 500))
    rest = log.slice(500)
    right = observations(rest)
    expected = advance(copy.deepcopy(history), rest)

    keys = keys_of(history, rest)
    recall = history.recall(keys, rest["timestamp_ns"].to_numpy(), right.bandwidth_mbps, right.jitter_ms)
    wrong = np.where(rng.random(right.outcomes.shape) < 0.5, np.nan, right.outcomes * 2)
    assert len(recall.suppose(np.arange(1_500), wrong)) == 1_500, "at first every row's past is new"
    for rows in np.array_split(rng.permutation(1_500), 7):
        before = recall.past.copy()
        moved = recall.suppose(rows, right.outcomes[rows])
        np.testing.assert_array_equal(np.sort(moved), np.flatnonzero((recall.past != before).any(axis=1)))
    np.testing.assert_array_equal(recall.past, expected)
    assert len(recall.suppose(np.arange(1_500), right.outcomes)) == 0

    other = copy.deepcopy(history)
    np.testing.assert_array_equal(advance(other, rest), expected, err_msg="remembered without being told to")
    recall.remember()
    later = make_transfers(300, seed=9, start=_day_after())
    np.testing.assert_array_equal(advance(history, later), advance(other, later))


def test_order_of_rows_does_not_matter():
    log = skewed(2_000, 3)
    order = np.random.default_rng(0).permutation(log.num_rows)
    np.testing.assert_array_equal(recompute_features(log.take(order)), recompute_features(log)[order])


def test_no_feature_of_a_transfer_moves_with_its_own_outcomes():
    """Every outcome column of the last transfer of each node, and what came of its choice, set to something else."""
    log = make_transfers(900, fully_measured=0.6)
    node = np.array(log["node_id"].to_pylist())
    current = np.array([np.flatnonzero(node == name)[-1] for name in np.unique(node)])
    outcomes = [name for names in OUTCOMES.values() for name in names]
    decided = ["actual_transfer_time_ms", "actual_throughput_mbps", "total_cpu_overhead_ms", "confidence"]
    before = recompute_features(log)[current]
    changed = log
    for name in [*outcomes, *decided]:
        values = changed[name].to_pylist()
        for row in current:
            values[row] = None if values[row] is not None and row % 2 else 7
        position = changed.schema.get_field_index(name)
        changed = changed.set_column(position, name, pa.array(values, changed.schema.field(name).type))
    np.testing.assert_array_equal(recompute_features(changed)[current], before)

    later = make_transfers(900, seed=1, start=_day_after(), fully_measured=0.6)
    moved = recompute_features(pa.concat_tables([changed, later]))[900:]
    assert (moved != recompute_features(pa.concat_tables([log, later]))[900:]).any(), "the past must matter"


def test_permuting_outcomes_within_one_instant_moves_nothing():
    """All transfers of the log at one instant: nobody has a past, so every history feature is its default."""
    log = make_transfers(200)
    position = log.schema.get_field_index("timestamp_ns")
    log = log.set_column(position, "timestamp_ns", pa.array(np.full(200, log["timestamp_ns"][0].as_py())))
    expected = np.tile(np.float32([DEFAULT[name] for name in HISTORY_COLUMNS]), (200, 1))
    np.testing.assert_array_equal(advance(History(), log), expected)


def test_times_of_a_single_run_beside_other_work_are_not_remembered():
    """Ratios of executed choices are; so a node that never measures fully keeps the default times."""
    log = make_transfers(300, fully_measured=0.0)
    past = advance(History(), log)
    at = HISTORY_COLUMNS.index
    for name in ("recent_hde_ms_per_mb", "recent_amst_ms_per_mb", "recent_zstd_ms_per_mb"):
        assert (past[:, at(name)] == np.float32(DEFAULT[name])).all()
    assert (past[:, at("history_source")] == 0).all()
    assert (past[:, at("recent_hde_ratio")] != np.float32(DEFAULT["recent_hde_ratio"])).any()


def test_empty_log():
    assert recompute_features(make_transfers(5).slice(0, 0)).shape == (0, len(FEATURES))


def _day_after():
    from datetime import timedelta

    from transfers import START

    return START + timedelta(days=1)
