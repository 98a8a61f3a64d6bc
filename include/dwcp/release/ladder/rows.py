"""The labelled transfers that the ladder stands on: the dataset as training sees it, and what else was logged."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, CANDIDATES
from dwcp.oracle import best_choice, transfer_costs_ms
from dwcp.release.metrics import Floats
from dwcp.settings import Settings
from dwcp.training.dataset import Dataset, build_dataset
from dwcp.training.split import divide, parts_at_random, parts_by_object, parts_by_time

SPLITS = {"time": parts_by_time, "random": parts_at_random, "unseen objects": parts_by_object}
"""How the window is cut. The first is the gate's."""


@dataclass(frozen=True, slots=True)
class Rows:
    """``dataset`` and, row for row, the ``table`` of the warehouse that it was built from."""

    dataset: Dataset
    table: pa.Table

    @classmethod
    def of(cls, table: pa.Table) -> Rows:
        """The labelled rows of ``table`` (contract columns with the oracle's). Raises ``DatasetError``."""
        dataset = build_dataset(table)
        labelled = table.filter(pc.is_valid(table["optimal_compression"]))
        order = pc.sort_indices(labelled, sort_keys=[("timestamp_ns", "ascending"), ("transfer_id", "ascending")])
        rows = cls(dataset, labelled.take(order))
        if not np.array_equal(rows.numbers("timestamp_ns"), dataset.timestamp_ns):
            raise AssertionError("the table's rows do not follow the dataset's order")
        return rows

    def split(self, name: str, settings: Settings) -> Rows:
        """The rows cut as one of ``SPLITS``. Raises ``DatasetError`` if a part has no rows."""
        parts = SPLITS[name](self.dataset, settings)
        return Rows(divide(self.dataset, parts), self.table.filter(pa.array(parts.kept)))

    def take(self, rows: NDArray[np.bool_]) -> Rows:
        """Some of the rows."""
        return Rows(self.dataset.take(rows), self.table.filter(pa.array(rows)))

    def only(self, *splits: int) -> Rows:
        """The rows of some splits."""
        return self.take(np.isin(self.dataset.split, splits))

    def numbers(self, column: str) -> Floats:
        """A column of the table as float64; NaN where null."""
        values: Floats = pc.cast(self.table[column], pa.float64(), safe=False).to_numpy()
        return values

    def relabelled(self, definition: str) -> Rows:
        """The same transfers under another definition of the oracle."""
        costs = transfer_costs_ms(self.table, definition)
        labels, _ = best_choice(costs)
        return Rows(dataclasses.replace(self.dataset, labels=labels, costs_ms=costs), self.table)


def label_mix(labels: NDArray[np.int64]) -> dict[str, float]:
    """Each label's share of the rows."""
    counts = np.bincount(labels, minlength=len(CANDIDATES))
    return {name: float(count / max(1, len(labels))) for name, count in zip(CANDIDATES, counts, strict=True)}


def column_of(algorithm: str) -> int:
    """The algorithm's place in ``costs_ms``."""
    return ALGORITHMS.index(algorithm)
