"""Consecutive weeks: who is judged on what, and that the same rows judge all three."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import trained
from dwcp.oracle import label_batch
from dwcp.pipeline.weeks import weeks_markdown
from dwcp.release.weeks import MODELS, WEEK_NS, over_weeks
from dwcp.training.dataset import TEST, Dataset, DatasetError, build_dataset
from dwcp.training.split import divide, parts_before
from transfers import make_transfers

SETTINGS = trained.SETTINGS


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    table = make_transfers(8_000, fully_measured=1.0, objects=120, seconds=28 * 86_400.0)
    labels = label_batch(table, SETTINGS.oracle)
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    return build_dataset(table)


@pytest.fixture(scope="module")
def weeks(dataset):
    return list(over_weeks(dataset, SETTINGS, weeks=3))


def test_a_week_is_tested_on_its_own_rows_and_trained_on_none_that_follow(dataset):
    begin_ns = int(dataset.timestamp_ns.min()) + 2 * WEEK_NS
    divided = divide(dataset, parts_before(dataset, begin_ns, begin_ns + WEEK_NS, SETTINGS))
    test = divided.only(TEST)
    rest = divided.take(divided.split != TEST)
    assert begin_ns <= test.timestamp_ns.min() <= test.timestamp_ns.max() < begin_ns + WEEK_NS
    assert rest.timestamp_ns.max() < begin_ns
    assert not set(rest.payload_digest) & set(test.payload_digest)
    share = (divided.split == 0).sum() / rest.rows
    assert share == pytest.approx(SETTINGS.train_share / (SETTINGS.train_share + SETTINGS.validation_share), abs=0.02)


def test_weeks_follow_one_another_to_the_end_of_the_data(dataset, weeks):
    begins = [week.begin_ns for week in weeks]
    assert np.diff(begins).tolist() == [WEEK_NS] * 2
    assert begins[-1] < dataset.timestamp_ns.max() < begins[-1] + WEEK_NS
    assert sum(week.rows for week in weeks) > 0.6 * dataset.rows * 3 / 4


def test_the_first_week_has_one_model_and_later_weeks_three(weeks):
    first, second, third = (week.accuracy for week in weeks)
    assert first["new"] == first["kept"] == first["first"]
    assert second["kept"] == second["first"] != second["new"]
    assert len({third[name].estimate for name in MODELS}) == 3
    assert weeks[0].retraining.estimate == 0
    for week in weeks[1:]:
        gain = week.accuracy["new"].estimate - week.accuracy["first"].estimate
        assert week.retraining.estimate == pytest.approx(gain)


def test_data_shorter_than_the_weeks_is_refused(dataset):
    few = dataclasses.replace(dataset, dropped={})
    with pytest.raises(DatasetError, match="the training split is empty"):
        list(over_weeks(few, SETTINGS, weeks=6))


def test_the_table_has_a_line_a_week_and_says_who_is_who(weeks):
    lines = weeks_markdown(weeks).splitlines()
    assert lines[0].startswith("| week from | rows | objects | retrained | a week old | never retrained |")
    assert len(lines) == 2 + len(weeks)
    assert f"{100 * weeks[2].accuracy['kept'].estimate:.2f} %" in lines[4]
