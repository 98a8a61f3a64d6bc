"""Run every engine on every version of every object and record what it took: the profile library.

Times are CPU time read inside the thread that does the work, the least of at least five runs. Everything is measured
twice, independently: set ``b`` of an object begins when set ``a`` of all its versions is done, and tells how far the
labels can be trusted. Work is kept after each object, so an interrupted recording goes on where it stopped.

The recording is pinned to one core and watches it (``fleet.quiet``): every measurement waits for a moment when the core
runs at its best speed, and is taken again if that moment had passed by its end; a large payload's engines are each
such a measurement. What stayed slow gets one more pass. What was seen is in the manifest.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lz4
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard
from numpy.typing import NDArray

from dwcp.fleet.engines import Base
from dwcp.fleet.library import (
    FORMAT,
    LIBRARY_SCHEMA,
    MANIFEST_NAME,
    PROFILE_NAME,
    RUNS_SCHEMA,
    SETS,
    TIMES,
    Profiles,
    label_repeatability,
    least_of_runs,
    near_ties,
    ratio_summary,
    repeatability_by_runs,
    table_bytes,
)
from dwcp.fleet.payloads import PayloadObject
from dwcp.fleet.quiet import BUSY_SHARE, BusyMachineError, CoreWatch, busy_shares, cpu_name, pinned
from dwcp.fleet.timing import Timed, join, look_before, time_amst, time_amst1, time_hde, time_zstd
from dwcp.store import write_atomically

__all__ = ["BusyMachineError", "codec_versions", "measure"]

_log = logging.getLogger(__name__)

WARM_UP_S = 20.0
PATIENCE_S = 6.0
"""How long one measurement waits for a fast moment, all its tries together."""
_OBJECT_PATIENCE_S = 30.0
_LEAST_PATIENCE_S = 60.0
"""All waiting together may take this long, and beyond it as long as half of the time spent on the core."""
_TRIES = 3
_LARGE_BYTES = 1 << 20
"""Payloads from here on have each engine measured in a fast moment of its own."""
_REPEAT_OBJECTS = 12
_PROGRESS_S = 10.0

_Step = Callable[[bytes, Base | None, int], Timed]
_ENGINES: tuple[_Step, ...] = (time_zstd, time_hde, time_amst)
_ONCE: tuple[_Step, ...] = (look_before, time_amst1)


def measure(
    out: Path,
    objects: Iterable[PayloadObject],
    *,
    runs: int = 5,
    core: int | None = None,
    command: str = "",
    allow_busy: bool = False,
    mix_digest: str = "",
) -> dict[str, Any]:
    """Measure all versions of ``objects`` on ``core`` (None: the quietest now) and write the library to ``out``.

    Returns the manifest; progress goes to the log. Raises ``BusyMachineError`` if others use the core at the start,
    unless ``allow_busy`` (the manifest then carries the mark), and if another recording into ``out`` is under way.
    Raises ``ValueError`` on fewer than one run, no object, two of one name, or a core that this process may not use.
    """
    objects = list(objects)
    if runs < 1 or not objects:
        raise ValueError("at least one run and one object are needed")
    if len({item.object_id for item in objects}) < len(objects):
        raise ValueError("two objects have one name: their measurements could not be told apart")
    shares = busy_shares()
    if core is None:
        core = min(shares, key=lambda one: shares[one])
    if core not in shares:
        raise ValueError(f"core {core} cannot be used: this process may run on {', '.join(map(str, shares))}")
    if shares[core] > BUSY_SHARE and not allow_busy:
        raise BusyMachineError(
            f"others use {shares[core]:.0%} of core {core}: times measured now are worth little (labels agree only "
            "91.5 % with quiet ones). Wait, name another core, or go on with --allow-busy: the library is then marked."
        )
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyMachineError(f"another recording into {out} is under way: two at once spoil both") from None
        with pinned(core):
            return _record(out, objects, runs, CoreWatch(core), command, mix_digest)


def codec_versions() -> dict[str, str]:
    """Versions of the codec libraries that are loaded."""
    return {"libzstd": ".".join(map(str, zstandard.ZSTD_VERSION)), "liblz4": lz4.library_version_string()}


def _record(
    out: Path, objects: list[PayloadObject], runs: int, watch: CoreWatch, command: str, mix_digest: str
) -> dict[str, Any]:
    # Named after what they were made with, so that an interrupted recording never goes on under other settings.
    names = [item.object_id for item in objects]
    settings = json.dumps([FORMAT, runs, mix_digest, codec_versions(), cpu_name(), names])
    parts = out.with_name(f"{out.name}.parts-{hashlib.sha256(settings.encode()).hexdigest()[:8]}")
    parts.mkdir(exist_ok=True)
    done = [parts / f"{name}.parquet" for name in names]
    kept = sum(part.exists() for part in done)
    if kept:
        _log.info("going on: %d of %d objects are measured", kept, len(objects))
        watch.best_ms = min(_references(pq.read_table(part)).min() for part in done if part.exists())
    _log.info("recording on core %d; learning its best speed for %.0f s", watch.core, WARM_UP_S)
    watch.spin(WARM_UP_S)
    progress = _Progress(len(objects) - kept)
    for item, part in zip(objects, done, strict=True):
        if not part.exists():
            table = _measure_object(item, runs, watch)
            buffer = pa.BufferOutputStream()
            pq.write_table(table, buffer)
            write_atomically(part, buffer.getvalue().to_pybytes())
            progress.step(table, watch)
    recorded = pa.concat_tables(map(pq.read_table, done))
    again = _repeat_sample(objects, recorded, runs, watch)
    watch.best_ms = min(watch.best_ms, float(_references(recorded).min()))
    ratios = _references(recorded) / watch.best_ms
    table = least_of_runs(recorded)
    place = LIBRARY_SCHEMA.get_field_index("reference_ratio")
    table = table.set_column(place, LIBRARY_SCHEMA.field(place), pa.array(ratios, pa.float32()))
    data, profiles = table_bytes(table), Profiles(table)
    manifest = {
        "format": FORMAT,
        "sha256": hashlib.sha256(data).hexdigest(),
        "command": command,
        "objects": len(objects),
        "payloads": table.num_rows,
        "payload_bytes": int(profiles.column("size_bytes").sum()),
        "runs": runs,
        "mix_digest": mix_digest,
        "codecs": codec_versions(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "resumed_objects": kept,
        "quiet": watch.report(ratios),
        "ratios": ratio_summary(profiles),
        "repeatability": {
            "second_set": label_repeatability(profiles, "a", profiles, "b"),
            "by_runs": repeatability_by_runs(recorded, runs),
            "end_sample": again,
            "near_ties": near_ties(profiles),
        },
    }
    write_atomically(out / PROFILE_NAME, data)
    write_atomically(out / MANIFEST_NAME, (json.dumps(manifest, indent=2) + "\n").encode())
    shutil.rmtree(parts)
    if manifest["quiet"]["noisy"]:
        _log.warning("the core was not quiet (%s): record again before times matter", manifest["quiet"])
    return manifest


def _references(recorded: pa.Table) -> NDArray[np.float64]:
    """The reference kernel's ms of each row of a table of all runs."""
    return np.asarray(recorded["reference_ratio"].to_numpy(), dtype=np.float64)


