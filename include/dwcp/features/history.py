"""What a node remembers: exponential moving averages over its own past transfers (seed §4.2).

Definitions, the same wherever a feature is served or recomputed:

- ``recent_hde_ratio``, ``recent_amst_ratio``, ``baseline_ratio``: EMA of an algorithm's compression ratio on this
  (node, object); while the node has none for the object, on this (node, data type); while it has none of those either,
  the feature's cold-start default. An algorithm's ratio enters where it was executed or fully measured.
- ``recent_hde_ms_per_mb``, ``recent_amst_ms_per_mb``, ``recent_zstd_ms_per_mb``: the same of times, see
  ``features.costs.ms_per_mb``. A time enters where the transfer was fully measured: a single run beside the node's
  other work says more of that work than of the payload. The node's own speed is in them, as they are all its own.
- ``history_source`` says whose past those times are: 2 the object's, 1 the data type's, 0 nobody's (the defaults).
- ``hde_past_size_quotient``, ``hde_past_time_quotient``: the same of a delta's size over zstd's on the same transfer
  and the share of the payload that was new, and of its time over ``features.costs.delta_work``; 1 at cold start.
- quotients (``hde_size_quotient``, ``hde_time_quotient``, ...): the same of an engine's size or time over the probe's
  estimate of it, see ``features.costs.probe_estimates``; 1 at cold start. To an object that is new to the node they
  carry over what the engine made of the probe's figures on others of its type. HDE's are those of deltas alone.
- ``bandwidth_ratio``: current bandwidth over the EMA of bandwidth on this (node, peer); 1 before the first transfer.
- ``jitter_average_ms``: EMA of jitter on this (node, peer); the default before the first transfer.

The first observation starts an average, each later one moves it by ``ALPHA`` of the difference, that of a data type by
``TYPE_ALPHA``. Only transfers that the
same node began strictly earlier count, so nothing of the current transfer enters.

An average is a recursion, so it is computed as one: round *k* moves every average by its *k*-th observation at once.
The sums happen in the same order however the transfers are cut into chunks; so a warm-up, a chunked simulation and a
single pass give the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dwcp.contract import FEATURES

ALPHA = 0.3
TYPE_ALPHA = 0.05
"""A data type's average spans many objects that are unlike one another: by ``ALPHA`` it would be the last of them."""
OUTCOME_FEATURES = (
    "recent_hde_ratio",
    "recent_amst_ratio",
    "baseline_ratio",
    "recent_hde_ms_per_mb",
    "recent_amst_ms_per_mb",
    "recent_zstd_ms_per_mb",
)
"""What is remembered of past outcomes and is a feature as it is."""
QUOTIENTS = (
    "hde_past_size_quotient",
    "hde_past_time_quotient",
    *(f"{name}_quotient" for name in ("hde_size", "amst_size", "zstd_size", "amst_time", "zstd_time")),
)
"""What is remembered of past outcomes and enters the cost ratios only."""
QUOTIENT_BOUNDS = (1.0, 1e-4, 1e4)
"""A quotient at cold start, its minimum and its maximum."""
REMEMBERED = (*OUTCOME_FEATURES, *QUOTIENTS)
"""The columns of ``Observations.outcomes``, remembered by object and by data type."""
HISTORY_FEATURES = (*OUTCOME_FEATURES, "bandwidth_ratio", "jitter_average_ms", "history_source")
"""The features made here."""
HISTORY_COLUMNS = (*REMEMBERED, *HISTORY_FEATURES[len(OUTCOME_FEATURES) :])
"""The columns of what ``History`` returns, in this order."""

_TIMES = [position for position, name in enumerate(REMEMBERED) if name.endswith("_ms_per_mb")]
_BOUNDS = {feature.name: (feature.default, feature.minimum, feature.maximum) for feature in FEATURES}
_DEFAULTS, _MINIMA, _MAXIMA = np.array([_BOUNDS.get(name, QUOTIENT_BOUNDS) for name in HISTORY_COLUMNS]).T

Floats = NDArray[np.float64]


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
        self._objects, self._data_types = _Averages(len(REMEMBERED)), _Averages(len(REMEMBERED), TYPE_ALPHA)
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
        recall = self.recall(keys, timestamp_ns, observed.bandwidth_mbps, observed.jitter_ms)
        recall.suppose(np.arange(len(timestamp_ns)), observed.outcomes)
        recall.remember()
        return recall.past

    def recall(self, keys: Keys, timestamp_ns: NDArray[np.int64], bandwidth_mbps: Floats, jitter_ms: Floats) -> Recall:
        """As ``advance``, of transfers whose outcomes are still open; nothing else may be remembered meanwhile."""
        by_time = np.argsort(timestamp_ns, kind="stable")
        links = _Walk(self._peers, keys.peer, timestamp_ns, by_time)
        links.suppose(np.arange(len(timestamp_ns)), np.stack([bandwidth_mbps, jitter_ms]))
        return Recall(
            _Walk(self._objects, keys.object, timestamp_ns, by_time),
            _Walk(self._data_types, keys.data_type, timestamp_ns, by_time),
            links,
            bandwidth_mbps,
        )


