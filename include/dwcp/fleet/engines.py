"""The engines of seed §2.1 on libzstd and liblz4, each with its exact inverse.

- **HDE** (delta and dictionary): 4 KiB blocks that the peer's version already has, at any block position, are replaced
  by a reference (blake2b-128); the rest is zstd level 3 in frames of at most 512 KiB, each with a raw-content
  dictionary cut from the previous version around the places that changed. A dictionary of a whole large version costs
  more than it brings: level 3's tables are overwritten before they are used (12.7 MB with 200 edits: no gain).
- **AMST** (multi-stream): lz4 over 256 KiB chunks that are dealt in turn to parallel threads, one a stream; a chunk
  that lz4 cannot shrink is stored raw. With zstd level 1 in place of lz4 (``ZSTD1``) it is shown beside AMST, and
  never chosen.
- **zstd**, the baseline: level 3, one frame. **none**: the payload itself.

Payloads are shorter than 4 GiB: lengths take four bytes.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import lz4.block
import numpy as np
import zstandard
from numpy.typing import NDArray

from dwcp.contract import AMST_CHUNK_BYTES
from dwcp.features.probe import BLOCK_BYTES, block_hashes

LEVEL = 3
FRAME_BYTES = 512 * 1024
CHUNK_BYTES = AMST_CHUNK_BYTES
STREAM_COUNTS = (1, 2, 4, 8)
"""How many streams AMST may cut a payload into."""
_REACH_BYTES = 128 * 1024
_MAX_WINDOW_BYTES = 1 << 27
_RAW_FLAG = 1 << 31
_PLAIN, _DELTA = b"\x00", 1
_HEADER = struct.Struct("<BIIH")


class EngineError(ValueError):
    """Compressed bytes are damaged, or were made against another previous version."""


@dataclass(frozen=True)
class Base:
    """The version of an object that the peer holds, with the block index that a node keeps from when it sent it."""

    payload: bytes
    hashes: list[bytes] = field(repr=False)

    @classmethod
    def of(cls, payload: bytes) -> Base:
        """Index ``payload``."""
        return cls(payload, block_hashes(payload))

    @cached_property
    def positions(self) -> dict[bytes, int]:
        """Block hash to the first position that holds it; a short last block is left out, as its length differs."""
        whole = len(self.payload) // BLOCK_BYTES
        return {digest: position for position, digest in reversed(list(enumerate(self.hashes[:whole])))}


# -- baseline ----------------------------------------------------------------------------------------------------------

_zstd = zstandard.ZstdCompressor(level=LEVEL)
_unzstd = zstandard.ZstdDecompressor()


def zstd_compress(payload: bytes) -> bytes:
    """Zstd level 3, one frame. The context is kept between calls, as a node does."""
    return _zstd.compress(payload)


def zstd_decompress(data: bytes) -> bytes:
    """Inverse of ``zstd_compress``. Raises ``EngineError`` on damage."""
    try:
        return _unzstd.decompress(data)
    except zstandard.ZstdError as error:
        raise EngineError(f"not a zstd frame: {error}") from None


# -- HDE ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HdeResult:
    """``hit_rate`` is the share of the payload's bytes in blocks replaced by references."""

    data: bytes
    hit_rate: float