@dataclass(frozen=True)
class _Measured:
    timed: Timed
    reference_ms: float


def _measure_object(item: PayloadObject, runs: int, watch: CoreWatch) -> pa.Table:
    """All versions of an object, one row each, of ``RUNS_SCHEMA``. Its payloads stay in memory meanwhile."""
    payloads = list(item.versions())
    if not payloads:
        raise ValueError(f"{item.object_id} has no versions")
    for version, payload in enumerate(payloads):
        if not payload:
            raise ValueError(f"version {version} of {item.object_id} is empty: nothing to transfer")
    bases = [None, *map(Base.of, payloads[:-1])]
    waited_s = watch.waited_s

    def measure_set(version: int, name: str) -> _Measured:
        steps = (*_ONCE, *_ENGINES) if name == SETS[0] else _ENGINES
        work = [partial(step, payloads[version], bases[version], runs) for step in steps]
        if len(payloads[version]) < _LARGE_BYTES:
            work = [partial(_all, work)]
        found = [_in_a_fast_moment(one, watch, _OBJECT_PATIENCE_S - (watch.waited_s - waited_s)) for one in work]
        return _Measured(join([one.timed for one in found]), max(one.reference_ms for one in found))

    with watch.watching(), _no_collector():
        watch.spin()
        found = {(version, name): measure_set(version, name) for name in SETS for version in range(len(payloads))}
        for key in [key for key, one in found.items() if watch.is_slow(one.reference_ms)]:
            found[key] = min(found[key], measure_set(*key), key=lambda one: one.reference_ms)
    rows = []
    for version, payload in enumerate(payloads):
        sets = {name: found[version, name] for name in SETS}
        rows.append(
            {
                "object_id": item.object_id,
                "data_type": item.data_type,
                "kind": item.kind,
                "version": version,
                "size_bytes": len(payload),
                "payload_digest": hashlib.blake2b(payload, digest_size=16).hexdigest(),
                "reference_ratio": max(one.reference_ms for one in sets.values()),
                **sets[SETS[0]].timed.facts,
                **{f"{key}_{name}": sets[name].timed.runs[key] for name in SETS for key in TIMES},
            }
        )
    return pa.Table.from_pylist(rows, RUNS_SCHEMA)


