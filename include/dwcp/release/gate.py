"""The release gate: one table of thresholds, and a verdict with reasons for each line.

Absolute thresholds are the seed's (§8.1, §8.2); relative ones hold the model against the champion on the same rows.
The gate looks at the time split alone. A line with an interval is judged so:

- PASS: the estimate meets the threshold and the interval is narrow.
- FAIL: the whole interval misses the threshold, or the estimate misses it and the interval is narrow.
- INCONCLUSIVE: too few rows, or an interval too wide to tell.

Narrow means for strict accuracy a half-width of at most 0.5 point, whatever the estimate. Elsewhere an interval also
tells when the threshold lies outside it. One FAIL fails the whole; else one INCONCLUSIVE holds it.

Accuracy is that of the model's argmax, before any fallback; regret and throughput are those of what a node would run
(``dwcp.decision``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from pydantic import TypeAdapter

from dwcp.release import wording
from dwcp.release.evaluate import EXECUTED, MODEL, Comparison, Evaluation
from dwcp.release.intervals import Interval
from dwcp.settings import Settings


class Status(StrEnum):
    """What the gate says."""

    PASS = "PASS"  # noqa: S105 (a verdict, not a password)
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the gate's table. ``at_least`` says on which side of ``threshold`` good values lie.

    ``unit`` is how to print it: share, points, regret, ms, byte or count.
    """

    name: str
    source: str
    unit: str
    threshold: float
    at_least: bool
    value: float | None
    lower: float | None
    upper: float | None
    status: Status
    reason: str

    @property
    def sentence(self) -> str:
        """The line in words, with its figures."""
        between = "" if self.lower is None else f" ({wording.line_bounds(self)})"
        value = wording.quantity(self.value, self.unit)
        return f"{self.name} {value}{between}, wanted {wording.threshold(self)}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer; ``reasons`` are those of every line that did not pass."""

    status: Status
    lines: tuple[Line, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the whole is not a PASS; empty if it is one."""
        return tuple(line.sentence for line in self.lines if line.status is not Status.PASS)

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), sort_keys=True, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Verdict:
        """The inverse of :meth:`to_json`. Raises ``ValueError`` if ``text`` is something else."""
        return _ADAPTER.validate_json(text)


def judge(evaluation: Evaluation, settings: Settings) -> Verdict:
    """Hold ``evaluation`` against the thresholds of ``settings``."""
    lines = (*_absolute(evaluation, settings), *_artifact(evaluation, settings), *_relative(evaluation, settings))
    found = {line.status for line in lines}
    for status in (Status.FAIL, Status.INCONCLUSIVE):
        if status in found:
            return Verdict(status, lines)
    return Verdict(Status.PASS, lines)


def _absolute(evaluation: Evaluation, settings: Settings) -> Iterator[Line]:
    rows = evaluation.time.rows
    asked, run = evaluation.time.rung(MODEL), evaluation.time.rung(EXECUTED)
    width = settings.gate_accuracy_half_width
    few = settings.gate_min_rows
    line = _judged(
        "strict accuracy", "seed §8.1", "share", asked.accuracy, settings.gate_accuracy, rows, few, width, strict=True
    )
    ceiling = evaluation.time.label_ceiling
    if ceiling is not None and ceiling < settings.gate_accuracy:
        reason = f"two measurements agree on {ceiling:.1%} of such labels only: no model could be seen to reach it"
        line = replace(line, status=Status.INCONCLUSIVE, reason=reason)
    yield line
    # The seed names HDE alone; a model that fails one of the other choices harms as much.
    for scores in evaluation.time.classes:
        for measure, interval, threshold in (
            ("precision", scores.precision, settings.gate_precision),
            ("recall", scores.recall, settings.gate_recall),
            ("F1", scores.f1, settings.gate_f1),
        ):
            yield _judged(f"{measure} ({scores.name})", "seed §8.1", "share", interval, threshold, rows, few)
    regret = "mean regret as executed"
    yield _judged(regret, "setting", "regret", run.mean_regret, settings.gate_regret, rows, few, at_least=False)
    gain = "throughput gain over zstd"
    yield _judged(gain, "seed §8.2", "share", run.gain_over_zstd, settings.gate_throughput_gain, rows, few)
    slower = [f"{part.data_type} over {part.link_type}" for part in evaluation.time.slices if part.slower_than_zstd]
    line = _exact(
        "kinds of transfer slower than zstd", "never worse", "count", len(slower), settings.gate_slower_slices
    )
    yield replace(line, reason=f"beyond their intervals: {', '.join(slower)}") if slower else line


def _artifact(evaluation: Evaluation, settings: Settings) -> Iterator[Line]:
    """Properties of the files: no rows, no interval. Parity covers every form; one that was not compared holds all."""
    measured = evaluation.measured
    latency_ms = None if measured is None else measured.latency_p99_ms
    memory_bytes = None if measured is None else measured.peak_memory_bytes
    yield _exact("latency p99", "seed §8.2", "ms", latency_ms, settings.gate_latency_p99_ms)
    largest = max([evaluation.size_bytes, *evaluation.sizes_bytes.values()])
    yield _exact("model size", "seed §8.2", "byte", largest, settings.gate_size_bytes)
    yield _exact("memory", "seed §8.2", "byte", memory_bytes, settings.gate_memory_bytes)
    parity = evaluation.parity
    disagreeing = parity.disagreeing if parity.rows else None
    yield _exact("rows that differ from what was trained", "parity", "count", disagreeing, 0)


def _relative(evaluation: Evaluation, settings: Settings) -> Iterator[Line]:
    champion: Comparison | None = evaluation.champion
    if champion is None:
        return
    rows, few = evaluation.time.rows, settings.gate_min_rows
    width, tolerance = settings.gate_accuracy_half_width, -settings.gate_champion_tolerance
    source = f"champion {champion.version[:12]}"
    line = _judged("accuracy against the champion", source, "points", champion.accuracy, tolerance, rows, few, width)
    yield replace(line, reason=champion.note or line.reason)
    if champion.worst_slice:
        yield _not_worse(f"worst slice ({champion.worst_slice})", source, champion.worst_slice_accuracy, tolerance)


def _judged(
    name: str,
    source: str,
    unit: str,
    interval: Interval,
    threshold: float,
    rows: int,
    min_rows: int,
    half_width: float = 0.0,
    *,
    strict: bool = False,
    at_least: bool = True,
) -> Line:
    status, reason = decide(interval, threshold, rows, min_rows, half_width, strict=strict, at_least=at_least)
    return Line(
        name, source, unit, threshold, at_least, interval.estimate, interval.lower, interval.upper, status, reason
    )


def decide(
    interval: Interval,
    threshold: float,
    rows: int,
    min_rows: int,
    half_width: float = 0.0,
    *,
    strict: bool = False,
    at_least: bool = True,
) -> tuple[Status, str]:
    """The rule of this module for one figure, and its reason in words.

    An interval is narrow if its half-width is at most ``half_width``, or, unless ``strict``, if the threshold lies
    outside it.
    """
    if rows < min_rows:
        return Status.INCONCLUSIVE, f"{rows:,} test rows are too few, {min_rows:,} are needed"
    if interval.estimate is None:
        return Status.INCONCLUSIVE, "no row counts towards it"
    if interval.lower is None or interval.upper is None or interval.half_width is None:
        return Status.INCONCLUSIVE, "too few objects stand behind it for an interval"
    sign = 1.0 if at_least else -1.0
    worst, best = sorted((sign * interval.lower, sign * interval.upper))
    goal, met = sign * threshold, sign * interval.estimate >= sign * threshold
    if best < goal:
        return Status.FAIL, "the whole interval misses the threshold"
    if interval.half_width <= half_width or (not strict and worst >= goal):
        return (Status.PASS, "met") if met else (Status.FAIL, "the estimate misses the threshold, in a narrow interval")
    if half_width:
        return Status.INCONCLUSIVE, f"the interval is ±{interval.half_width:.2%} wide, ±{half_width:.2%} tells"
    return Status.INCONCLUSIVE, "the interval reaches across the threshold"


def _exact(name: str, source: str, unit: str, value: float | None, threshold: float) -> Line:
    if value is None:
        status, reason = Status.INCONCLUSIVE, "was not measured"
    elif value <= threshold:
        status, reason = Status.PASS, "met"
    else:
        status, reason = Status.FAIL, "over the threshold"
    return Line(name, source, unit, threshold, False, value, None, None, status, reason)


def _not_worse(name: str, source: str, interval: Interval, tolerance: float) -> Line:
    """A veto: small slices have wide intervals, so only a slice that is surely worse speaks."""
    worse = interval.upper is not None and interval.upper < tolerance
    status, reason = (Status.FAIL, "surely worse than the champion") if worse else (Status.PASS, "not surely worse")
    return Line(
        name, source, "points", tolerance, True, interval.estimate, interval.lower, interval.upper, status, reason
    )


_ADAPTER = TypeAdapter(Verdict)
