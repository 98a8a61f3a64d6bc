"""Every engine gives back exactly what it was given, and refuses what was damaged."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.fleet import engines
from dwcp.fleet.engines import Base


def text(size: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b" ".join(b"%d word%d" % (n, rng.randrange(500)) for n in range(size // 8 + 1))[:size]


def edited(payload: bytes, edits: int, seed: int = 1) -> bytes:
    rng, out = random.Random(seed), bytearray(payload)
    for _ in range(edits):
        at = rng.randrange(len(out))
        out[at : at + 50] = os.urandom(rng.randrange(60))  # may shift what follows
    return bytes(out)


@given(st.binary(max_size=20_000), st.binary(max_size=20_000))
@settings(max_examples=60, deadline=None)
def test_any_bytes_round_trip(payload: bytes, previous: bytes) -> None:
    base = Base.of(previous)
    assert engines.hde_decompress(engines.hde_compress(payload, base).data, base) == payload
    assert engines.hde_decompress(engines.hde_compress(payload, None).data, None) == payload
    assert engines.zstd_decompress(engines.zstd_compress(payload)) == payload
    for codec in (engines.LZ4, engines.ZSTD1):
        assert engines.amst_decompress(engines.amst_compress(payload, codec=codec).data, codec=codec).data == payload


@given(st.lists(st.integers(-1, 3), max_size=8), st.integers(0, 4_095))
@settings(max_examples=100, deadline=None)
def test_hde_round_trips_any_order_of_known_and_new_blocks(order: list[int], tail: int) -> None:
    """−1 is a block that the previous version lacks; the others are its blocks, block 0 after a new one among them."""
    blocks = [text(4_096, seed) for seed in range(4)]
    base = Base.of(b"".join(blocks))
    payload = b"".join(os.urandom(4_096) if n < 0 else blocks[n] for n in order) + os.urandom(tail)
    assert engines.hde_decompress(engines.hde_compress(payload, base).data, base) == payload


@pytest.mark.parametrize("size", [1, 4_095, 4_096, 4_097, 700_000, 3_000_001])
@pytest.mark.parametrize("edits", [0, 1, 40])
def test_hde_round_trips_edited_versions(size: int, edits: int) -> None:
    previous = text(size)
    payload = edited(previous, edits)
    base = Base.of(previous)
    assert engines.hde_decompress(engines.hde_compress(payload, base).data, base) == payload


def test_hde_finds_moved_blocks_and_beats_zstd_on_them() -> None:
    blocks = [os.urandom(4_096) for _ in range(64)]
    base = Base.of(b"".join(blocks))
    payload = b"".join(reversed(blocks))
    result = engines.hde_compress(payload, base)
    assert result.hit_rate == 1.0
    assert len(result.data) < len(payload) / 100
    assert engines.hde_decompress(result.data, base) == payload


def test_hde_uses_the_previous_version_of_a_large_object_after_a_shift() -> None:
    previous = os.urandom(3_000_000)
    payload = b"x" * 100 + previous
    result = engines.hde_compress(payload, Base.of(previous))
    assert result.hit_rate < 0.01
    assert len(result.data) < len(payload) / 50


@pytest.mark.parametrize("codec", [engines.LZ4, engines.ZSTD1], ids=lambda codec: codec.name)
@pytest.mark.parametrize("streams", [1, 2, 4, 8])
def test_amst_bytes_do_not_depend_on_the_streams(streams: int, codec: engines.AmstCodec) -> None:
    payload = text(2_000_000) + os.urandom(600_000)
    result = engines.amst_compress(payload, streams, codec)
    assert result.data == engines.amst_compress(payload, codec=codec).data
    assert engines.amst_decompress(result.data, streams, codec).data == payload
    assert len(result.chunk_ns) == 10
    assert min(result.chunk_ns) > 0


def test_amst_stores_what_it_cannot_shrink() -> None:
    payload = os.urandom(1_000_000)
    for codec in (engines.LZ4, engines.ZSTD1):
        assert len(engines.amst_compress(payload, codec=codec).data) == len(payload) + 4 + 4 * 4


def test_amst_of_zstd_is_smaller_and_refuses_damage() -> None:
    payload = text(700_000)
    data = engines.amst_compress(payload, codec=engines.ZSTD1).data
    assert len(data) < len(engines.amst_compress(payload).data)
    with pytest.raises(engines.EngineError, match="damaged AMST"):
        engines.amst_decompress(data[:16] + bytes(100) + data[116:], codec=engines.ZSTD1)
    with pytest.raises(engines.EngineError, match="damaged AMST"):
        engines.amst_decompress(data, codec=engines.LZ4)


def test_makespan_is_the_busiest_thread() -> None:
    times = np.array([[5.0, 1.0, 2.0, 1.0, 4.0]])
    assert engines.makespan(times, 1)[0] == 13
    assert engines.makespan(times, 2)[0] == 11
    assert engines.makespan(times, 8)[0] == 5


def test_damage_and_missing_bases_are_refused() -> None:
    payload = text(600_000)
    base = Base.of(edited(payload, 5))
    delta = engines.hde_compress(payload, base).data
    with pytest.raises(engines.EngineError, match="missing"):
        engines.hde_decompress(delta, None)
    with pytest.raises(engines.EngineError):
        engines.hde_decompress(delta[:40], base)
    with pytest.raises(engines.EngineError):
        engines.amst_decompress(engines.amst_compress(payload).data[:-1])
    with pytest.raises(engines.EngineError):
        engines.zstd_decompress(b"not zstd")
    with pytest.raises(ValueError, match="streams"):
        engines.amst_compress(payload, 0)
