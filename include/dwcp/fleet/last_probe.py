"""What nodes remember of payloads: the last probe of each object, taken afresh only where no transfer waits for it.

A probe (``features.probe``) takes longer than many a transfer. So a node probes before it chooses only an object that
it never probed, and from then on chooses by the last probe; a full measurement, which has the payload at hand on an
idle core afterwards, probes again. What the peer already has is no part of it: that changes with every version and is
told by a dirty log or by hashes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Recalled:
    """The probe that each transfer is chosen by; arrays of shape (rows,).

    ``fresh``: taken before this choice, which waits for it. ``profile`` is the payload that was probed, and
    ``slowdown`` the node's then.
    """

    fresh: NDArray[np.bool_]
    profile: Ints
    slowdown: NDArray[np.float64]


class LastProbes:
    """The last probe of every object by every node, over any number of weeks."""

    def __init__(self, nodes: int, objects: int) -> None:
        self._profile = np.full((nodes, objects), -1)
        self._slowdown = np.ones((nodes, objects))

    def recall(
        self,
        node: Ints,
        object_number: Ints,
        profile: Ints,
        slowdown: NDArray[np.float64],
        fully_measured: NDArray[np.bool_],
    ) -> Recalled:
        """The probes that transfers, in time order and all later than those before, are chosen by; then remember them.

        All arrays have shape (rows,); ``profile`` is the payload at hand.
        """
        key = node * self._profile.shape[1] + object_number
        order = np.argsort(key, kind="stable")
        key, rows = key[order], np.arange(len(key))
        starts = np.r_[True, key[1:] != key[:-1]][: len(key)]
        fresh = starts & (self._profile.flat[key] < 0)
        # The place of the last probe up to and with each row; that of a full measurement serves the rows behind it.
        last = np.maximum.accumulate(np.where(fresh | fully_measured[order], rows, -1))
        serves = np.where(fresh, rows, np.r_[-1, last[:-1]][: len(key)])
        begin = np.maximum.accumulate(np.where(starts, rows, 0))
        here = order[np.maximum(serves, 0)]
        recalled = serves >= begin
        found = Recalled(np.empty(len(key), np.bool_), np.empty(len(key), np.int64), np.empty(len(key)))
        found.fresh[order] = fresh
        found.profile[order] = np.where(recalled, profile[here], self._profile.flat[key])
        found.slowdown[order] = np.where(recalled, slowdown[here], self._slowdown.flat[key])
        newest = np.flatnonzero(np.r_[key[1:] != key[:-1], True][: len(key)] & (last >= begin))
        self._profile.flat[key[newest]] = profile[order[last[newest]]]
        self._slowdown.flat[key[newest]] = slowdown[order[last[newest]]]
        return found
