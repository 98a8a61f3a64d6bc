"""``make bench-go``: what a decision costs a node, form by form, naive ways beside; writes ``docs/benchmarks_go.md``.

The model is as large as a week's training makes one: 600 trees of depth 8 and the network. Its weights are random, and
so are the vectors, which therefore take other branches each time; how long a decision takes does not depend on what the
trees learned. ``make parity`` times the model that was really published.

Each line is measured in a process of its own (``go/bench``), first as the machine is, then with a busy program on every
core. What this machine lacks is left out, and the page says why.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from dwcp.contract import CANDIDATES, FEATURES  # noqa: E402
from dwcp.export.forms import GO, ONNX, TFLITE, build_forms  # noqa: E402
from dwcp.export.naive import time_naive  # noqa: E402
from dwcp.training.ensemble import Ensemble, log_inputs, network_shapes  # noqa: E402
from go_bench import NAMES, Absent, bench_program, library_flags  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks_go.md"
ROUNDS, DEPTH = 200, 8
"""Three trees a round: 600 in all."""
TRAINING_ROWS, ROWS = 40_000, 2_000
UNITS = (len(FEATURES), 128, 64, 32, len(CANDIDATES))
DECISIONS, DECISIONS_A_SESSION = 10_000, 60
RUNS = 3
"""Of the idle machine; the one with the least p99 counts, as another program on the machine can only lengthen it."""
BOOSTER = "booster.json"
RUNTIMES = {GO: "pure Go", ONNX: "ONNX Runtime", TFLITE: "LiteRT"}
"""In the order of the tables."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Line:
    """One way to decide, measured on an idle and on a loaded machine; ``absent`` says why it was not."""

    name: str
    file: Path
    idle: dict[str, Any] | None = None
    loaded: dict[str, Any] | None = None
    absent: str = ""


def random_rows(rng: np.random.Generator, rows: int) -> Floats:
    """Vectors spread over the contract's ranges by magnitude."""
    low, high = np.array([(max(feature.minimum, 1e-3), min(feature.maximum, 1e9)) for feature in FEATURES]).T
    return np.exp(rng.uniform(np.log(low), np.log(high), (rows, len(FEATURES)))).astype(np.float32)


def large_ensemble(rng: np.random.Generator) -> Ensemble:
    """600 trees whose branches nearly all reach depth 8, as labels without sense make them, and the seed's network."""
    import xgboost

    rows = random_rows(rng, TRAINING_ROWS)
    booster = xgboost.train(
        {
            "objective": "multi:softprob",
            "num_class": len(CANDIDATES),
            "max_depth": DEPTH,
            "min_child_weight": 0,
            "nthread": os.cpu_count(),
        },
        xgboost.DMatrix(rows, label=rng.integers(len(CANDIDATES), size=TRAINING_ROWS)),
        ROUNDS,
    )
    return with_network(bytes(booster.save_raw("json")), rows, UNITS, rng, xgboost_weight=0.7)


def with_network(
    booster: bytes, rows: Floats, units: tuple[int, ...], rng: np.random.Generator, *, xgboost_weight: float
) -> Ensemble:
    """The trees with a network of random weights."""
    logged = log_inputs(rows)
    shapes = network_shapes(units, normalised=range(len(units) - 3))
    weights = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    weights |= {name: np.abs(value) + 1 for name, value in weights.items() if name.endswith(("gamma", "variance"))}
    names = tuple(feature.name for feature in FEATURES)
    return Ensemble(booster, weights, logged.mean(axis=0), logged.std(axis=0), xgboost_weight, names)


def written(folder: Path, ensemble: Ensemble) -> Path:
    """Every form of the ensemble in a folder of its own, and its trees as XGBoost has them."""
    folder.mkdir()
    for name, content in build_forms(ensemble, version="bench").items():
        (folder / name).write_bytes(content)
    (folder / BOOSTER).write_bytes(ensemble.booster)
    return folder