def hde_compress(payload: bytes, base: Base | None) -> HdeResult:
    """Encode ``payload`` against ``base``, the version that the peer holds (None: it holds none)."""
    if base is None or not base.payload:
        return HdeResult(_PLAIN + zstd_compress(payload), 0.0)
    blocks = -(-len(payload) // BLOCK_BYTES)
    if payload == base.payload:  # a compare at memory speed spares hashing when nothing changed
        references = np.arange(1, blocks + 1, dtype=np.int32)
        if len(payload) % BLOCK_BYTES:
            references[-1] = 0
    else:
        known = base.positions
        references = np.fromiter((known.get(h, -1) + 1 for h in block_hashes(payload)), np.int32, blocks)
    frames = [
        _compressor(len(literal), dictionary).compress(literal)
        for literal, dictionary in _literal_frames(payload, references, base.payload)
    ]
    hit_rate = min(1.0, int((references > 0).sum()) * BLOCK_BYTES / max(1, len(payload)))
    packed = _pack_references(references)
    sizes = struct.pack(f"<{len(frames)}I", *map(len, frames))
    header = _HEADER.pack(_DELTA, len(payload), len(packed), len(frames))
    return HdeResult(b"".join((header, packed, sizes, *frames)), hit_rate)


def hde_decompress(data: bytes, base: Base | None) -> bytes:
    """Inverse of ``hde_compress`` with the same ``base``. Raises ``EngineError`` on damage or a missing base."""
    try:
        if data[:1] == _PLAIN:
            return zstd_decompress(data[1:])
        if base is None:
            raise EngineError("this payload is a delta: the version it was made against is missing")
        _, size, packed_bytes, frame_count = _HEADER.unpack_from(data)
        at = _HEADER.size
        references = _unpack_references(data[at : at + packed_bytes], -(-size // BLOCK_BYTES))
        at += packed_bytes
        sizes = struct.unpack_from(f"<{frame_count}I", data, at)
        at += 4 * frame_count
        out = bytearray(size)
        previous = memoryview(base.payload)
        # A literal's 0 before a reference to block 0, which is 1, is no run.
        breaks = (np.diff(references) != 1) | (references[:-1] == 0)
        for start, stop in _runs(breaks, references):
            first = int(references[start]) - 1
            if first >= 0:
                length = (stop - start) * BLOCK_BYTES
                out[start * BLOCK_BYTES : start * BLOCK_BYTES + length] = previous[
                    first * BLOCK_BYTES : first * BLOCK_BYTES + length
                ]
        for (ranges, dictionary), frame_bytes in zip(_frame_plan(size, references, base.payload), sizes, strict=True):
            literal = memoryview(_decompressor(dictionary).decompress(data[at : at + frame_bytes]))
            at += frame_bytes
            for start, stop in ranges:
                out[start:stop] = literal[: stop - start]
                literal = literal[stop - start :]
        return bytes(out)
    except (struct.error, IndexError, ValueError, zstandard.ZstdError) as error:
        if isinstance(error, EngineError):
            raise
        raise EngineError(f"damaged HDE payload, or another previous version: {error}") from None


def _compressor(size: int, dictionary: bytes) -> zstandard.ZstdCompressor:
    window_log = max(10, (size + len(dictionary)).bit_length())
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL, source_size=size, dict_size=len(dictionary), window_log=window_log
    )
    return zstandard.ZstdCompressor(dict_data=_raw(dictionary), compression_params=parameters)


def _decompressor(dictionary: bytes) -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor(dict_data=_raw(dictionary), max_window_size=_MAX_WINDOW_BYTES)


def _raw(dictionary: bytes) -> zstandard.ZstdCompressionDict | None:
    if len(dictionary) < 8:  # libzstd ignores shorter dictionaries
        return None
    return zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _runs(breaks: NDArray[np.bool_], values: NDArray[np.int32]) -> list[tuple[int, int]]:
    """Half-open runs of ``values`` between ``breaks`` (one shorter than values)."""
    if not len(values):
        return []
    edges = np.concatenate(([0], np.flatnonzero(breaks) + 1, [len(values)]))
    return list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))


def _frame_plan(size: int, references: NDArray[np.int32], previous: bytes) -> list[tuple[list[tuple[int, int]], bytes]]:
    """How the blocks without a reference are cut into frames: byte ranges of the payload, and the frame's dictionary.

    A dictionary is the previous version around the frame's ranges: as far to either side as a range is long, at least
    one block and at most 128 KiB. Derived from the references alone, so the receiver finds the same.
    """
    literal = references == 0
    ranges: list[tuple[int, int]] = []
    for start, stop in _runs(np.diff(literal), references):
        if literal[start]:
            low, high = start * BLOCK_BYTES, min(stop * BLOCK_BYTES, size)
            ranges.extend((at, min(at + FRAME_BYTES, high)) for at in range(low, high, FRAME_BYTES))
    frames: list[list[tuple[int, int]]] = []
    filled = FRAME_BYTES
    for start, stop in ranges:
        if filled + stop - start > FRAME_BYTES:
            frames.append([])
            filled = 0
        frames[-1].append((start, stop))
        filled += stop - start
    return [(frame, _dictionary(frame, previous)) for frame in frames]


def _dictionary(ranges: Sequence[tuple[int, int]], previous: bytes) -> bytes:
    parts: list[bytes] = []
    done = 0
    for start, stop in ranges:
        reach = min(max(stop - start, BLOCK_BYTES), _REACH_BYTES)
        low, high = max(done, start - reach), min(len(previous), stop + reach)
        if low < high:
            parts.append(previous[low:high])
            done = high
    return b"".join(parts)


def _literal_frames(payload: bytes, references: NDArray[np.int32], previous: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (b"".join(payload[start:stop] for start, stop in ranges), dictionary)
        for ranges, dictionary in _frame_plan(len(payload), references, previous)
    ]


def _pack_references(references: NDArray[np.int32]) -> bytes:
    """References as steps between neighbours: runs become constant, which zstd all but removes. None: no bytes."""
    if not references.any():
        return b""
    return zstd_compress(np.diff(references, prepend=np.int32(0)).astype("<i4").tobytes())


def _unpack_references(packed: bytes, blocks: int) -> NDArray[np.int32]:
    if not packed:
        return np.zeros(blocks, np.int32)
    steps = np.frombuffer(zstd_decompress(packed), "<i4")
    if len(steps) != blocks:
        raise EngineError(f"damaged HDE payload: {len(steps)} block references for {blocks} blocks")
    return np.cumsum(steps, dtype=np.int32)


# -- AMST --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AmstResult:
    """``chunk_ns`` is each chunk's CPU time, read inside the thread that did the work."""

    data: bytes
    chunk_ns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AmstCodec:
    """What AMST does to one chunk: ``pack`` gives back the chunk where it saves nothing; ``unpack`` takes its size."""

    name: str
    pack: Callable[[memoryview], bytes | memoryview]
    unpack: Callable[[memoryview, int], bytes]


