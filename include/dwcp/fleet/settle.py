"""Choices that depend on history, which depends on earlier choices: both are solved together, as a fixed point.

History only looks back, so each pass settles at least the first open choice of each node; few settle all. From the
second pass on only transfers whose past has moved are decided again. What is served then equals what
``features.recompute`` finds in the log, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS, FEATURES, OUTCOMES
from dwcp.features.history import History
from dwcp.features.recompute import OUTCOME_COLUMNS, RAW_COLUMNS, feature_matrix, outcomes
from dwcp.fleet.known import Known
from dwcp.fleet.policy import Choices, Policy
from dwcp.fleet.world import Transfers

_MEASURED_BY = {name: algorithm for algorithm in ALGORITHMS for name in OUTCOMES[algorithm]}
"""Each outcome column's algorithm."""
_MOST_PASSES = 200


def settle(
    transfers: Transfers, known: Known, measured: dict[str, NDArray[Any]], history: History, policy: Policy
) -> tuple[NDArray[np.float32], Choices, int]:
    """Features and choices that agree with one another, and the passes it took; ``history`` then remembers all.

    ``measured`` holds what measuring every algorithm would log. Features have shape (rows, ``len(FEATURES)``).
    Raises ``RuntimeError`` if the choices do not settle.
    """
    raw = {name: known.logged[name] for name in RAW_COLUMNS}
    bucket, full = known.logged["rollout_bucket"], transfers.fully_measured
    logged = _logged(known, measured)
    rows = len(full)
    keys = history.keys(*(known.logged[name] for name in ("node_id", "object_id", "data_type", "peer_id")))
    recall = history.recall(keys, transfers.timestamp_ns, transfers.bandwidth_mbps, transfers.jitter_ms)

    def execute(choices: Choices, explore: NDArray[np.int64]) -> NDArray[np.int64]:
        """A share of the rules' choices is replaced by chance, to keep seeing others."""
        return np.where(explore >= 0, explore, choices.executed) if policy.model_version is None else choices.executed

    executed = np.full(rows, -1)
    features = np.empty((rows, len(FEATURES)), np.float32)
    changed = np.arange(rows)
    for number in range(1, _MOST_PASSES + 1):
        own = _measured(_rows(logged, changed), full[changed], executed[changed])
        moved = recall.suppose(changed, outcomes(own, full[changed]))
        if len(moved):
            features[moved] = feature_matrix(_rows(raw, moved), recall.past[moved], _rows(known.seen, moved))
            chosen = execute(policy.choose(features[moved], bucket[moved]), transfers.explore[moved])
            changed = moved[chosen != executed[moved]]
            executed[moved] = chosen
            continue
        # All at once: a model's figures may differ in the last bit with the number of rows it is given.
        choices = policy.choose(features, bucket)
        chosen = execute(choices, transfers.explore)
        changed = np.flatnonzero(chosen != executed)
        if not len(changed):
            recall.remember()
            return features, replace(choices, executed=chosen), number
        executed = chosen
    raise RuntimeError(f"choices did not settle in {_MOST_PASSES} passes")


def _logged(known: Known, measured: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """``OUTCOME_COLUMNS`` as the log would have them of measured transfers, with what was served in 4 bytes."""
    served = {f"served_{name}": values.astype(np.float32) for name, values in known.seen.items()}
    known_or_measured = known.logged | measured | served
    return {name: known_or_measured[name].astype(np.float64) for name in OUTCOME_COLUMNS}


def _measured(
    logged: dict[str, NDArray[np.float64]], full: NDArray[np.bool_], executed: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]]:
    """``logged`` with NaN where the algorithm was neither executed nor the transfer fully measured."""
    was = {algorithm: full | (executed == place) for place, algorithm in enumerate(ALGORITHMS)}
    return {
        name: np.where(was[_MEASURED_BY[name]], values, np.nan) if name in _MEASURED_BY else values
        for name, values in logged.items()
    }


def _rows(columns: dict[str, Any], rows: NDArray[np.int64]) -> dict[str, Any]:
    return {
        name: values.take(pa.array(rows)) if isinstance(values, pa.Array) else values[rows]
        for name, values in columns.items()
    }
