"""What a node remembers: exponential moving averages over its own past transfers (seed §4.2).

Definitions, the same wherever a feature is served or recomputed:

- ``recent_hde_ratio``, ``recent_amst_ratio``, ``baseline_ratio``: EMA of an algorithm's compression ratio on this
  (node, object); while the node has none for the object, on this (node, data type); while it has none of those either,
  the feature's cold-start default. An algorithm's ratio enters where it was executed or fully measured.
- ``recent_hde_ms_per_mb``, ``recent_amst_ms_per_mb``, ``recent_zstd_ms_per_mb``: the same of times, see
  ``features.costs.ms_per_mb``. A time enters where the transfer was fully measured: a single run beside the node's
  other work says more of that work than of the payload. The node's own speed is in them, as they are all its own.
- ``history_source`` says whose past those times are: 2 the object's, 1 the data type's, 0 nobody's (the defaults).
- quotients (``hde_size_quotient``, ``hde_time_quotient``, ...): the same of an engine's size or time over the probe's
  estimate of it, see ``features.costs.probe_estimates``; 1 at cold start. To an object that is new to the node they
  carry over what the engine made of the probe's figures on others of its type.
- ``bandwidth_ratio``: current bandwidth over the EMA of bandwidth on this (node, peer); 1 before the first transfer.
- ``jitter_average_ms``: EMA of jitter on this (node, peer); the default before the first transfer.

The first observation starts an average, each later one moves it by ``ALPHA`` of the difference. Only transfers that the
same node began strictly earlier count, so nothing of the current transfer enters.

An average is a recursion, so it is computed as one: round *k* updates the *k*-th observation of every key at once. The
sums happen in the same order however the transfers are cut into chunks; so a warm-up, a chunked simulation and a single
pass give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dwcp.contract import FEATURES

ALPHA = 0.3
OUTCOME_FEATURES = (
    "recent_hde_ratio",
    "recent_amst_ratio",
    "baseline_ratio",
    "recent_hde_ms_per_mb",
    "recent_amst_ms_per_mb",
    "recent_zstd_ms_per_mb",
)
"""What is remembered of past outcomes and is a feature as it is."""
QUOTIENTS = tuple(f"{engine}_{what}_quotient" for what in ("size", "time") for engine in ("hde", "amst", "zstd"))
"""What is remembered of past outcomes and enters the cost ratios only."""
REMEMBERED = (*OUTCOME_FEATURES, *QUOTIENTS)
"""The columns of ``Observations.outcomes``, remembered by object and by data type."""
HISTORY_FEATURES = (*OUTCOME_FEATURES, "bandwidth_ratio", "jitter_average_ms", "history_source")
"""The features made here."""
HISTORY_COLUMNS = (*REMEMBERED, *HISTORY_FEATURES[len(OUTCOME_FEATURES) :])
"""The columns of what ``History`` returns, in this order."""

_TIMES = [position for position, name in enumerate(REMEMBERED) if name.endswith("_ms_per_mb")]
_BOUNDS = {feature.name: (feature.default, feature.minimum, feature.maximum) for feature in FEATURES}
_DEFAULTS, _MINIMA, _MAXIMA = np.array([_BOUNDS.get(name, (1.0, 1e-4, 1e4)) for name in HISTORY_COLUMNS]).T
_FEW_KEYS = 16
"""With fewer keys than this left in a round, each key's rest is cheaper as a loop than the round is as an array."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Integer names of what each transfer's averages are kept by; three arrays of shape (rows,)."""

    object: NDArray[np.int64]
    data_type: NDArray[np.int64]
    peer: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Observations:
    """What transfers add to a node's memory.

    ``outcomes`` has shape (rows, ``len(REMEMBERED)``), NaN where that was not measured.
    ``bandwidth_mbps`` and ``jitter_ms`` have shape (rows,) and are known before the choice.
    """

    outcomes: NDArray[np.float64]
    bandwidth_mbps: NDArray[np.float64]
    jitter_ms: NDArray[np.float64]


class History:
    """The memory of any number of nodes; it grows as transfers pass. A deep copy remembers the same."""

    def __init__(self) -> None:
        self._objects, self._data_types = _Averages(len(REMEMBERED)), _Averages(len(REMEMBERED))
        self._peers = _Averages(2)

    def keys(
        self, node_id: pa.ChunkedArray, object_id: pa.ChunkedArray, data_type: pa.ChunkedArray, peer_id: pa.ChunkedArray
    ) -> Keys:
        """Name the keys of transfers, given as four string columns of equal length (Arrow arrays or string arrays)."""
        node_codes, nodes = _dictionary(node_id)
        return Keys(
            self._objects.keys(node_codes, nodes, object_id),
            self._data_types.keys(node_codes, nodes, data_type),
            self._peers.keys(node_codes, nodes, peer_id),
        )

    def advance(self, keys: Keys, timestamp_ns: NDArray[np.int64], observed: Observations) -> NDArray[np.float32]:
        """``HISTORY_COLUMNS`` of each transfer before it began, shape (rows, columns); then all are remembered.

        Rows may come in any order, but none may be older than a transfer of its node that was remembered before.
        Transfers of one key with equal timestamps see the same past.
        """
        links = np.column_stack([observed.bandwidth_mbps, observed.jitter_ms])
        return _features(
            self._objects.walk(keys.object, timestamp_ns, observed.outcomes),
            self._data_types.walk(keys.data_type, timestamp_ns, observed.outcomes),
            self._peers.walk(keys.peer, timestamp_ns, links),
            observed.bandwidth_mbps,
        )


@dataclass(slots=True)
class _Averages:
    """EMAs of ``width`` quantities for every key seen; NaN until a quantity's first observation."""

    width: int
    names: dict[tuple[str, str], int] = field(default_factory=dict)
    values: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self.values = np.full((0, self.width), np.nan)

    def keys(self, node_codes: NDArray[np.int64], nodes: list[str], column: pa.ChunkedArray) -> NDArray[np.int64]:
        codes, texts = _dictionary(column)
        pairs, inverse = np.unique(node_codes * max(1, len(texts)) + codes, return_inverse=True)
        numbers = np.empty(len(pairs), np.int64)
        for position, pair in enumerate(pairs.tolist()):
            node, text = divmod(pair, len(texts))
            numbers[position] = self.names.setdefault((nodes[node], texts[text]), len(self.names))
        missing = len(self.names) - len(self.values)
        if missing:
            self.values = np.vstack([self.values, np.full((missing, self.width), np.nan)])
        return numbers[inverse]

    def walk(
        self, keys: NDArray[np.int64], timestamp_ns: NDArray[np.int64], observed: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The averages before each row, shape (rows, width), and then after all of them in ``values``."""
        rows = len(keys)
        past = np.empty((rows, self.width))
        if rows == 0:
            return past
        by_key = np.lexsort((timestamp_ns, keys))
        key, time, seen = keys[by_key], timestamp_ns[by_key], observed[by_key]
        starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        lengths = np.diff(np.r_[starts, rows])
        longest_first = np.argsort(-lengths, kind="stable")
        starts, lengths = starts[longest_first], lengths[longest_first]
        state = self.values[key[starts]]
        before = np.empty((rows, self.width))
        done, active = 0, len(starts)
        while True:
            # Longest first: the keys that still have an observation left are always a prefix.
            active = int(np.searchsorted(-lengths[:active], -done, side="left"))
            if active < _FEW_KEYS:
                break
            at = starts[:active] + done
            before[at] = state[:active]
            state[:active] = _moved(state[:active], seen[at])
            done += 1
        for number in range(active):
            rest = slice(starts[number] + done, starts[number] + lengths[number])
            for column in range(self.width):
                averages = list(
                    accumulate(seen[rest, column].tolist(), _moved_one, initial=float(state[number, column]))
                )
                before[rest, column] = averages[:-1]
                state[number, column] = averages[-1]
        self.values[key[starts]] = state
        new = np.r_[True, (key[1:] != key[:-1]) | (time[1:] != time[:-1])]
        past[by_key] = before[np.maximum.accumulate(np.where(new, np.arange(rows), 0))]
        return past


def _moved(average: NDArray[np.float64], observed: NDArray[np.float64]) -> NDArray[np.float64]:
    moved = np.where(np.isnan(average), observed, average + ALPHA * (observed - average))
    return np.where(np.isnan(observed), average, moved)


def _moved_one(average: float, observed: float) -> float:
    """``_moved`` for one number, with the same operations in the same order. NaN is what differs from itself."""
    if observed != observed:
        return average
    return observed if average != average else average + ALPHA * (observed - average)


def _features(
    objects: NDArray[np.float64],
    data_types: NDArray[np.float64],
    peers: NDArray[np.float64],
    bandwidth_mbps: NDArray[np.float64],
) -> NDArray[np.float32]:
    outcomes = np.where(np.isnan(objects), data_types, objects)
    has_own, has_any = (~np.isnan(times[:, _TIMES]).any(axis=1) for times in (objects, outcomes))
    source = has_any.astype(np.float64) + has_own
    features = np.column_stack([outcomes, bandwidth_mbps / peers[:, 0], peers[:, 1], source])
    features = np.where(np.isnan(features), _DEFAULTS, features)
    clipped: NDArray[np.float32] = np.clip(features, _MINIMA, _MAXIMA).astype(np.float32)
    return clipped


def _dictionary(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    elif not isinstance(column, pa.Array):
        column = pa.array(column, pa.string())
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()
