"""Labelled transfers and one small trained model for the tests of training."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pytest

from dwcp.oracle import label_batch
from dwcp.settings import Settings
from dwcp.training.dataset import Dataset, build_dataset
from dwcp.training.ensemble import Ensemble, assemble
from dwcp.training.split import split_by_time
from transfers import make_transfers


@pytest.fixture(scope="session")
def labelled() -> Callable[..., pa.Table]:
    """``labelled(rows, **make_transfers' arguments)``: rows of the warehouse, all fully measured unless told."""

    def make(rows: int = 800, **how: object) -> pa.Table:
        table = make_transfers(rows, **{"fully_measured": 1.0, "objects": 100} | how)
        labels = label_batch(table, "seed_3_1")
        for name in labels.schema.names:
            table = table.append_column(name, labels[name])
        return table

    return make


@pytest.fixture(scope="session")
def settings() -> Settings:
    """One thread: two that wait for each other on a busy machine are many times slower."""
    return Settings(training_threads=1)


@pytest.fixture(scope="session")
def dataset(labelled: Callable[..., pa.Table], settings: Settings) -> Dataset:
    return split_by_time(build_dataset(labelled()), settings)


@pytest.fixture
def quick(settings: Settings) -> Settings:
    """Settings of a short training, for tests of everything but how well it learns."""
    return settings.model_copy(update={"xgboost_rounds": 10, "network_epochs": 3})


@pytest.fixture(scope="session")
def ensemble(dataset: Dataset, settings: Settings) -> Ensemble:
    from dwcp.training.network import train_network
    from dwcp.training.xgb import train_xgboost

    return assemble(
        train_xgboost(dataset, settings), train_network(dataset, settings), xgboost_weight=settings.xgboost_weight
    )
