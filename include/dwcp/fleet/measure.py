"""Run every engine on every version of every object and record what it took: the profile library.

Times are CPU time read inside the thread that does the work, the minimum of at least five runs. Everything is measured
twice, independently (sets ``a`` and ``b``): the second set is the labels' ceiling. Work is kept after each object, so
an interrupted recording goes on where it stopped.

The machine is watched: other processes' CPU, the hypervisor's steal, and a reference kernel of fixed work. A virtual
core often has two speeds, as its sibling is idle or not, and changes between them every few seconds; steal does not
show it. So every measurement waits for a moment when the kernel runs at its best speed, and is taken again if that
moment had passed by its end. What was seen, and how many payloads were measured at a slower speed, is in the manifest.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lz4
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from dwcp.features.probe import PROBE_BLOCKS, probe
from dwcp.fleet import engines
from dwcp.fleet.engines import STREAM_COUNTS, Base
from dwcp.fleet.library import LIBRARY_SCHEMA, MANIFEST_NAME, PROFILE_NAME, Profiles, label_repeatability, ratio_summary
from dwcp.fleet.payloads import PayloadObject
from dwcp.store import write_atomically

_log = logging.getLogger(__name__)

SETS = ("a", "b")
_SHORTEST_RUN_NS = 100_000
_BUSY_CPUS = 0.25
_BUSY_STEAL = 0.01
_SLOW = 1.10
"""A moment is slow when the reference kernel takes this many times its least."""
_SLOW_SHARE = 0.05
"""More payloads than this measured in slow moments make a library noisy."""
WARM_UP_S = 20.0
PATIENCE_S = 0.5
"""How long one measurement waits for a fast moment, all its tries together."""
_TRIES = 2
_REFERENCE_RUNS = 3
_REPEAT_OBJECTS = 12


class BusyMachineError(RuntimeError):
    """Other work on this machine would spoil the times."""


def measure(
    out: Path,
    objects: Iterable[PayloadObject],
    *,
    runs: int = 5,
    command: str = "",
    allow_busy: bool = False,
    mix_digest: str = "",
) -> dict[str, Any]:
    """Measure all versions of ``objects`` and write profiles and manifest to ``out``; returns the manifest.

    Progress goes to the log. Raises ``BusyMachineError`` if the machine is not quiet at the start, unless
    ``allow_busy`` (the manifest then carries the mark), and if another recording into ``out`` is under way. Raises
    ``ValueError`` on fewer than one run or no object.
    """
    objects = list(objects)
    if runs < 1 or not objects:
        raise ValueError("at least one run and one object are needed")
    busy = others_cpu()
    if busy > _BUSY_CPUS and not allow_busy:
        raise BusyMachineError(
            f"other processes use {busy:.2f} CPUs: times measured now are worth little (labels agree only 91.5 % with "
            "quiet ones). Wait, or go on with --allow-busy: the library is then marked as noisy."
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyMachineError(f"another recording into {out} is under way: two at once spoil both") from None
        return _record(out, objects, runs, command, mix_digest)


def _record(out: Path, objects: list[PayloadObject], runs: int, command: str, mix_digest: str) -> dict[str, Any]:
    # Named after what they were made with, so that an interrupted recording never goes on under other settings.
    settings = json.dumps([runs, mix_digest, codec_versions(), [item.object_id for item in objects]])
    parts = out.with_name(f"{out.name}.parts-{hashlib.sha256(settings.encode()).hexdigest()[:8]}")
    parts.mkdir(exist_ok=True)
    watch = _Watch()
    watch.warm_up(WARM_UP_S)
    began = time.monotonic()
    kept = 0
    for number, item in enumerate(objects):
        part = parts / f"{item.object_id}.parquet"
        if part.exists():
            kept += 1
        else:
            rows = list(_measure_object(item, runs, watch))
            buffer = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_pylist(rows, LIBRARY_SCHEMA), buffer)
            write_atomically(part, buffer.getvalue().to_pybytes())
        if (number + 1) % 10 == 0 or number + 1 == len(objects):
            spent = time.monotonic() - began
            left = spent / max(1, number + 1 - kept) * (len(objects) - number - 1)
            _log.info("measured %d of %d objects, about %.0f s left; %s", number + 1, len(objects), left, watch.line())
    again = _repeat_sample(objects, parts, runs, watch)
    table = pa.concat_tables(pq.read_table(parts / f"{item.object_id}.parquet") for item in objects)
    out_path = out / PROFILE_NAME
    pq.write_table(table, out_path, compression="zstd", compression_level=15)
    profiles = Profiles(table)
    watch.payload_ratios = profiles.column("reference_ratio").tolist()  # those of an interrupted recording too
    manifest = {
        "sha256": hashlib.sha256(out_path.read_bytes()).hexdigest(),
        "command": command,
        "objects": len(objects),
        "payloads": table.num_rows,
        "payload_bytes": int(profiles.column("size_bytes").sum()),
        "runs": runs,
        "mix_digest": mix_digest,
        "codecs": codec_versions(),
        "python": platform.python_version(),
        "cpu": _cpu_name(),
        "resumed_objects": kept,
        "quiet": watch.report(),
        "ratios": ratio_summary(profiles),
        "repeatability": {"second_set": label_repeatability(profiles, "a", profiles, "b"), "end_sample": again},
    }
    write_atomically(out / MANIFEST_NAME, (json.dumps(manifest, indent=2) + "\n").encode())
    shutil.rmtree(parts)
    if manifest["quiet"]["noisy"]:
        _log.warning("the machine was not quiet (%s): record again before times matter", watch.line())
    return manifest


def codec_versions() -> dict[str, str]:
    """Versions of the codec libraries that are loaded."""
    return {"libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)), "liblz4": lz4.library_version_string()}


def _measure_object(item: PayloadObject, runs: int, watch: _Watch) -> Iterable[dict[str, Any]]:
    base: Base | None = None
    for version, payload in enumerate(item.versions()):
        if not payload:
            raise ValueError(f"version {version} of {item.object_id} is empty: nothing to transfer")
        row: dict[str, Any] = {
            "object_id": item.object_id,
            "data_type": item.data_type,
            "kind": item.kind,
            "version": version,
            "size_bytes": len(payload),
            "payload_digest": hashlib.blake2b(payload, digest_size=16).hexdigest(),
        }
        known = frozenset(base.hashes) if base is not None else frozenset()
        looks = [probe(payload, known, PROBE_BLOCKS) for _ in range(2)]
        row |= {
            "entropy": looks[0].entropy,
            "compressibility_score": looks[0].compressibility_score,
            "delta_potential": looks[0].delta_potential,
            "probe_time_ms": min(look.time_ms for look in looks),
        }
        speeds = []
        for name in SETS:
            found, speed = _in_a_fast_moment(payload, base, runs, watch)
            speeds.append(speed)
            row |= {
                key if key.endswith(("_bytes", "_rate")) else f"{key}_{name}": value for key, value in found.items()
            }
        row["reference_ratio"] = max(speeds)
        watch.payload_ratios.append(max(speeds))
        yield row
        base = Base.of(payload)


def _in_a_fast_moment(payload: bytes, base: Base | None, runs: int, watch: _Watch) -> tuple[dict[str, Any], float]:
    """One measurement, and the machine's speed at its slower end (1 is the best). Tries share one patience."""
    found: dict[str, Any] = {}
    slowest = float("inf")
    deadline = time.monotonic() + PATIENCE_S
    for _ in range(_TRIES):
        before = watch.settle(deadline)
        one = measure_payload(payload, base, runs)
        # Sizes do not change; of times the least counts, as within one try.
        found = {key: min(value, found[key]) for key, value in one.items()} if found else one
        slowest = min(slowest, max(before, watch.look()))
        if slowest <= _SLOW or time.monotonic() > deadline:
            break
    return found, slowest


