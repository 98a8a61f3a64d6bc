"""What measuring each algorithm on a transfer gives in the emulated fleet, whether or not it is measured there.

Measured times of the library are scaled by the node's speed. A fully measured transfer finds one more measurement like
the library's two, and that is all the noise its label has. A transfer of which only the executed choice was measured
ran beside the node's other work: its times carry load and the scatter of a single run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.fleet.engines import STREAM_COUNTS
from dwcp.fleet.library import TIMES
from dwcp.fleet.world import Transfers, World
from dwcp.units import throughput_mbps

_TIMED = ("hde", "hde_back", "amst", "amst_back", "zstd", "zstd_back")
"""What scatters on its own; AMST's times with any number of streams scatter together."""
_LOADED_SLOWDOWN = 0.3
_SINGLE_RUN_SIGMA = 0.05


def beside_other_work(rng: np.random.Generator, transfers: Transfers) -> NDArray[np.float64]:
    """A single run's time over the least of many on an idle core."""
    scatter = np.exp(rng.normal(0, _SINGLE_RUN_SIGMA, len(transfers.profile)))
    return np.asarray((1 + _LOADED_SLOWDOWN * transfers.cpu_usage) * scatter)


def effective_mbps(transfers: Transfers) -> NDArray[np.float64]:
    """What the link really carried."""
    return transfers.bandwidth_mbps * (1 - transfers.loss) * transfers.realised_share


class Laboratory:
    """Measures transfers anew, from the library's two measurements of their payloads.

    The two give the middle of a payload's times, and how far repeats of them scatter. Were one of the two logged as it
    is, an object's history would hold the very figures of its next label.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        column = world.profiles.column
        pairs = {name: (column(f"{name}_a"), column(f"{name}_b")) for name in TIMES}
        self._middle = {name: np.sqrt(one * other) for name, (one, other) in pairs.items()}
        self._spread = {name: np.abs(np.log(one / other)) / np.sqrt(2) for name, (one, other) in pairs.items()}
        for back in ("", "_back"):
            for known in (self._middle, self._spread):
                known[f"amst{back}_ms"] = np.stack([known[f"amst_{streams}{back}_ms"] for streams in STREAM_COUNTS])

    def measure(self, transfers: Transfers) -> dict[str, NDArray[Any]]:
        """The outcome columns of all algorithms, for a week's transfers; arrays of shape (rows,)."""
        world, profile = self._world, transfers.profile
        profiles, rows = world.profiles, len(profile)
        size = profiles.column("size_bytes")[profile]
        rng = np.random.default_rng([world.seed, int(transfers.number[0])])
        slowdown = beside_other_work(rng, transfers)
        factor = np.where(transfers.fully_measured, 1.0, slowdown) / world.nodes.speed[transfers.node]
        scatter = {engine: rng.normal(size=rows) for engine in _TIMED}
        planned = (np.searchsorted(STREAM_COUNTS, transfers.streams), profile)

        def time_ms(name: str) -> NDArray[np.float64]:
            engine = f"{name.split('_')[0]}{'_back' if '_back' in name else ''}"
            middle, spread = self._middle[name], self._spread[name]
            at = planned if middle.ndim == 2 else profile
            drawn: NDArray[np.float64] = middle[at] * np.exp(scatter[engine] * spread[at]) * factor
            return drawn

        sizes = {name: profiles.column(f"{name}_bytes")[profile] for name in ("hde", "amst", "zstd")}
        hde_ms = time_ms("hde_ms")
        return {
            "hde_compression_ratio": size / sizes["hde"],
            "hde_delta_hit_rate": profiles.column("hde_hit_rate")[profile],
            "hde_compression_time_ms": hde_ms,
            "hde_compressed_size_bytes": sizes["hde"],
            "hde_throughput_mbps": throughput_mbps(size.astype(np.float64), hde_ms),
            "hde_decompression_time_ms": time_ms("hde_back_ms"),
            "amst_streams": transfers.streams,
            "amst_transfer_rate_mbps": effective_mbps(transfers),
            "amst_compression_time_ms": time_ms("amst_ms"),
            "amst_compressed_size_bytes": sizes["amst"],
            "amst_decompression_time_ms": time_ms("amst_back_ms"),
            "amst_cpu_time_ms": time_ms("amst_cpu_ms"),
            "amst_decompression_cpu_ms": time_ms("amst_back_cpu_ms"),
            "baseline_compression_ratio": size / sizes["zstd"],
            "baseline_compression_time_ms": time_ms("zstd_ms"),
            "baseline_compressed_size_bytes": sizes["zstd"],
            "baseline_decompression_time_ms": time_ms("zstd_back_ms"),
        }