def _all(work: list[partial[Timed]]) -> Timed:
    return join([one() for one in work])


def _in_a_fast_moment(work: Callable[[], Timed], watch: CoreWatch, object_patience_s: float) -> _Measured:
    """The fastest of a few tries, with the core's speed at its slower end. Tries share one patience."""
    waited_s = watch.waited_s
    all_patience_s = _LEAST_PATIENCE_S + watch.watched_s / 2 - waited_s
    patience_s = min(PATIENCE_S, object_patience_s, all_patience_s)

    def one_try() -> _Measured:
        before_ms = watch.settle(patience_s - (watch.waited_s - waited_s))
        timed = work()
        return _Measured(timed, max(before_ms, watch.look()))

    best = one_try()
    for _ in range(_TRIES - 1):
        if not watch.is_slow(best.reference_ms) or watch.waited_s - waited_s >= patience_s:
            break
        best = min(best, one_try(), key=lambda one: one.reference_ms)
    return best


@contextmanager
def _no_collector() -> Iterator[None]:
    """No garbage collection in the middle of a measurement; what there is, before it."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class _Progress:
    """A line now and then: how far, how long still, how quiet."""

    def __init__(self, objects: int) -> None:
        self.objects, self.done, self.payloads, self.payload_bytes = objects, 0, 0, 0
        self.slow_payloads = 0
        self.began = self.said = time.monotonic()

    def step(self, table: pa.Table, watch: CoreWatch) -> None:
        """One object more is measured."""
        self.done += 1
        self.payloads += table.num_rows
        self.payload_bytes += sum(table["size_bytes"].to_pylist())
        self.slow_payloads += sum(map(watch.is_slow, table["reference_ratio"].to_pylist()))
        now = time.monotonic()
        if now - self.said < _PROGRESS_S and self.done < self.objects:
            return
        self.said = now
        left = (now - self.began) / self.done * (self.objects - self.done)
        _log.info(
            "measured %d of %d objects (%d payloads, %.2f GB), about %.0f min left; %d payloads in slow moments, "
            "%.0f of %.0f s waited for fast ones",
            self.done,
            self.objects,
            self.payloads,
            self.payload_bytes / 1e9,
            left / 60,
            self.slow_payloads,
            watch.waited_s,
            now - self.began,
        )


def _repeat_sample(objects: list[PayloadObject], recorded: pa.Table, runs: int, watch: CoreWatch) -> dict[str, Any]:
    """Measure some objects once more at the end and compare: what the recording is worth."""
    chosen = objects[:: max(1, len(objects) // _REPEAT_OBJECTS)][:_REPEAT_OBJECTS]
    _log.info("repeating %d objects", len(chosen))
    wanted = pa.array([item.object_id for item in chosen])
    first = recorded.filter(pc.is_in(recorded["object_id"], wanted))
    second = pa.concat_tables(_measure_object(item, runs, watch) for item in chosen)
    return label_repeatability(Profiles(least_of_runs(first)), "a", Profiles(least_of_runs(second)), "a")