def measure_payload(payload: bytes, base: Base | None, runs: int) -> dict[str, Any]:
    """One independent measurement of all engines: sizes in bytes, minimum CPU times in ms. Checks every round trip."""
    if base is not None:
        _ = base.positions  # a node keeps this index from when it sent the version
    zstd_ns, zstd_data = _minimum_ns(lambda: engines.zstd_compress(payload), runs)
    zstd_back_ns, zstd_back = _minimum_ns(lambda: engines.zstd_decompress(zstd_data), runs)
    hde_ns, hde = _minimum_ns(lambda: engines.hde_compress(payload, base), runs)
    hde_back_ns, hde_back = _minimum_ns(lambda: engines.hde_decompress(hde.data, base), runs)
    amst_ns, amst = _chunk_times(lambda: engines.amst_compress(payload), runs)
    amst_back_ns, amst_back = _chunk_times(lambda: engines.amst_decompress(amst.data), runs)
    for engine, back in (("zstd", zstd_back), ("hde", hde_back), ("amst", amst_back.data)):
        if back != payload:
            raise engines.EngineError(f"{engine} did not give back what it was given ({len(payload)} bytes)")
    result = {
        "zstd_bytes": len(zstd_data),
        "zstd_ms": zstd_ns / 1e6,
        "zstd_back_ms": zstd_back_ns / 1e6,
        "hde_bytes": len(hde.data),
        "hde_hit_rate": hde.hit_rate,
        "hde_ms": hde_ns / 1e6,
        "hde_back_ms": hde_back_ns / 1e6,
        "amst_bytes": len(amst.data),
        "amst_cpu_ms": float(amst_ns.sum(axis=1).min()) / 1e6,
        "amst_back_cpu_ms": float(amst_back_ns.sum(axis=1).min()) / 1e6,
    }
    for streams in STREAM_COUNTS:
        result[f"amst_{streams}_ms"] = float(engines.makespan(amst_ns, streams).min()) / 1e6
        result[f"amst_{streams}_back_ms"] = float(engines.makespan(amst_back_ns, streams).min()) / 1e6
    return result


