"""From a window of the warehouse to what training, evaluation and reports share."""

from __future__ import annotations

import dataclasses
import io
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, CANDIDATES, FEATURE_SET_DIGEST, FEATURES
from dwcp.features.recompute import recompute_features, served_features
from dwcp.training.leakage import IMPLAUSIBLE_SKILL, skill_of_each

TRAIN, VALIDATION, TEST = range(3)
MINIMAL_ROWS = 200
"""Fewer labelled transfers than this teach nothing and fill no split."""


class DatasetError(ValueError):
    """The window cannot teach a model. The message says what it lacks and what to do."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Labelled transfers in time order; every array has ``rows`` as its first dimension.

    ``features`` float32 (rows, features) in ``feature_names`` order; ``labels`` index ``CANDIDATES``; ``costs_ms``
    (rows, 4) in ``ALGORITHMS`` order; ``look_ms`` is what looking at the payload before the choice cost, 0
    where that was not logged; ``split`` is ``TRAIN``, ``VALIDATION`` or ``TEST``. ``dropped`` counts the rows
    that were left out, by reason.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    costs_ms: NDArray[np.float64]
    timestamp_ns: NDArray[np.int64]
    object_id: NDArray[np.str_]
    object_version: NDArray[np.int64]
    payload_digest: NDArray[np.str_]
    link_type: NDArray[np.str_]
    data_type: NDArray[np.str_]
    region: NDArray[np.str_]
    size_bytes: NDArray[np.int64]
    measured_runs: NDArray[np.int64]
    look_ms: NDArray[np.float64]
    split: NDArray[np.int8]
    feature_names: tuple[str, ...]
    dropped: dict[str, int]

    @property
    def rows(self) -> int:
        """Number of transfers."""
        return len(self.labels)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> Dataset:
        """Some of the rows, in the order given."""
        arrays = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return dataclasses.replace(self, **arrays)

    def only(self, *splits: int) -> Dataset:
        """The rows of some splits."""
        return self.take(np.isin(self.split, splits))

    def select(self, feature_names: tuple[str, ...]) -> Dataset:
        """The same rows with a subset of the features, in the order given."""
        columns = [self.feature_names.index(name) for name in feature_names]
        features = np.ascontiguousarray(self.features[:, columns])
        return dataclasses.replace(self, features=features, feature_names=feature_names)

    def to_parquet_bytes(self) -> bytes:
        """One Parquet file; equal datasets give equal bytes with one version of Arrow."""
        columns: dict[str, Any] = {name: getattr(self, name) for name in _ARRAYS if name not in _MATRICES}
        columns |= {f"feature_{name}": self.features[:, n] for n, name in enumerate(self.feature_names)}
        columns |= {f"cost_{name}_ms": self.costs_ms[:, n] for n, name in enumerate(ALGORITHMS)}
        fields = {"feature_names": list(self.feature_names), "dropped": dict(sorted(self.dropped.items()))}
        table = pa.table(columns).replace_schema_metadata({"dwcp": json.dumps(fields)})
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd")
        return buffer.getvalue()

    @classmethod
    def from_parquet_bytes(cls, data: bytes) -> Dataset:
        """What ``to_parquet_bytes`` wrote. Raises ``DatasetError`` if it did not write it."""
        try:
            table = pq.read_table(io.BytesIO(data))
            fields = json.loads(table.schema.metadata[b"dwcp"])
            names = tuple(fields["feature_names"])
            arrays = {name: _array(table, name) for name in _ARRAYS if name not in _MATRICES}
            features = np.column_stack([table[f"feature_{name}"].to_numpy() for name in names])
            costs_ms = np.column_stack([table[f"cost_{name}_ms"].to_numpy() for name in ALGORITHMS])
        except (pa.ArrowInvalid, KeyError, TypeError) as error:
            raise DatasetError(f"these bytes are no dataset ({error}): rerun the task that built it") from None
        return cls(features=features, costs_ms=costs_ms, feature_names=names, dropped=fields["dropped"], **arrays)


_TEXTS = ("object_id", "payload_digest", "link_type", "data_type", "region")
_MATRICES = ("features", "costs_ms")
_ARRAYS = tuple(f.name for f in dataclasses.fields(Dataset) if f.name not in ("feature_names", "dropped"))


def build_dataset(table: pa.Table, oracle: str | None = None) -> Dataset:
    """The labelled transfers of ``table`` (contract columns with the oracle's), in time order, all in ``TRAIN``.

    Features are those that the node served if they follow today's definition. Rows of an older definition get them
    recomputed from ``table``, whose other rows, labelled or not, are the history; the first transfers of a key then
    start cold. Rows without a label are left out and counted.

    Raises ``DatasetError`` if fewer than ``MINIMAL_ROWS`` rows have a label, labels are of several definitions or not
    of ``oracle`` (if given), all labels are the same, a feature of a labelled row is not finite, or one feature alone
    gives the label away (``training.leakage``).
    """
    labelled = pc.is_valid(table["optimal_compression"]).to_numpy()
    served = pc.fill_null(pc.equal(table["feature_set_digest"], FEATURE_SET_DIGEST), False).to_numpy()
    if labelled.sum() < MINIMAL_ROWS:
        raise DatasetError(
            f"only {labelled.sum()} of {table.num_rows} transfers have a label, a model needs {MINIMAL_ROWS}: "
            "widen the window or raise the nodes' share of fully measured transfers"
        )
    recomputed = labelled & ~served
    rows = table.filter(pa.array(labelled))
    _refuse_other_oracles(rows, oracle)
    features = np.empty((rows.num_rows, len(FEATURES)), np.float32)
    current = served[labelled]
    features[current] = served_features(rows.filter(pa.array(current)))
    if recomputed.any():
        features[~current] = recompute_features(table)[recomputed]
    if not np.isfinite(features).all():
        bad = int(np.argmin(np.isfinite(features).all(axis=1)))
        raise DatasetError(
            f"transfer {rows['transfer_id'][bad].as_py()} has a feature that is not finite: its window was not "
            "validated, or was changed since; load it again"
        )
    labels = np.asarray(pc.index_in(rows["optimal_compression"], value_set=pa.array(CANDIDATES)), np.int64)
    if len(np.unique(labels)) == 1:
        raise DatasetError(
            f"every label of the window is {CANDIDATES[labels[0]]}: there is nothing to choose between; widen the "
            "window, or check the oracle's inputs"
        )
    dataset = Dataset(
        features=features,
        labels=labels,
        costs_ms=np.column_stack([rows[f"cost_{name}_ms"].to_numpy() for name in ALGORITHMS]),
        timestamp_ns=rows["timestamp_ns"].to_numpy(),
        object_version=rows["object_version"].to_numpy(),
        size_bytes=rows["data_size_bytes"].to_numpy(),
        measured_runs=rows["measured_runs"].to_numpy(),
        look_ms=pc.fill_null(pc.cast(rows["probe_time_ms"], pa.float64()), 0.0).to_numpy(),
        split=np.full(rows.num_rows, TRAIN, np.int8),
        feature_names=tuple(feature.name for feature in FEATURES),
        dropped={"not fully measured": int((~labelled).sum())},
        **{name: _array(rows, name) for name in _TEXTS},
    )
    _refuse_leaks(dataset)
    # transfer_id breaks ties of nodes that sent in one instant: the same window gives the same order, hence model.
    return dataset.take(np.lexsort((_array(rows, "transfer_id"), dataset.timestamp_ns)))


def _refuse_other_oracles(rows: pa.Table, oracle: str | None) -> None:
    """Labels of two definitions contradict one another on equal rows: no model learns both."""
    counted = rows.group_by("oracle_definition").aggregate([([], "count_all"), ("timestamp_ns", "min_max")]).to_pylist()
    expected = oracle or max(counted, key=lambda found: found["count_all"])["oracle_definition"]
    others = [found for found in counted if found["oracle_definition"] != expected]
    if others:
        said = "; ".join(
            f"{found['count_all']:,} from {_day(found['timestamp_ns_min_max']['min'])} to "
            f"{_day(found['timestamp_ns_min_max']['max'])} by {found['oracle_definition']}"
            for found in others
        )
        raise DatasetError(
            f"of {rows.num_rows:,} labels not all are by the oracle {expected}: {said}; label these days anew "
            "(dwcp_manual_backfill, relabel only)"
        )


def _day(timestamp_ns: int) -> str:
    return f"{datetime.fromtimestamp(timestamp_ns / 1e9, UTC):%Y-%m-%d}"


def _refuse_leaks(dataset: Dataset) -> None:
    """What a node knows before it chooses does not hold the answer: a feature that does was served too late."""
    skills = skill_of_each(dataset.features, dataset.labels, dataset.object_id)
    leaks = [f"{dataset.feature_names[n]} (skill {skills[n]:.2f})" for n in np.flatnonzero(skills >= IMPLAUSIBLE_SKILL)]
    if leaks:
        raise DatasetError(
            f"{', '.join(leaks)} alone tells the oracle's choice: no input known before the choice does that; look in "
            "the nodes' code for what they serve under that name, and when"
        )


def _array(table: pa.Table, name: str) -> NDArray[Any]:
    column = table[name]
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return np.array(column.to_pylist(), np.str_)
    values: NDArray[Any] = column.to_numpy()
    return values
