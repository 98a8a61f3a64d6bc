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
        recall = self.recall(keys, timestamp_ns, observed.bandwidth_mbps, observed.jitter_ms)
        past = recall.before(observed.outcomes)
        recall.remember()
        return past

    def recall(self, keys: Keys, timestamp_ns: NDArray[np.int64], bandwidth_mbps: Floats, jitter_ms: Floats) -> Recall:
        """As ``advance``, of transfers whose outcomes are still open; nothing else may be remembered meanwhile."""
        by_time = np.argsort(timestamp_ns, kind="stable")
        links = _Walk(self._peers, keys.peer, timestamp_ns, by_time)
        links.before(np.stack([bandwidth_mbps, jitter_ms]))
        return Recall(
            _Walk(self._objects, keys.object, timestamp_ns, by_time),
            _Walk(self._data_types, keys.data_type, timestamp_ns, by_time),
            links,
            bandwidth_mbps,
        )


class Recall:
    """What nodes remember before each of some transfers, asked for as often as their supposed outcomes change."""

    def __init__(self, objects: _Walk, data_types: _Walk, links: _Walk, bandwidth_mbps: Floats) -> None:
        self._objects, self._data_types, self._links = objects, data_types, links
        self._bandwidth_mbps = bandwidth_mbps

    def before(self, outcomes: Floats) -> NDArray[np.float32]:
        """``HISTORY_COLUMNS`` of each transfer before it began, shape (rows, columns), if these were all outcomes.

        ``outcomes`` is that of ``Observations``. Only columns other than those of the call before are averaged anew.
        """
        columns = np.ascontiguousarray(outcomes.T)
        return _features(
            self._objects.before(columns), self._data_types.before(columns), self._links.past, self._bandwidth_mbps
        )

    def remember(self) -> None:
        """Remember all transfers, with the outcomes that ``before`` was last given."""
        for walk in (self._objects, self._data_types, self._links):
            walk.keep()


@dataclass(slots=True)
class _Averages:
    """EMAs of quantities for every key seen, shape (width, keys); NaN until a quantity's first observation."""

    width: int
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
        self._first = np.flatnonzero(starts)
        self._keys, self._group = key[self._first], np.cumsum(starts) - 1
        # Transfers of a key at one time see what the first of them sees.
        new = starts | np.r_[True, time[1:] != time[:-1]][:rows]
        self._sees = np.empty(rows, np.int64)
        self._sees[self._order] = np.maximum.accumulate(np.where(new, np.arange(rows), 0))
        self._observed = np.full((averages.width, rows), np.inf)
        self.past = np.empty((averages.width, rows))
        self._after = np.empty((averages.width, len(self._keys)))

    def before(self, observed: Floats) -> Floats:
        """``past`` for ``observed`` of shape (width, rows), NaN where nothing was."""
        together: dict[bytes, list[int]] = {}
        for column, (values, known) in enumerate(zip(observed, self._observed, strict=True)):
            if not np.array_equal(values, known, equal_nan=True):
                together.setdefault(np.isnan(values).tobytes(), []).append(column)
        self._observed = observed
        if len(self._order):
            for columns in together.values():
                self._average(columns)
        return self.past

    def keep(self) -> None:
        """Make the averages after all rows those that the next rows begin with."""
        self._averages.values[:, self._keys] = self._after

    def _average(self, columns: list[int]) -> None:
        """Average columns that are observed together, on the same rows.

        A key's averages are a run of states: the one it begins with and one after each observation. ``table`` holds
        them round by round, all keys' first states, then their second ones where they have one, and so on. The keys
        with the longest runs come first, so that those that go on always lie at the front of a round.
        """
        seen = ~np.isnan(self._observed[columns[0]][self._order])
        lengths = np.add.reduceat(seen, self._first, dtype=np.int64) + 1
        longest_first = np.argsort(-lengths, kind="stable")
        place = np.empty_like(longest_first)
        place[longest_first] = np.arange(len(place))
        going_on = len(lengths) - np.cumsum(np.bincount(lengths))
        rounds = np.cumsum(np.r_[0, going_on])
        ends = np.cumsum(lengths)
        seat = rounds[np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)] + np.repeat(place, lengths)

        state = np.cumsum(seen) - seen + self._group
        rows = np.flatnonzero(seen)
        table = np.empty((len(seat), len(columns)))
        table[: len(place)] = self._averages.values[columns][:, self._keys[longest_first]].T
        table[seat[state[rows] + 1]] = self._observed[columns][:, self._order[rows]].T
        _move(table, rounds.tolist())
        self.past[columns] = table[seat[state[self._sees]]].T
        self._after[columns] = table[seat[ends - 1]].T


def _move(table: Floats, rounds: list[int]) -> None:
    """Turn the observations in every round of ``table`` but the first into averages."""
    if len(rounds) > 2:
        last, now = table[: rounds[2] - rounds[1]], table[rounds[1] : rounds[2]]
        now[:] = np.where(np.isnan(last), now, last + ALPHA * (now - last))
    for before, begin, end in zip(rounds[1:], rounds[2:], rounds[3:], strict=False):
        last, now = table[before : before + end - begin], table[begin:end]
        now -= last
        now *= ALPHA
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
