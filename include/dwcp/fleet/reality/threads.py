"""AMST's plan of threads against the cores there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from dwcp.fleet import engines
from dwcp.fleet.engines import STREAM_COUNTS
from dwcp.fleet.reality.found import Plan, Sent
from dwcp.fleet.reality.payloads import usable_cores


def thread_plans(sent: Sequence[Sent], runs: int) -> Iterator[Plan]:
    """Wall time of AMST on 1, 2, ... real threads over the makespan that chunk times of one thread predict.

    Payloads of at least as many chunks as threads; at most as many threads as this process has cores. The least of
    ``runs`` on both sides.
    """
    for streams in (count for count in STREAM_COUNTS if count <= usable_cores()):
        ratios = []
        for one in sent:
            if len(one.payload) <= (streams - 1) * engines.CHUNK_BYTES or len(one.payload) < engines.CHUNK_BYTES:
                continue
            packed = engines.amst_compress(one.payload)
            back = engines.amst_decompress(packed.data)
            ratios.append(
                [
                    _wall_over_plan(lambda n, p=one.payload: engines.amst_compress(p, n), streams, runs),  # type: ignore[misc]
                    _wall_over_plan(lambda n, d=packed.data: engines.amst_decompress(d, n), streams, runs),  # type: ignore[misc]
                ]
            )
            assert back.data == one.payload  # noqa: S101
        if ratios:
            compression, decompression = np.array(ratios).T
            yield Plan(streams, compression, decompression)


def _wall_over_plan(work: Callable[[int], engines.AmstResult], streams: int, runs: int) -> float:
    chunks = np.array([work(1).chunk_ns for _ in range(runs)], dtype=np.float64)
    walls = []
    for _ in range(runs):
        began_ns = time.perf_counter_ns()
        work(streams)
        walls.append(time.perf_counter_ns() - began_ns)
    return min(walls) / float(engines.makespan(chunks, streams).min())
