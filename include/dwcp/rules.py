"""The rule-based selector: the node's fallback (seed §7.2), the baseline of §8.2, the fleet's policy without a model.

Read off the seed's §2.1 ("Best for") and fixed, not fitted. The first rule that applies decides:

1. *Small or incompressible → none.* Below 1 KiB (§4.2.2), or if neither a light codec nor the peer's version of the
   object saves at least 5 %.
2. *The wire outruns every codec → none.* Effective bandwidth (after loss) of 10 Gbit/s or more.
3. *Repetitive data on a wire slow enough to wait for a dictionary → hde.* Effective bandwidth under 1 Gbit/s and either
   half of the probed blocks are known to the peer, or HDE has recently saved twice what AMST did.
4. *A slow wire → hde.* Effective bandwidth under 200 Mbit/s: the smallest output wins whatever it costs.
5. *Else → amst.* Fast, parallel, low CPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURES, SIZE_BINS_BYTES

MINIMAL_SAVING = 0.05
WIRE_OUTRUNS_CODECS_MBPS = 10_000.0
WIRE_WAITS_FOR_DICTIONARY_MBPS = 1_000.0
SLOW_WIRE_MBPS = 200.0
KNOWN_BLOCKS = 0.5
HDE_ADVANTAGE = 2.0

_AT = {feature.name: position for position, feature in enumerate(FEATURES)}
_HDE, _AMST, _NONE = (CANDIDATES.index(name) for name in ("hde", "amst", "none"))


def choose_by_rules(features: NDArray[np.float32]) -> NDArray[np.int64]:
    """Indices into ``CANDIDATES``, shape (rows,), for features of shape (rows, ``len(FEATURES)``) in contract order.

    Raises ``ValueError`` on another shape. Every row gets a choice: a value that is not finite fails each comparison
    and so ends at the last rule, because a fallback must not fail.
    """
    if features.ndim != 2 or features.shape[1] != len(FEATURES):
        raise ValueError(f"rules need features of shape (rows, {len(FEATURES)}), got {features.shape}")
    columns = features.astype(np.float64)
    effective_mbps = columns[:, _AT["bandwidth_mbps"]] * (1.0 - columns[:, _AT["packet_loss_rate"]])
    known_blocks = columns[:, _AT["delta_potential"]]
    saves_nothing = (columns[:, _AT["compressibility_score"]] < MINIMAL_SAVING) & (known_blocks < MINIMAL_SAVING)
    hde_pays = columns[:, _AT["recent_hde_ratio"]] >= HDE_ADVANTAGE * columns[:, _AT["recent_amst_ratio"]]
    return np.select(
        [
            (columns[:, _AT["size_bytes"]] < SIZE_BINS_BYTES[0]) | saves_nothing,
            effective_mbps >= WIRE_OUTRUNS_CODECS_MBPS,
            (effective_mbps < WIRE_WAITS_FOR_DICTIONARY_MBPS) & ((known_blocks >= KNOWN_BLOCKS) | hde_pays),
            effective_mbps < SLOW_WIRE_MBPS,
        ],
        [_NONE, _NONE, _HDE, _HDE],
        default=_AMST,
    ).astype(np.int64)