def _minimum_ns(work: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """Least CPU time of one call, in ns. Calls shorter than 0.1 ms are timed in groups: the clock costs 0.5 µs."""
    began = time.thread_time_ns()
    result = work()
    once = max(1, time.thread_time_ns() - began)
    repeats = max(1, round(_SHORTEST_RUN_NS / once))
    best = float(once) if repeats == 1 else float("inf")
    for _ in range(runs - (repeats == 1)):
        began = time.thread_time_ns()
        for _ in range(repeats):
            work()
        best = min(best, (time.thread_time_ns() - began) / repeats)
    return best, result


def _chunk_times(work: Callable[[], engines.AmstResult], runs: int) -> tuple[np.ndarray[Any, Any], engines.AmstResult]:
    """CPU time of each chunk, shape (runs, chunks), in ns; small payloads take more runs, as their times are short."""
    result = work()
    repeats = max(1, min(20, round(_SHORTEST_RUN_NS / max(1, sum(result.chunk_ns)))))
    times = [result.chunk_ns, *(work().chunk_ns for _ in range(runs * repeats - 1))]
    return np.array(times, dtype=np.float64), result


def _repeat_sample(objects: list[PayloadObject], parts: Path, runs: int, watch: _Watch) -> dict[str, Any]:
    """Measure some objects once more at the end and compare: what the recording is worth."""
    chosen = objects[:: max(1, len(objects) // _REPEAT_OBJECTS)][:_REPEAT_OBJECTS]
    _log.info("repeating %d objects", len(chosen))
    first = pa.concat_tables(pq.read_table(parts / f"{item.object_id}.parquet") for item in chosen)
    rows = [row for item in chosen for row in _measure_object(item, runs, watch)]
    return label_repeatability(Profiles(first), "a", Profiles(pa.Table.from_pylist(rows, LIBRARY_SCHEMA)), "a")


# -- how quiet the machine is ------------------------------------------------------------------------------------------


def others_cpu(seconds: float = 1.0) -> float:
    """CPUs that other processes keep busy, hypervisor's steal included, over the next ``seconds``."""
    busy, steal = _cpu_ticks()
    own, began = time.process_time(), time.monotonic()
    time.sleep(seconds)
    busy_after, steal_after = _cpu_ticks()
    spent = (busy_after - busy + steal_after - steal) / os.sysconf("SC_CLK_TCK") - (time.process_time() - own)
    return max(0.0, spent / (time.monotonic() - began))


def _cpu_ticks() -> tuple[int, int]:
    fields = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _, _, irq, soft, steal = fields
    return user + nice + system + irq + soft, steal


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


@dataclass
class _Watch:
    """A reference kernel of fixed work, timed around every measurement, and the machine's own counters."""

    best_ms: float = float("inf")
    payload_ratios: list[float] = field(default_factory=list)
    waited_s: float = 0.0
    began: float = field(default_factory=time.monotonic)
    own: os.times_result = field(default_factory=os.times)
    ticks: tuple[int, int] = field(default_factory=_cpu_ticks)
    text: bytes = field(default_factory=lambda: b"".join(b"%d transfers, " % (n * n % 9973) for n in range(40_000)))

    def look(self) -> float:
        """Time the kernel; its ratio to the fastest so far, 1 being the best.

        Timed as engines are: a single run would tell of caches that making the payload left cold, not of the machine.
        """
        best_ns, _ = _minimum_ns(lambda: engines.zstd_compress(self.text), _REFERENCE_RUNS)
        self.best_ms = min(self.best_ms, best_ns / 1e6)
        return best_ns / 1e6 / self.best_ms

    def warm_up(self, seconds: float) -> None:
        """Look for a while, so that the best speed is known before the first measurement."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            time.sleep(0.05)

    def settle(self, deadline: float) -> float:
        """Wait for a fast moment, at most until ``deadline`` (monotonic); the last look."""
        began = time.monotonic()
        ratio = self.look()
        while ratio > _SLOW and time.monotonic() < deadline:
            time.sleep(0.1)
            ratio = self.look()
        self.waited_s += time.monotonic() - began
        return ratio

    def report(self) -> dict[str, Any]:
        """CPUs that others used, share of steal, share of payloads measured in slow moments, and the verdict."""
        busy, steal = _cpu_ticks()
        spent = time.monotonic() - self.began
        now = os.times()
        own = sum(now[:4]) - sum(self.own[:4])
        ticks = os.sysconf("SC_CLK_TCK")
        others = max(0.0, ((busy - self.ticks[0]) / ticks - own) / spent)
        stolen = (steal - self.ticks[1]) / ticks / spent / (os.cpu_count() or 1)
        slow = float(np.mean(np.array(self.payload_ratios) > _SLOW)) if self.payload_ratios else 0.0
        noisy = others > _BUSY_CPUS or stolen > _BUSY_STEAL or slow > _SLOW_SHARE
        return {
            "noisy": bool(noisy),
            "others_cpus": round(others, 3),
            "steal_share": round(stolen, 4),
            "slow_share": round(slow, 4),
            "waited_s": round(self.waited_s, 1),
            "load_average": round(os.getloadavg()[0], 2),
            "seconds": round(spent, 1),
        }

    def line(self) -> str:
        """The report in words."""
        seen = self.report()
        return (
            f"others use {seen['others_cpus']:.2f} CPUs, steal {seen['steal_share']:.1%}, "
            f"{seen['slow_share']:.1%} of payloads in slow moments, {seen['waited_s']:.0f} s waited for fast ones"
        )