class Recall:
    """What nodes remember before each of some transfers, while their outcomes are still open.

    ``past`` holds ``HISTORY_COLUMNS``, shape (rows, columns), by the outcomes supposed last; NaN before any were.
    """

    def __init__(self, objects: _Walk, data_types: _Walk, links: _Walk, bandwidth_mbps: Floats) -> None:
        self._objects, self._data_types, self._links = objects, data_types, links
        self._bandwidth_mbps = bandwidth_mbps
        self.past = np.full((len(bandwidth_mbps), len(HISTORY_COLUMNS)), np.nan, np.float32)

    def suppose(self, rows: NDArray[np.int64], outcomes: Floats) -> NDArray[np.int64]:
        """Let these be the outcomes of some rows, and return the rows whose ``past`` that moves: at first all.

        ``outcomes`` is that of ``Observations``, for ``rows`` alone. Rows never supposed have none.
        """
        columns = np.ascontiguousarray(outcomes.T)
        touched = self._objects.suppose(rows, columns) | self._data_types.suppose(rows, columns)
        touched |= np.isnan(self.past[:, 0])
        asked = np.flatnonzero(touched)
        objects, data_types, links = (
            walk.past.take(asked, axis=1) for walk in (self._objects, self._data_types, self._links)
        )
        past = _features(objects, data_types, links, self._bandwidth_mbps[asked])
        moved: NDArray[np.int64] = asked[(past != self.past[asked]).any(axis=1)]
        self.past[asked] = past
        return moved

    def remember(self) -> None:
        """Remember all transfers, with the outcomes supposed last."""
        for walk in (self._objects, self._data_types, self._links):
            walk.keep()


@dataclass(slots=True)
class _Averages:
    """EMAs of quantities for every key seen, shape (width, keys); NaN until a quantity's first observation."""

    width: int
    alpha: float = ALPHA
    names: dict[tuple[str, str], int] = field(default_factory=dict)
    values: Floats = field(init=False)

    def __post_init__(self) -> None:
        self.values = np.full((self.width, 0), np.nan)

    def keys(self, node_codes: NDArray[np.int64], nodes: list[str], column: pa.ChunkedArray) -> NDArray[np.int64]:
        codes, texts = _dictionary(column)
        pairs, inverse = np.unique(node_codes * max(1, len(texts)) + codes, return_inverse=True)
        numbers = np.empty(len(pairs), np.int64)
        for position, pair in enumerate(pairs.tolist()):
            node, text = divmod(pair, len(texts))
            numbers[position] = self.names.setdefault((nodes[node], texts[text]), len(self.names))
        missing = len(self.names) - self.values.shape[1]
        if missing:
            self.values = np.hstack([self.values, np.full((self.width, missing), np.nan)])
        return numbers[inverse]