def _pack_lz4(chunk: memoryview) -> bytes | memoryview:
    """lz4, or the chunk itself where lz4 saves nothing."""
    packed: bytes = lz4.block.compress(chunk, store_size=False)
    return packed if len(packed) < len(chunk) else chunk


def _unpack_lz4(data: memoryview, raw_bytes: int) -> bytes:
    return bytes(lz4.block.decompress(data, uncompressed_size=raw_bytes))


class _Level1(threading.local):
    """Contexts are kept between calls, one pair a thread: they cannot be shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=1)
        self.decompressor = zstandard.ZstdDecompressor()


_level1 = _Level1()


def _pack_zstd1(chunk: memoryview) -> bytes | memoryview:
    packed = _level1.compressor.compress(chunk)
    return packed if len(packed) < len(chunk) else chunk


def _unpack_zstd1(data: memoryview, raw_bytes: int) -> bytes:
    part = _level1.decompressor.decompress(data)
    if len(part) != raw_bytes:
        raise EngineError(f"damaged AMST payload: a chunk of {len(part)} bytes in place of {raw_bytes}")
    return part


LZ4 = AmstCodec("amst", _pack_lz4, _unpack_lz4)
ZSTD1 = AmstCodec("amst1", _pack_zstd1, _unpack_zstd1)


def amst_compress(payload: bytes, streams: int = 1, codec: AmstCodec = LZ4) -> AmstResult:
    """Pack 256 KiB chunks, chunk i on thread i modulo ``streams``. The bytes do not depend on ``streams``."""
    view = memoryview(payload)
    chunks = [view[at : at + CHUNK_BYTES] for at in range(0, len(payload), CHUNK_BYTES)]
    packed, chunk_ns = _on_threads(codec.pack, chunks, streams)
    sizes = [
        len(data) | (_RAW_FLAG if len(data) == len(chunk) else 0) for chunk, data in zip(chunks, packed, strict=True)
    ]
    header = struct.pack(f"<I{len(sizes)}I", len(payload), *sizes)
    return AmstResult(b"".join((header, *packed)), chunk_ns)


def amst_decompress(data: bytes, streams: int = 1, codec: AmstCodec = LZ4) -> AmstResult:
    """Inverse of ``amst_compress``; ``data`` of the result is the payload. Raises ``EngineError`` on damage."""

    def unpack(job: tuple[memoryview, int]) -> bytes | memoryview:
        part, raw_bytes = job
        return part if len(part) == raw_bytes else codec.unpack(part, raw_bytes)

    try:
        (size,) = struct.unpack_from("<I", data)
        count = -(-size // CHUNK_BYTES)
        sizes = struct.unpack_from(f"<{count}I", data, 4)
        at, jobs = 4 + 4 * count, []
        for number, field_ in enumerate(sizes):
            length = field_ & ~_RAW_FLAG
            raw_bytes = min(CHUNK_BYTES, size - number * CHUNK_BYTES)
            jobs.append((memoryview(data)[at : at + length], raw_bytes))
            at += length
        if at != len(data):
            raise EngineError(f"damaged AMST payload: {len(data)} bytes where its chunks need {at}")
        parts, chunk_ns = _on_threads(unpack, jobs, streams)
        return AmstResult(b"".join(parts), chunk_ns)
    except (struct.error, lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise EngineError(f"damaged AMST payload: {error}") from None


Job = TypeVar("Job")


def _on_threads(
    work: Callable[[Job], bytes | memoryview], jobs: Sequence[Job], streams: int
) -> tuple[list[bytes | memoryview], tuple[int, ...]]:
    """Deal ``jobs`` to ``streams`` threads; results in order, and each job's CPU time inside its thread, in ns."""
    if streams < 1:
        raise ValueError(f"{streams} streams: at least one is needed")

    def run(stream: int) -> list[tuple[bytes | memoryview, int]]:
        done = []
        for job in jobs[stream::streams]:
            began_ns = time.thread_time_ns()
            result = work(job)
            done.append((result, time.thread_time_ns() - began_ns))
        return done

    if streams == 1:
        per_stream = [run(0)]
    else:
        with ThreadPoolExecutor(streams) as pool:
            per_stream = list(pool.map(run, range(streams)))
    flat = [per_stream[number % streams][number // streams] for number in range(len(jobs))]
    return [result for result, _ in flat], tuple(ns for _, ns in flat)


def makespan(chunk_times: NDArray[np.float64], streams: int) -> NDArray[np.float64]:
    """Busy time of the busiest thread when chunk i runs on thread i modulo ``streams``.

    ``chunk_times`` has shape (runs, chunks); the result has shape (runs,), in the same unit.
    """
    runs, chunks = chunk_times.shape
    padded = np.zeros((runs, -(-max(1, chunks) // streams) * streams))
    padded[:, :chunks] = chunk_times
    return np.asarray(padded.reshape(runs, -1, streams).sum(axis=1).max(axis=1))
