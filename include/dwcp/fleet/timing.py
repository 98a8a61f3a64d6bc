"""CPU times of the engines on one payload, run by run, in the thread that does the work; every round trip is checked.

All ``time_*`` take a payload, the version that the peer holds (None: none) and the number of runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.features.probe import block_hashes, probe, zero_share
from dwcp.fleet import engines
from dwcp.fleet.engines import STREAM_COUNTS, AmstCodec, Base

_SHORTEST_RUN_NS = 100_000
_MOST_REPEATS = 200
PROBE_LOOKS = 3
HASH_RUNS = 3
ZSTD1_RUNS = 2


@dataclass(frozen=True)
class Timed:
    """``facts`` are single figures by library column; ``runs`` are the ms of every run, by column without its set."""

    facts: dict[str, float]
    runs: dict[str, list[float]]


def join(parts: Sequence[Timed]) -> Timed:
    """All of ``parts`` as one."""
    return Timed(
        {key: value for part in parts for key, value in part.facts.items()},
        {key: value for part in parts for key, value in part.runs.items()},
    )


def time_zstd(payload: bytes, _base: Base | None, runs: int) -> Timed:
    """The baseline."""
    compress, data = _run_times(lambda: engines.zstd_compress(payload), runs)
    decompress, back = _run_times(lambda: engines.zstd_decompress(data), runs)
    _check("zstd", payload, back)
    return Timed({"zstd_bytes": len(data)}, {"zstd_ms": compress, "zstd_back_ms": decompress})


def time_hde(payload: bytes, base: Base | None, runs: int) -> Timed:
    """HDE against ``base``, whose block index a node keeps from when it sent that version."""
    if base is not None:
        _ = base.positions
    compress, hde = _run_times(lambda: engines.hde_compress(payload, base), runs)
    decompress, back = _run_times(lambda: engines.hde_decompress(hde.data, base), runs)
    _check("hde", payload, back)
    return Timed(
        {"hde_bytes": len(hde.data), "hde_hit_rate": hde.hit_rate}, {"hde_ms": compress, "hde_back_ms": decompress}
    )


def time_amst(payload: bytes, _base: Base | None, runs: int) -> Timed:
    """AMST, its chunks dealt to every number of streams."""
    data_bytes, times = _amst_times(payload, engines.LZ4, runs)
    return Timed({"amst_bytes": data_bytes}, {f"amst_{name}": ms.tolist() for name, ms in times.items()})


def time_amst1(payload: bytes, _base: Base | None, _runs: int) -> Timed:
    """AMST with zstd level 1, shown beside AMST and never a label: the least of ``ZSTD1_RUNS`` runs."""
    data_bytes, times = _amst_times(payload, engines.ZSTD1, ZSTD1_RUNS)
    return Timed({"amst1_bytes": data_bytes} | {f"amst1_{name}": float(ms.min()) for name, ms in times.items()}, {})


def look_before(payload: bytes, base: Base | None, _runs: int) -> Timed:
    """What a node may know before it chooses, and what that costs: the probe, zero blocks, block hashes."""
    known = frozenset(base.hashes) if base is not None else frozenset()
    looks = [probe(payload, known) for _ in range(PROBE_LOOKS)]
    hash_ms, _ = _run_times(lambda: block_hashes(payload), HASH_RUNS)
    facts = {
        "entropy": looks[0].entropy,
        "compressibility_score": looks[0].compressibility_score,
        "delta_potential": looks[0].delta_potential,
        "zero_share": zero_share(payload),
        "probe_zstd_share": looks[0].zstd_share,
        "probe_zstd_ms_per_mb": min(look.zstd_ms_per_mb for look in looks),
        "probe_lz4_ms_per_mb": min(look.lz4_ms_per_mb for look in looks),
        "probe_time_ms": min(look.time_ms for look in looks),
        "hash_ms": min(hash_ms),
    }
    return Timed(facts, {})


def _check(engine: str, payload: bytes, back: bytes) -> None:
    if back != payload:
        raise engines.EngineError(f"{engine} did not give back what it was given ({len(payload)} bytes)")


def _run_times(work: Callable[[], Any], runs: int) -> tuple[list[float], Any]:
    """CPU time of each run, in ms, and the result. Calls under 0.1 ms are timed in groups: the clock costs 0.5 µs."""
    began = time.thread_time_ns()
    result = work()
    once = max(1, time.thread_time_ns() - began)
    repeats = _repeats(once)
    times = [once / 1e6] if repeats == 1 else []
    while len(times) < runs:
        began = time.thread_time_ns()
        for _ in range(repeats):
            work()
        times.append((time.thread_time_ns() - began) / repeats / 1e6)
    return times, result


def _repeats(once_ns: int) -> int:
    return max(1, min(_MOST_REPEATS, round(_SHORTEST_RUN_NS / max(1, once_ns))))


def _amst_times(payload: bytes, codec: AmstCodec, runs: int) -> tuple[int, dict[str, NDArray[np.float64]]]:
    """Compressed bytes, and ms of each run: CPU of all chunks, and the busiest thread's for each number of streams."""
    packed, chunk_ns = _chunk_times(lambda: engines.amst_compress(payload, codec=codec), runs)
    back, back_ns = _chunk_times(lambda: engines.amst_decompress(packed.data, codec=codec), runs)
    _check(codec.name, payload, back.data)
    times = {"cpu_ms": chunk_ns.sum(axis=1), "back_cpu_ms": back_ns.sum(axis=1)}
    for streams in STREAM_COUNTS:
        times[f"{streams}_ms"] = engines.makespan(chunk_ns, streams)
        times[f"{streams}_back_ms"] = engines.makespan(back_ns, streams)
    return len(packed.data), {name: ns / 1e6 for name, ns in times.items()}


def _chunk_times(work: Callable[[], engines.AmstResult], runs: int) -> tuple[engines.AmstResult, NDArray[np.float64]]:
    """CPU time of each chunk, shape (runs, chunks), in ns; a run of a small payload is the mean of several."""
    result = work()
    repeats = _repeats(sum(result.chunk_ns))
    times = [result.chunk_ns, *(work().chunk_ns for _ in range(runs * repeats - 1))]
    return result, np.array(times, dtype=np.float64).reshape(runs, repeats, -1).mean(axis=1)