class _Walk:
    """Averages of one kind of key: ``past`` before each of some transfers, shape (width, rows), and after them all."""

    def __init__(
        self,
        averages: _Averages,
        keys: NDArray[np.int64],
        timestamp_ns: NDArray[np.int64],
        by_time: NDArray[np.int64],
    ) -> None:
        rows = len(keys)
        self._averages = averages
        # Small integers are sorted by radix, several times as fast.
        small = keys[by_time].astype(np.min_scalar_type(averages.values.shape[1]))
        self._order = by_time[np.argsort(small, kind="stable")]
        key, time = keys[self._order], timestamp_ns[self._order]
        starts = np.r_[True, key[1:] != key[:-1]][:rows]
        first = np.flatnonzero(starts)
        self._sizes = np.diff(np.r_[first, rows])
        self._keys, self._group = key[first], np.cumsum(starts) - 1
        # Transfers of a key at one time see what the first of them sees: so many places back.
        new = starts | np.r_[True, time[1:] != time[:-1]][:rows]
        self._back = np.arange(rows) - np.maximum.accumulate(np.where(new, np.arange(rows), 0))
        self._observed = np.full((averages.width, rows), np.nan)
        self.past = averages.values.take(keys, axis=1)
        self._after = averages.values.take(self._keys, axis=1)

    def suppose(self, rows: NDArray[np.int64], observed: Floats) -> NDArray[np.bool_]:
        """Let ``observed``, of shape (width, ``len(rows)``), be what some rows add; NaN: nothing.

        Returns a mask of the rows, shape (all rows,), whose ``past`` that may have moved.
        """
        known = self._observed.take(rows, axis=1)
        differs = (observed != known) & ~(np.isnan(observed) & np.isnan(known))
        self._observed[:, rows] = observed
        touched_rows = np.zeros(len(self._order), np.bool_)
        touched_rows[rows] = differs.any(axis=0)
        touched = np.zeros(len(self._keys), np.bool_)
        touched[self._group[touched_rows[self._order]]] = True
        places = np.flatnonzero(touched[self._group])
        together: dict[bytes, list[int]] = {}
        for column in np.flatnonzero(differs.any(axis=1)).tolist():
            together.setdefault(np.isnan(self._observed[column]).tobytes(), []).append(column)
        for columns in together.values():
            self._average(columns, np.flatnonzero(touched), places)
        touched_rows[self._order[places]] = True
        return touched_rows

    def keep(self) -> None:
        """Make the averages after all rows those that the next rows begin with."""
        self._averages.values[:, self._keys] = self._after

    def _average(self, columns: list[int], keys: NDArray[np.int64], places: NDArray[np.int64]) -> None:
        """Average columns that are observed together, on the same rows, for some keys, which have the rows ``places``.

        A key's averages are a run of states: the one it begins with and one after each observation. ``table`` holds
        them round by round, all keys' first states, then their second ones where they have one, and so on. The keys
        with the longest runs come first, so that those that go on always lie at the front of a round.
        """
        rows, sizes = self._order[places], self._sizes[keys]
        seen = ~np.isnan(self._observed[columns[0]][rows])
        lengths = np.add.reduceat(seen, np.cumsum(sizes) - sizes, dtype=np.int64) + 1
        longest_first = np.argsort(-lengths, kind="stable")
        seat_of_key = np.empty_like(longest_first)
        seat_of_key[longest_first] = np.arange(len(keys))
        rounds = np.cumsum(np.r_[0, len(keys) - np.cumsum(np.bincount(lengths))])
        ends = np.cumsum(lengths)
        seat = rounds[np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)] + np.repeat(seat_of_key, lengths)

        state = np.cumsum(seen) - seen + np.repeat(np.arange(len(keys)), sizes)
        adding = np.flatnonzero(seen)
        past = seat[state[np.arange(len(rows)) - self._back[places]]]
        table = np.empty((len(seat), len(columns)))
        for number, column in enumerate(columns):
            table[: len(keys), number] = self._averages.values[column][self._keys[keys[longest_first]]]
            table[seat[state[adding] + 1], number] = self._observed[column][rows[adding]]
        _move(table, rounds.tolist(), self._averages.alpha)
        for number, column in enumerate(columns):
            self.past[column, rows] = table[past, number]
            self._after[column, keys] = table[seat[ends - 1], number]


def _move(table: Floats, rounds: list[int], alpha: float) -> None:
    """Turn the observations in every round of ``table`` but the first into averages."""
    width = table.shape[1]
    flat, rounds = table.reshape(-1), [width * begin for begin in rounds]
    if len(rounds) > 2:
        last, now = flat[: rounds[2] - rounds[1]], flat[rounds[1] : rounds[2]]
        now[:] = np.where(np.isnan(last), now, last + alpha * (now - last))
    for before, begin, end in zip(rounds[1:], rounds[2:], rounds[3:], strict=False):
        last, now = flat[before : before + end - begin], flat[begin:end]
        now -= last
        now *= alpha
        now += last


def _features(objects: Floats, data_types: Floats, links: Floats, bandwidth_mbps: Floats) -> NDArray[np.float32]:
    outcomes = np.where(np.isnan(objects), data_types, objects)
    has_own, has_any = (~np.isnan(times[_TIMES]).any(axis=0) for times in (objects, outcomes))
    source = has_any.astype(np.float64) + has_own
    features = np.vstack([outcomes, bandwidth_mbps / links[0], links[1], source])
    features = np.where(np.isnan(features), _DEFAULTS[:, None], features)
    clipped: NDArray[np.float32] = np.clip(features, _MINIMA[:, None], _MAXIMA[:, None]).astype(np.float32)
    return clipped.T


def _dictionary(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], list[str]]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    elif not isinstance(column, pa.Array):
        column = pa.array(column, pa.string())
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary.to_pylist()
