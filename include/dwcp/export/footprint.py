"""What a model costs a process: single-decision latency, load time, peak memory; measured in a fresh process.

The child imports numpy and the one runtime that the form needs, so its memory is that of a process that serves the
model, and not of the one that trained it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwcp.export.forms import GO, ONNX, load_form
from dwcp.export.go_program import built_program

DECISIONS = 5_000
WARM_UP = 200
TIMEOUT_S = 120


class FootprintError(RuntimeError):
    """The measuring process died or took too long."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Measured on this machine; differs from run to run and stays outside every digest.

    Latencies are CPU time of the deciding thread, on which a call of the runtime runs alone: what other processes take
    is not the model's. ``wall_p99_ms`` is the time that passed, this machine's load included.
    """

    latency_p50_ms: float
    latency_p95_ms: float
    latency_p99_ms: float
    wall_p99_ms: float
    load_ms: float
    peak_memory_bytes: int
    decisions: int


def measure_footprint(model: bytes, features: NDArray[np.float32], *, form: str = ONNX) -> Footprint:
    """Time ``DECISIONS`` single decisions of a ``form``'s file over ``features`` (n, f), n ≥ 1; read the peak memory.

    Raises ``ValueError`` without rows and ``FootprintError`` if the child fails.
    """
    with _written(model, features, form) as (model_path, rows):
        rows_path = model_path.with_name("rows.npy")
        np.save(rows_path, rows, allow_pickle=False)
        return _of_child([sys.executable, "-m", "dwcp.export.footprint", str(model_path), str(rows_path)])


def measure_go_footprint(model: bytes, features: NDArray[np.float32]) -> Footprint | None:
    """The same of the Go form in a Go process; None where there is no Go to build it. Raises likewise."""
    program = built_program("footprint")
    if program is None:
        return None
    with _written(model, features, GO) as (model_path, rows):
        return _of_child([str(program), str(model_path), str(DECISIONS)], given=rows.astype("<f4").tobytes())


@contextmanager
def _written(model: bytes, features: NDArray[np.float32], form: str) -> Iterator[tuple[Path, NDArray[np.float32]]]:
    """The model's file under its form's name in a folder of its own, and the rows to decide on."""
    if not len(features):
        raise ValueError("no rows to decide on: a footprint needs at least one feature vector")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / form
        path.write_bytes(model)
        yield path, np.ascontiguousarray(features[:DECISIONS], np.float32)


def _of_child(command: list[str], given: bytes | None = None) -> Footprint:
    try:
        done = subprocess.run(command, input=given, capture_output=True, timeout=TIMEOUT_S, check=True)
    except subprocess.CalledProcessError as error:
        raise FootprintError(f"the measuring process failed: {error.stderr.decode().strip()[-500:]}") from error
    except subprocess.TimeoutExpired as error:
        raise FootprintError(f"{DECISIONS} decisions took over {TIMEOUT_S} s: the machine is overloaded") from error
    return Footprint(**json.loads(done.stdout))


def _measure(model_path: Path, rows_path: Path) -> Footprint:
    rows = np.load(rows_path, allow_pickle=False)
    began = time.perf_counter_ns()
    model = load_form(model_path.name, model_path.read_bytes())
    load_ns = time.perf_counter_ns() - began
    for number in range(WARM_UP):
        model.decide(rows[number % len(rows)])
    cpu_ns, wall_ns = np.empty(DECISIONS, np.int64), np.empty(DECISIONS, np.int64)
    for number in range(DECISIONS):
        row = rows[number % len(rows)]
        wall_began, cpu_began = time.perf_counter_ns(), time.thread_time_ns()
        model.decide(row)
        cpu_ns[number] = time.thread_time_ns() - cpu_began
        wall_ns[number] = time.perf_counter_ns() - wall_began
    p50, p95, p99 = np.quantile(cpu_ns / 1e6, [0.5, 0.95, 0.99]).tolist()
    wall_p99 = float(np.quantile(wall_ns / 1e6, 0.99))
    return Footprint(p50, p95, p99, wall_p99, load_ns / 1e6, _peak_memory_bytes(), DECISIONS)


def _peak_memory_bytes() -> int:
    """Peak resident memory of this process.

    Linux hands ``ru_maxrss`` on through fork and exec, so a child of a large process would report its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists() and (match := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(match[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_measure(Path(sys.argv[1]), Path(sys.argv[2])))))
