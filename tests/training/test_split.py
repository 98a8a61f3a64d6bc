from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, DatasetError, build_dataset
from dwcp.training.split import split_at_random, split_by_object, split_by_time


def payloads(dataset, part) -> set:
    rows = dataset.split == part
    versions = zip(dataset.object_id[rows], dataset.object_version[rows].tolist(), strict=True)
    return set(dataset.payload_digest[rows]) | set(versions)


def with_payloads(dataset, numbers):
    """Rows with one number share object, version and bytes."""
    numbers = np.asarray(numbers)
    return dataclasses.replace(
        dataset,
        payload_digest=numbers.astype(str),
        object_id=np.char.add("o", (numbers % 7).astype(str)),
        object_version=numbers // 7,
    )


@pytest.fixture(scope="module")
def unsplit(labelled):
    """1,000 rows, no payload twice."""
    return with_payloads(build_dataset(labelled(1_000)), np.arange(1_000))


def test_shares_and_order_of_time(unsplit):
    dataset = split_by_time(unsplit, Settings())
    assert np.bincount(dataset.split).tolist() == [700, 150, 150]
    assert (np.diff(dataset.split) >= 0).all()


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(400, 3_000))
def test_no_payload_lies_on_both_sides_of_a_boundary(unsplit, seed, distinct):
    repeated = with_payloads(unsplit, np.random.default_rng(seed).integers(distinct, size=unsplit.rows))
    dataset = split_by_time(repeated, Settings())
    train, validation, test = (payloads(dataset, part) for part in (TRAIN, VALIDATION, TEST))
    assert not train & validation
    assert not train & test
    assert not validation & test
    left_out = sum(count for name, count in dataset.dropped.items() if name.startswith("payload seen"))
    assert dataset.rows + left_out == unsplit.rows
    assert left_out > 0
    assert (dataset.split == TRAIN).sum() == 700, "the earlier side keeps its rows"


def test_same_bytes_under_another_name_and_same_version_with_another_digest_both_count(unsplit):
    alias = unsplit.payload_digest.copy()
    alias[999] = alias[0]
    by_bytes = split_by_time(dataclasses.replace(unsplit, payload_digest=alias), Settings())
    assert by_bytes.dropped["payload seen before the test split"] == 1

    object_id, version = unsplit.object_id.copy(), unsplit.object_version.copy()
    object_id[800], version[800] = object_id[0], version[0]
    by_version = split_by_time(dataclasses.replace(unsplit, object_id=object_id, object_version=version), Settings())
    assert by_version.dropped["payload seen before the validation split"] == 1


def test_a_window_that_repeats_itself_is_refused(unsplit):
    repeated = with_payloads(unsplit, np.arange(unsplit.rows) % 50)
    with pytest.raises(DatasetError, match="validation split is empty"):
        split_by_time(repeated, Settings())


def test_shares_that_leave_no_test_are_refused(unsplit):
    with pytest.raises(DatasetError, match="sum to 1"):
        split_by_time(unsplit, Settings(train_share=0.9, validation_share=0.1))


def test_random_split_mixes_time_keeps_payloads_together_and_repeats(unsplit):
    repeated = with_payloads(unsplit, np.random.default_rng(1).integers(300, size=unsplit.rows))
    dataset = split_at_random(repeated, Settings())
    assert dataset.rows == unsplit.rows
    assert not payloads(dataset, TRAIN) & payloads(dataset, TEST)
    assert (np.diff(dataset.split) < 0).any()
    np.testing.assert_allclose(np.bincount(dataset.split) / dataset.rows, [0.7, 0.15, 0.15], atol=0.05)
    np.testing.assert_array_equal(dataset.split, split_at_random(repeated, Settings()).split)
    assert (dataset.split != split_at_random(repeated, Settings(seed=5)).split).any()


def test_objects_lie_whole_on_one_side_and_shared_bytes_on_the_earlier(unsplit):
    rng = np.random.default_rng(2)
    numbers = rng.integers(300, size=unsplit.rows)
    shared = dataclasses.replace(
        with_payloads(unsplit, numbers),
        object_id=np.char.add("o", (numbers % 60).astype(str)),
        payload_digest=np.where(rng.random(unsplit.rows) < 0.02, "zeros", numbers.astype(str)),
    )
    dataset = split_by_object(shared, Settings())
    train, validation, test = (set(dataset.object_id[dataset.split == part]) for part in (TRAIN, VALIDATION, TEST))
    assert train.isdisjoint(validation | test)
    assert validation.isdisjoint(test)
    assert [len(train), len(validation), len(test)] == [42, 9, 9]
    assert not payloads(dataset, TRAIN) & payloads(dataset, TEST)
    assert dataset.dropped["payload seen before the test split"] > 0
    np.testing.assert_array_equal(dataset.split, split_by_object(shared, Settings()).split)
