from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.contract import ALGORITHMS, CANDIDATES, FULLY_MEASURED
from dwcp.oracle import DEFINITIONS, ORACLE_COLUMNS, best_choice, cost_ms, label_batch, transfer_costs_ms
from transfers import make_transfers, replace

sizes = st.floats(1, 2.0**44)
times = st.floats(0, 86_400_000)
bandwidths = st.floats(0.05, 800_000)
shares = st.floats(0, 0.99)
definitions = st.sampled_from(DEFINITIONS)


def one_cost(definition, size, compression, decompression, bandwidth, loss, cpu) -> float:
    def cell(value):
        return np.array([[value]])

    def row(value):
        return np.array([value])

    costs = cost_ms(
        definition,
        compressed_bytes=cell(size),
        compression_ms=cell(compression),
        decompression_ms=cell(decompression),
        bandwidth_mbps=row(bandwidth),
        packet_loss_rate=row(loss),
        cpu_usage=row(cpu),
        rtt_ms=row(20.0),
        streams=cell(1.0),
    )
    return float(costs[0, 0])


def slow_costs(row: dict, definition: str) -> dict[str, float]:
    """The seed's text, a row at a time, with its units put right by hand."""
    costs = {}
    for algorithm, prefix in {"hde": "hde", "amst": "amst", "none": None, "zstd": "baseline"}.items():
        size = row["data_size_bytes"] if prefix is None else row[f"{prefix}_compressed_size_bytes"]
        compression = 0.0 if prefix is None else row[f"{prefix}_compression_time_ms"]
        decompression = 0.0 if prefix is None else row[f"{prefix}_decompression_time_ms"]
        bits_per_second = row["available_bandwidth_mbps"] * 1e6
        if definition != "seed_3_2":
            bits_per_second *= 1 - row["packet_loss_rate"]
            if definition == "stream_aware":
                streams = row["amst_streams"] if algorithm == "amst" else 1
                held_back = row["rtt_ms"] / 1e3 * math.sqrt(row["packet_loss_rate"])
                one = 1_460 * 8 * 1.22 / held_back if held_back else math.inf
                bits_per_second = min(bits_per_second, streams * one)
            seconds = size * 8 / bits_per_second
            costs[algorithm] = seconds * 1e3 + compression + decompression
        else:
            costs[algorithm] = size * 8 / bits_per_second * 1e3 + compression * row["cpu_usage"]
    return costs


@given(definitions, sizes, sizes, times, times, bandwidths, shares, shares)
def test_cost_grows_with_size(definition, size, other, compression, decompression, bandwidth, loss, cpu):
    small, large = sorted((size, other))
    rest = (compression, decompression, bandwidth, loss, cpu)
    assert one_cost(definition, small, *rest) <= one_cost(definition, large, *rest)


@given(definitions, sizes, times, times, times, bandwidths, shares, shares)
def test_cost_grows_with_compression_and_decompression_time(definition, size, time, other, fixed, bandwidth, loss, cpu):
    short, long = sorted((time, other))
    rest = (bandwidth, loss, cpu)
    assert one_cost(definition, size, short, fixed, *rest) <= one_cost(definition, size, long, fixed, *rest)
    assert one_cost(definition, size, fixed, short, *rest) <= one_cost(definition, size, fixed, long, *rest)


@given(definitions, sizes, times, times, bandwidths, bandwidths, shares, shares)
def test_cost_falls_with_bandwidth(definition, size, compression, decompression, bandwidth, other, loss, cpu):
    narrow, wide = sorted((bandwidth, other))
    before, after = (size, compression, decompression), (loss, cpu)
    assert one_cost(definition, *before, narrow, *after) >= one_cost(definition, *before, wide, *after)


@given(definitions, sizes, times, times, bandwidths, shares, shares)
def test_cost_is_never_nan_and_never_negative(definition, size, compression, decompression, bandwidth, loss, cpu):
    cost = one_cost(definition, size, compression, decompression, bandwidth, loss, cpu)
    assert math.isfinite(cost)
    assert cost > 0


