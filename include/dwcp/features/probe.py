"""The cheap look at a payload before choosing: single 4 KiB blocks spread over it.

One definition for the fleet, for training and for the node. Seed §4.1.1 (entropy, compressibility_score,
delta_potential) and §4.2.2. The node keeps the block hashes of the version that its peer holds from when it sent it, so
hashing the previous version is no part of the probe.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection
from dataclasses import dataclass

import lz4.block
import numpy as np

BLOCK_BYTES = 4_096
HASH_BYTES = 16
PROBE_BLOCKS = 64


@dataclass(frozen=True, slots=True)
class Probe:
    """What a node learns about a payload; shares in [0, 1].

    ``entropy`` is the mean Shannon entropy of the probed blocks over 8 bits; ``compressibility_score`` is the share of
    their bytes that lz4 saves, block by block; ``delta_potential`` is the share of them (in bytes) that the peer's
    version already has, at any block position.
    """

    entropy: float
    compressibility_score: float
    delta_potential: float
    time_ms: float


def block_hashes(payload: bytes) -> list[bytes]:
    """blake2b-128 of every 4 KiB block, the last one shorter."""
    view = memoryview(payload)
    return [
        hashlib.blake2b(view[start : start + BLOCK_BYTES], digest_size=HASH_BYTES).digest()
        for start in range(0, len(payload), BLOCK_BYTES)
    ]


def probe(payload: bytes, known_blocks: Collection[bytes], blocks: int = PROBE_BLOCKS) -> Probe:
    """Look at up to ``blocks`` blocks, evenly spread; a payload of fewer blocks is looked at whole.

    ``known_blocks`` are the hashes of the version that the peer holds (empty: none). Raises ``ValueError`` on an empty
    payload.
    """
    if not payload:
        raise ValueError("cannot probe an empty payload: there is nothing to transfer")
    began_ns = time.thread_time_ns()
    count = -(-len(payload) // BLOCK_BYTES)
    positions = np.unique(np.linspace(0, count - 1, min(count, blocks)).round().astype(int))
    view = memoryview(payload)
    entropy_sum, raw, light, known = 0.0, 0, 0, 0
    for position in positions.tolist():
        block = view[position * BLOCK_BYTES : (position + 1) * BLOCK_BYTES]
        counts = np.bincount(np.frombuffer(block, np.uint8))
        share = counts[counts > 0] / len(block)
        entropy_sum += -float(share @ np.log2(share))
        raw += len(block)
        light += min(len(block), len(lz4.block.compress(block, store_size=False)))
        if hashlib.blake2b(block, digest_size=HASH_BYTES).digest() in known_blocks:
            known += len(block)
    return Probe(
        entropy=min(1.0, max(0.0, entropy_sum / len(positions) / 8)),
        compressibility_score=1 - light / raw,
        delta_potential=known / raw,
        time_ms=(time.thread_time_ns() - began_ns) / 1e6,
    )
