"""A small model trained in seconds on transfers that satisfy the contract, for tests of what happens to a model."""

from __future__ import annotations

from functools import cache

import pyarrow as pa

from dwcp.decision import fit_rule
from dwcp.oracle import label_batch
from dwcp.settings import Settings
from dwcp.training import network, xgb
from dwcp.training.dataset import TRAIN, VALIDATION, Dataset, build_dataset
from dwcp.training.ensemble import Ensemble, assemble
from dwcp.training.split import split_at_random, split_by_time
from transfers import make_transfers

# One thread: two that wait for one another on a busy machine take many times as long, and TensorFlow allows one number
# of threads a process, so every test trains with this one.
SETTINGS = Settings(bootstrap_rounds=200, training_threads=1, xgboost_rounds=25, network_epochs=4)


@cache
def labelled_transfers(rows: int = 6_000, seed: int = 0) -> pa.Table:
    table = make_transfers(rows, fully_measured=1.0, objects=120, seconds=7 * 86_400.0, seed=seed)
    labels = label_batch(table, SETTINGS.oracle)
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    return table


@cache
def dataset(split: str = "time") -> Dataset:
    cut = {"time": split_by_time, "random": split_at_random}[split]
    return cut(build_dataset(labelled_transfers()), SETTINGS)


@cache
def ensemble() -> Ensemble:
    """The real training, cut short."""
    booster = xgb.train_xgboost(dataset(), SETTINGS)
    weights = network.train_network(dataset(), SETTINGS)
    before_test = dataset().only(TRAIN, VALIDATION)
    rule = fit_rule(before_test.features, before_test.costs_ms, fallback_confidence=SETTINGS.fallback_confidence)
    return assemble(booster, weights, xgboost_weight=SETTINGS.xgboost_weight, rule=rule)