def test_units():
    """1 MB over 1,000 Mbit/s takes 8 ms, and half of the wire lost makes it 16; CPU times add as they are."""
    assert one_cost("seed_3_1", 1e6, 3.0, 2.0, 1_000.0, 0.0, 0.5) == pytest.approx(13.0)
    assert one_cost("seed_3_1", 1e6, 3.0, 2.0, 1_000.0, 0.5, 0.5) == pytest.approx(21.0)
    assert one_cost("seed_3_2", 1e6, 3.0, 2.0, 1_000.0, 0.5, 0.5) == pytest.approx(9.5)


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("seed", range(3))
def test_label_equals_slow_reference(definition, seed):
    batch = make_transfers(300, seed=seed)
    labelled = label_batch(batch, definition).to_pylist()
    measured = 0
    for row, label in zip(batch.to_pylist(), labelled, strict=True):
        if row["measured_candidates"] != FULLY_MEASURED:
            assert set(label.values()) == {None}
            continue
        measured += 1
        costs = slow_costs(row, definition)
        first, second = sorted(costs[name] for name in CANDIDATES)[:2]
        assert label["optimal_compression"] == min(("none", "amst", "hde"), key=costs.__getitem__)
        assert label["oracle_definition"] == definition
        for name in ALGORITHMS:
            assert label[f"cost_{name}_ms"] == pytest.approx(costs[name], rel=1e-12)
        assert label["oracle_margin_ms"] == pytest.approx(second - first, abs=1e-9, rel=1e-9)
    assert measured > 30


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ((1, 1, 1, 1), "none"),
        ((1, 1, 2, 1), "amst"),
        ((1, 2, 1, 1), "none"),
        ((2, 1, 1, 1), "none"),
        ((1, 2, 3, 0), "hde"),
        ((3, 3, 4, 0), "amst"),
    ],
)
def test_ties_go_to_the_least_work_and_zstd_is_no_label(costs, expected):
    best, margin = best_choice(np.array([costs], float))
    first, second = sorted(costs[:3])[:2]
    assert CANDIDATES[best[0]] == expected
    assert margin[0] == second - first


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 4), min_size=1, max_size=30))
def test_the_best_choice_and_its_margin_are_those_of_a_sort(costs):
    best, margin = best_choice(np.array(costs, float))
    for row, choice, difference in zip(costs, best.tolist(), margin.tolist(), strict=True):
        cost = dict(zip(CANDIDATES, row, strict=False))
        assert CANDIDATES[choice] == min(("none", "amst", "hde"), key=cost.__getitem__)
        first, second = sorted(cost.values())[:2]
        assert difference == second - first


def test_none_sends_the_payload_and_costs_no_cpu():
    batch = make_transfers(50, fully_measured=1.0)
    size = batch["data_size_bytes"].to_numpy()
    effective = batch["available_bandwidth_mbps"].to_numpy() * (1 - batch["packet_loss_rate"].to_numpy())
    np.testing.assert_allclose(
        transfer_costs_ms(batch, "seed_3_1")[:, ALGORITHMS.index("none")], size / effective / 125
    )


def test_batch_and_table_of_many_chunks_agree_and_column_order_is_the_contracts():
    table = make_transfers(200)
    chunked = pa.concat_tables([table.slice(0, 70), table.slice(70)])
    batch = table.combine_chunks().to_batches()[0]
    assert label_batch(chunked, "seed_3_1").equals(label_batch(batch, "seed_3_1"))
    assert tuple(label_batch(batch, "seed_3_1").schema.names) == ORACLE_COLUMNS


def test_no_rows_and_no_fully_measured_row():
    assert label_batch(make_transfers(10).slice(0, 0), "seed_3_1").num_rows == 0
    labels = label_batch(make_transfers(50, fully_measured=0.0), "seed_3_1")
    assert labels.num_rows == 50
    assert labels["optimal_compression"].null_count == 50


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_a_measurement_that_is_missing_is_refused_by_name(value):
    batch = replace(make_transfers(20, fully_measured=1.0), "hde_compression_time_ms", 7, value)
    name = batch["transfer_id"][7].as_py()
    with pytest.raises(ValueError, match=rf"{name}.*hde_compression_time_ms"):
        label_batch(batch, "seed_3_1")


def test_an_unknown_definition_is_refused():
    with pytest.raises(ValueError, match="seed_3_1, seed_3_2"):
        label_batch(make_transfers(5), "seed_9")


def test_streams_help_where_rtt_and_loss_bound_one_of_them():
    """100 ms and 1 % loss hold a stream to 1.4 Mbit/s: eight carry eight times that, and a clean short link all."""

    def cost(rtt_ms: float, loss: float, streams: float) -> float:
        zero = np.zeros((1, 1))
        return float(
            cost_ms(
                "stream_aware",
                compressed_bytes=np.array([[1e6]]),
                compression_ms=zero,
                decompression_ms=zero,
                bandwidth_mbps=np.array([100.0]),
                packet_loss_rate=np.array([loss]),
                cpu_usage=np.array([0.5]),
                rtt_ms=np.array([rtt_ms]),
                streams=np.array([[streams]]),
            )[0, 0]
        )

    one = 1_460 * 8 / 0.1 * 1.22 / math.sqrt(0.01) / 1e6
    assert cost(100.0, 0.01, 1) == pytest.approx(8 / one * 1e3)
    assert cost(100.0, 0.01, 8) == pytest.approx(8 / (8 * one) * 1e3)
    assert cost(0.0, 0.01, 1) == cost(100.0, 0.0, 1) * 100 / 99 == pytest.approx(8 / 100 / 0.99 * 1e3)
