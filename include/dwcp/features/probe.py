"""The cheap look at a payload before choosing: single 4 KiB blocks spread over it, run through the node's own engines.

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
import zstandard
from numpy.typing import NDArray

BLOCK_BYTES = 4_096
HASH_BYTES = 16
FEWEST_BLOCKS, MOST_BLOCKS = 64, 256
BLOCKS_PER_LOOK = 16
"""Between those two bounds one block in so many is looked at."""
ZSTD_EVERY = 4
"""zstd is several times dearer than lz4, and its gain over lz4 varies little within a payload: one block in four."""
_zstd = zstandard.ZstdCompressor(level=3)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a node learns about a payload; shares in [0, 1], speeds in ms per 10^6 bytes of CPU time.

    ``entropy`` is the mean Shannon entropy of the probed blocks over 8 bits; ``compressibility_score`` is the share of
    their bytes that lz4 saves, block by block; ``delta_potential`` is the share of them (in bytes) that the peer's
    version already has, at any block position; ``zstd_share`` is what zstd leaves of one block in four.
    """

    entropy: float
    compressibility_score: float
    delta_potential: float
    zstd_share: float
    zstd_ms_per_mb: float
    lz4_ms_per_mb: float
    time_ms: float


def probe_blocks(count: int) -> int:
    """How many of ``count`` blocks are looked at: 64, or a sixteenth of more than 1,024, at most 256.

    More blocks tell more, but only a large payload takes long enough for the longer look to be worth its time.
    """
    return min(count, max(FEWEST_BLOCKS, min(MOST_BLOCKS, count // BLOCKS_PER_LOOK)))


def block_hashes(payload: bytes) -> list[bytes]:
    """blake2b-128 of every 4 KiB block, the last one shorter."""
    view = memoryview(payload)
    return [
        hashlib.blake2b(view[start : start + BLOCK_BYTES], digest_size=HASH_BYTES).digest()
        for start in range(0, len(payload), BLOCK_BYTES)
    ]


def zero_share(payload: bytes) -> float:
    """Exact share of the payload's bytes in 4 KiB blocks that hold nothing but zeros; the last block may be shorter."""
    whole = len(payload) // BLOCK_BYTES * BLOCK_BYTES
    blocks = np.frombuffer(payload, np.uint64, whole // 8).reshape(-1, BLOCK_BYTES // 8)
    zeros = int((~blocks.any(axis=1)).sum()) * BLOCK_BYTES
    if whole < len(payload) and not any(payload[whole:]):
        zeros += len(payload) - whole
    return zeros / max(1, len(payload))


def probe(payload: bytes, known_blocks: Collection[bytes]) -> Probe:
    """Look at ``probe_blocks`` blocks, evenly spread; a payload of fewer blocks is looked at whole.

    ``known_blocks`` are the hashes of the version that the peer holds (empty: none). Raises ``ValueError`` on an empty
    payload.
    """
    if not payload:
        raise ValueError("cannot probe an empty payload: there is nothing to transfer")
    began_ns = time.thread_time_ns()
    count = -(-len(payload) // BLOCK_BYTES)
    positions = np.unique(np.linspace(0, count - 1, probe_blocks(count)).round().astype(int)).tolist()
    view = memoryview(payload)
    blocks = [view[position * BLOCK_BYTES : (position + 1) * BLOCK_BYTES] for position in positions]
    raw = sum(map(len, blocks))
    known = 0
    if known_blocks:
        known = sum(
            len(block) for block in blocks if hashlib.blake2b(block, digest_size=HASH_BYTES).digest() in known_blocks
        )
    at_ns = time.thread_time_ns()
    light = sum(min(len(block), len(lz4.block.compress(block, store_size=False))) for block in blocks)
    lz4_ns = time.thread_time_ns() - at_ns
    some = blocks[:: ZSTD_EVERY if len(blocks) > MOST_BLOCKS // BLOCKS_PER_LOOK else 1]
    some_raw = sum(map(len, some))
    at_ns = time.thread_time_ns()
    heavy = sum(min(len(block), len(_zstd.compress(block))) for block in some)
    zstd_ns = time.thread_time_ns() - at_ns
    return Probe(
        entropy=_entropy(blocks),
        compressibility_score=1 - light / raw,
        delta_potential=known / raw,
        zstd_share=heavy / some_raw,
        zstd_ms_per_mb=zstd_ns / some_raw,
        lz4_ms_per_mb=lz4_ns / raw,
        time_ms=(time.thread_time_ns() - began_ns) / 1e6,
    )


def _entropy(blocks: list[memoryview]) -> float:
    """Mean over blocks of the Shannon entropy of a block's bytes, over 8 bits."""
    counts = np.stack([np.bincount(np.frombuffer(block, np.uint8), minlength=256) for block in blocks])
    share: NDArray[np.float64] = counts / counts.sum(axis=1, keepdims=True)
    bits = np.multiply(share, np.log2(share, where=share > 0, out=np.zeros_like(share))).sum(axis=1)
    return min(1.0, max(0.0, float(-bits.mean()) / 8))