@contextmanager
def every_core_busy(program: Path) -> Iterator[None]:
    """A program that computes without end, for each core."""
    burning = [subprocess.Popen([program, "burn"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def measured(
    name: str, file: Path, rows: Floats, *flags: str, way: str = "", decisions: int = DECISIONS, form: str = ""
) -> Line:
    """``file`` run as the form that its name says, or as ``form``; ``way`` is another of ``go/bench``'s."""
    form = form or file.name
    try:
        program = bench_program()
        command = [program, "measure", "-form", way or NAMES[form], *library_flags(form), "-decisions", str(decisions)]
    except Absent as absent:
        return Line(name, file, absent=str(absent))

    def run() -> dict[str, Any]:
        done = subprocess.run([*command, *flags, file], input=rows.tobytes(), capture_output=True, timeout=300)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed: {done.stderr.decode()[-500:]}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    print(f"{name} …", flush=True)
    idle = min((run() for _ in range(RUNS)), key=lowest_p99)
    with every_core_busy(program):
        return Line(name, file, idle, run())


def lowest_p99(found: dict[str, Any]) -> float:
    """What runs of one line are compared by: the model's p99, or the whole decision's that asks the model."""
    return float((found.get("model") or found["miss"])["p99_us"])


HEAD = (
    "| {} | p50 | p99 | p99.9 | p99, CPU | loaded p50 | p99 | p99.9 | allocations | load | file | memory |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def table(title: str, lines: list[Line], part: str) -> list[str]:
    """The lines' figures of ``part``: the model alone, or whole decisions of one kind."""
    text = [HEAD[0].format(title), HEAD[1]]
    for line in lines:
        if line.idle is None or line.loaded is None:
            text.append(f"| {line.name} | not run: {line.absent} |" + " |" * 10)
            continue
        idle, loaded = line.idle[part], line.loaded[part]
        times = [idle["p50_us"], idle["p99_us"], idle["p999_us"], idle["cpu_p99_us"]]
        times += [loaded["p50_us"], loaded["p99_us"], loaded["p999_us"]]
        text.append(
            f"| {line.name} | {' | '.join(f'{microseconds:,.1f}' for microseconds in times)} "
            f"| {line.idle['allocations']:.1f} | {line.idle['load_ms']:.0f} ms "
            f"| {line.file.stat().st_size / 1e6:.2f} MB | {line.idle['peak_memory_bytes'] / 1e6:.0f} MB |"
        )
    return [*text, ""]


def decision_table(lines: list[Line]) -> list[str]:
    """Whole decisions: the rows are forms and ways through the selector."""
    text = ["| decided by | p50 | p99 | p99.9 | p99, CPU | loaded p50 | p99 | p99.9 |", "|---|" + "---:|" * 7]
    for line in lines:
        for part, words in (("hit", "from the cache"), ("miss", "asking the model"), ("rules", "rules, no model")):
            if line.idle is None or line.loaded is None:
                text.append(f"| {line.name} | not run: {line.absent} |" + " |" * 6)
                break
            if part == "rules" and line.name != RUNTIMES[GO]:
                continue  # no model is in it: once is enough
            idle, loaded = line.idle[part], line.loaded[part]
            times = [idle["p50_us"], idle["p99_us"], idle["p999_us"], idle["cpu_p99_us"]]
            times += [loaded["p50_us"], loaded["p99_us"], loaded["p999_us"]]
            name = words if part == "rules" else f"{line.name}, {words}"
            text.append(f"| {name} | {' | '.join(f'{microseconds:,.1f}' for microseconds in times)} |")
    return [*text, ""]


def page(
    model: list[Line], trees: list[Line], decisions: list[Line], naive: list[str], load: tuple[float, float, float]
) -> str:
    """The Markdown page."""
    go = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True).stdout.strip()
    lines = [
        "# Benchmarks of the Go module",
        "",
        f"Written by `make bench-go` on {datetime.now(UTC):%Y-%m-%d}: {_cpu()}, {os.cpu_count()} cores, {go}; load "
        f"average {load[0]:.1f} before it and {os.getloadavg()[0]:.1f} at its end, where an idle machine has 1 by this "
        "program alone: what else ran then is in the figures. Times are µs. They passed on the "
        "clock, but for the columns CPU: thread CPU time, with some 0.3 µs for reading it. Each is of "
        f"{DECISIONS:,} decisions, of {RUNS} runs the one with the least p99. Loaded: one run with a busy program on "
        "every core beside it. Memory is the process's peak, runtime and shared library included. Each run is a "
        "process of its own.",
        "",
        f"The model is as large as a week's training makes one: {3 * ROUNDS} trees of depth {DEPTH} and the network, "
        "with random weights, on random vectors. `make parity` times the published one.",
        "",
        "## The model alone",
        "",
        *table("one decision", model, "model"),
        f"## {3 * ROUNDS} trees of depth {DEPTH} alone",
        "",
        "A file has to have a network: here one of a single layer.",
        "",
        *table("one decision", trees, "model"),
        "## Whole decisions",
        "",
        "`SelectCompression` with history, bucket, cache, rule and counters; without a probe.",
        "",
        *decision_table(decisions),
        "## The libraries that train it, from Python",
        "",
        *naive,
    ]
    return "\n".join(lines) + "\n"


def python_ways(ensemble: Ensemble, onnx: bytes, rows: Floats) -> list[str]:
    """What a decision takes without an export."""
    text = ["| called | answers | p50 | p99 |", "|---|---|---:|---:|"]
    for way in time_naive(ensemble, onnx, rows):
        times = f"{1e3 * way.latency_p50_ms:,.0f} | {1e3 * way.latency_p99_ms:,.0f}"
        text.append(f"| {way.name} | {way.part} | {times} |")
    return text


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Make the models, measure every way, write the page."""
    try:
        bench_program()
    except Absent as absent:
        raise SystemExit(f"nothing was measured: {absent}") from None
    load = os.getloadavg()
    rng = np.random.default_rng(0)
    rows = random_rows(rng, ROWS)
    print("making a model of 600 trees …", flush=True)
    ensemble = large_ensemble(rng)
    alone = with_network(ensemble.booster, rows, (UNITS[0], UNITS[-1]), rng, xgboost_weight=1.0)
    with tempfile.TemporaryDirectory() as folder:
        whole, trees = written(Path(folder) / "whole", ensemble), written(Path(folder) / "trees", alone)
        model = [measured(RUNTIMES[form], whole / form, rows) for form in RUNTIMES]
        model.append(
            measured(
                "an ONNX Runtime session a call",
                whole / ONNX,
                rows,
                way="onnx-a-call",
                decisions=DECISIONS_A_SESSION,
            )
        )
        by_trees = [measured(f"{RUNTIMES[form]}, the trees", trees / form, rows) for form in RUNTIMES]
        by_trees.append(measured("a struct a node, in Go", trees / BOOSTER, rows, way="nested", form=GO))
        decisions = [measured(RUNTIMES[form], whole / form, rows, "-decide") for form in RUNTIMES]
        print("Python …", flush=True)
        naive = python_ways(ensemble, (whole / ONNX).read_bytes(), rows)
        text = page(model, by_trees, decisions, naive, load)
    PAGE.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
