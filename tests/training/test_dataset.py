from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.features.recompute import recompute_features, served_features
from dwcp.training.dataset import MINIMAL_ROWS, Dataset, DatasetError, build_dataset
from transfers import replace


def assert_same(one: Dataset, other: Dataset) -> None:
    assert one.to_parquet_bytes() == other.to_parquet_bytes()


def put(table: pa.Table, name: str, values: list) -> pa.Table:
    position = table.schema.get_field_index(name)
    return table.set_column(position, name, pa.array(values, table.schema.field(name).type))


def test_rows_come_in_time_order_with_labels_and_costs_as_loaded(labelled):
    table = labelled(600)
    shuffled = table.take(np.random.default_rng(0).permutation(600))
    dataset = build_dataset(shuffled)
    assert_same(dataset, build_dataset(table))
    assert (np.diff(dataset.timestamp_ns) > 0).all()
    assert [CANDIDATES[n] for n in dataset.labels] == table["optimal_compression"].to_pylist()
    np.testing.assert_array_equal(dataset.costs_ms[:, 3], table["cost_zstd_ms"].to_numpy())
    assert (dataset.labels == dataset.costs_ms[:, [2, 1, 0]].argmin(axis=1).choose([2, 1, 0])).all()
    assert dataset.features.dtype == np.float32


def test_features_are_those_served_and_only_rows_of_another_definition_are_recomputed(labelled):
    table = labelled(600)
    served = served_features(table)
    np.testing.assert_array_equal(build_dataset(table).features, served)

    old = put(table, "feature_set_digest", ["older" if n % 3 == 0 else d.as_py() for n, d in _rows(table)])
    expected = np.where((np.arange(600) % 3 == 0)[:, None], recompute_features(table), served)
    assert (expected != served).any()
    np.testing.assert_array_equal(build_dataset(old).features, expected)


def test_unlabelled_rows_are_counted_and_serve_as_history(labelled):
    table = labelled(1_500, fully_measured=0.4)
    old = put(table, "feature_set_digest", ["older"] * 1_500)
    dataset = build_dataset(old)
    has_label = np.array([label is not None for label in table["optimal_compression"].to_pylist()])
    assert dataset.rows == has_label.sum()
    assert dataset.dropped["not fully measured"] == 1_500 - dataset.rows
    np.testing.assert_array_equal(dataset.features, recompute_features(table)[has_label])


def test_too_few_labelled_rows_are_refused(labelled):
    table = labelled(MINIMAL_ROWS - 1)
    with pytest.raises(DatasetError, match=rf"only {MINIMAL_ROWS - 1} of {MINIMAL_ROWS - 1} .* widen the window"):
        build_dataset(table)
    with pytest.raises(DatasetError, match="only 0 of"):
        build_dataset(labelled(500, fully_measured=0.0))
    with pytest.raises(DatasetError, match="only 0 of 0"):
        build_dataset(table.slice(0, 0))


def test_one_class_is_refused(labelled):
    table = put(labelled(300), "optimal_compression", ["amst"] * 300)
    with pytest.raises(DatasetError, match="every label of the window is amst"):
        build_dataset(table)


def test_labels_of_two_oracles_are_never_mixed(labelled):
    table = labelled(300)
    with pytest.raises(DatasetError, match=r"of 300 labels not all .* seed_3_2: 300 from .* by seed_3_1"):
        build_dataset(table, "seed_3_2")
    mixed = put(table, "oracle_definition", ["seed_3_1"] * 299 + ["stream_aware"])
    for oracle in (None, "seed_3_1"):
        with pytest.raises(DatasetError, match=r"1 from 2026-08-.* by stream_aware; label these days anew"):
            build_dataset(mixed, oracle)
    assert build_dataset(table, "seed_3_1").rows == 300


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_feature_that_is_not_finite_is_refused_by_name(labelled, value):
    table = replace(labelled(300), "served_entropy", 40, value)
    with pytest.raises(DatasetError, match=table["transfer_id"][40].as_py()):
        build_dataset(table)


def test_parquet_round_trip_is_exact_and_repeatable(dataset):
    data = dataset.to_parquet_bytes()
    again = Dataset.from_parquet_bytes(data)
    assert again.to_parquet_bytes() == data
    np.testing.assert_array_equal(again.features, dataset.features)
    assert again.features.flags.c_contiguous
    np.testing.assert_array_equal(again.split, dataset.split)
    assert again.dropped == dataset.dropped
    assert again.feature_names == tuple(feature.name for feature in FEATURES)


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"nonsense", lambda data: data[: len(data) // 2]])
def test_damaged_bytes_are_refused(dataset, damage):
    with pytest.raises(DatasetError, match="no dataset"):
        Dataset.from_parquet_bytes(damage(dataset.to_parquet_bytes()))


def test_a_foreign_parquet_file_is_refused():
    import io

    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    with pytest.raises(DatasetError, match="no dataset"):
        Dataset.from_parquet_bytes(buffer.getvalue())


def test_select_keeps_rows_and_orders_features(dataset):
    few = dataset.select(("entropy", "rtt_ms"))
    assert few.feature_names == ("entropy", "rtt_ms")
    np.testing.assert_array_equal(few.features[:, 1], dataset.features[:, 0])
    assert few.rows == dataset.rows


def _rows(table):
    return enumerate(table["feature_set_digest"])
