"""How quiet one core is: what others do on it, and whether it runs at its best speed.

A virtual core often has two speeds, as its sibling on the host is idle or not, and stays in one for seconds to
minutes; steal does not show it, and other cores need not change with it. So a recording is pinned to one core, and a
reference kernel of fixed work tells its speed. Looks spin and never sleep: just after a sleep, clock and caches are
cold and any core reads slow.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

BUSY_SHARE = 0.25
"""Others that use more of the core than this make a recording noisy."""
BUSY_STEAL = 0.01
SLOW = 1.10
"""A moment is slow when the reference kernel takes this many times its least."""
SLOW_SHARE = 0.05
"""More payloads than this measured in slow moments make a library noisy."""
_KERNEL_RUNS = 3
_FRESH_S = 0.02
"""A look this young still tells of now."""
_WAKE_S = 0.02
"""How long a core that slept is kept busy before its speed is judged."""


class BusyMachineError(RuntimeError):
    """Other work on the recording's core would spoil the times."""


def busy_shares(seconds: float = 1.0) -> dict[int, float]:
    """Share of each core that this process may use which others keep busy or steal over the next ``seconds``."""
    cores = sorted(os.sched_getaffinity(0))
    before, began = {core: _ticks(core) for core in cores}, time.monotonic()
    time.sleep(seconds)
    per_tick = 1 / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
    return {core: float(sum(np.subtract(_ticks(core), before[core]))) * per_tick for core in cores}


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """All threads of this process on ``core``, and what they start; as before afterwards."""
    before = os.sched_getaffinity(0)
    _pin({core})
    try:
        yield
    finally:
        _pin(before)


def cpu_name() -> str:
    """Model of the processor, as the kernel gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _pin(cores: set[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has ended meanwhile
            os.sched_setaffinity(int(task.name), cores)


def _ticks(core: int) -> tuple[int, int]:
    """Busy ticks and stolen ticks of ``core`` since boot."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _, _, irq, soft, steal = map(int, fields[:8])
            return user + nice + system + irq + soft, steal
    raise ValueError(f"this machine has no core {core}")


@dataclass
class CoreWatch:
    """Watches the core that this process is pinned to; counters run within ``watching`` alone."""

    core: int
    best_ms: float = float("inf")
    waited_s: float = 0.0
    watched_s: float = 0.0
    others_s: float = 0.0
    stolen_s: float = 0.0
    _looked: float = float("-inf")
    _last_ms: float = float("inf")
    _text: bytes = field(default_factory=lambda: b"".join(b"%d transfers, " % (n * n % 9973) for n in range(12_000)))
    _kernel: zstandard.ZstdCompressor = field(default_factory=lambda: zstandard.ZstdCompressor(level=3))

    def look(self) -> float:
        """CPU time of the reference kernel now, in ms: the least of a few runs, as the first finds cold caches.

        A slow finding is looked at once more: an interrupt is no slow core.
        """
        least_ms = self._kernel_ms()
        if self.is_slow(least_ms):
            least_ms = min(least_ms, self._kernel_ms())
        self._looked, self._last_ms = time.monotonic(), least_ms
        self.best_ms = min(self.best_ms, least_ms)
        return least_ms

    def _kernel_ms(self) -> float:
        times_ns = []
        for _ in range(_KERNEL_RUNS):
            began_ns = time.thread_time_ns()
            self._kernel.compress(self._text)
            times_ns.append(time.thread_time_ns() - began_ns)
        return min(times_ns) / 1e6

    def is_slow(self, reference_ms: float) -> bool:
        """Whether the kernel taking ``reference_ms`` means a slow moment, as far as the best speed is known."""
        return reference_ms > SLOW * self.best_ms

    def spin(self, seconds: float = _WAKE_S) -> None:
        """Keep the core busy with looks: to wake it, or to learn its best speed."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()

    def settle(self, patience_s: float) -> float:
        """Wait, looking, for a fast moment, for ``patience_s`` at most; the last look."""
        began = time.monotonic()
        reference_ms = self._last_ms if began - self._looked < _FRESH_S else self.look()
        while self.is_slow(reference_ms) and time.monotonic() - began < patience_s:
            reference_ms = self.look()
        self.waited_s += time.monotonic() - began
        return reference_ms

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count what others use of the core in here, where it matters, not while payloads are made."""
        ticks, own, began = _ticks(self.core), _own_s(), time.monotonic()
        try:
            yield
        finally:
            busy, stolen = np.subtract(_ticks(self.core), ticks) / os.sysconf("SC_CLK_TCK")
            self.others_s += float(busy) - (_own_s() - own)
            self.stolen_s += float(stolen)
            self.watched_s += time.monotonic() - began
            self._looked = float("-inf")

    def report(self, ratios: NDArray[np.float64]) -> dict[str, Any]:
        """What was seen, and the verdict; ``ratios`` are the payloads' reference times over the best."""
        spent = max(self.watched_s, 1e-9)
        others, stolen = max(0.0, self.others_s / spent), self.stolen_s / spent
        slow = ratios > SLOW
        slow_share = float(slow.mean()) if len(slow) else 0.0
        return {
            "noisy": bool(others > BUSY_SHARE or stolen > BUSY_STEAL or slow_share > SLOW_SHARE),
            "core": self.core,
            "cores": os.cpu_count(),
            "watched": "the recording's core alone; other work on other cores was allowed",
            "others_share": round(others, 4),
            "steal_share": round(stolen, 5),
            "slow_payloads": int(slow.sum()),
            "slow_share": round(slow_share, 4),
            "reference_best_ms": round(self.best_ms, 4),
            "waited_s": round(self.waited_s, 1),
            "seconds": round(self.watched_s, 1),
        }


def _own_s() -> float:
    return sum(os.times()[:4])
