from __future__ import annotations

import dataclasses

import pytest

from dwcp.decision import Rule
from dwcp.export.footprint import Footprint
from dwcp.export.forms import FORMS, ONNX, TFLITE
from dwcp.export.parity import Agreement, Parity
from dwcp.release.evaluate import EXECUTED, MODEL, ClassScores, Comparison, Evaluation, Rung, Slice, SplitScores
from dwcp.release.gate import Status, Verdict, decide, judge
from dwcp.release.intervals import Interval
from dwcp.settings import Settings

SETTINGS = Settings()
PASS, FAIL, INCONCLUSIVE = Status.PASS, Status.FAIL, Status.INCONCLUSIVE


@pytest.mark.parametrize(
    ("interval", "rows", "expected"),
    [
        # estimate meets, half-width at most half a point
        (Interval(0.985, 0.981, 0.989), 5_000, PASS),
        (Interval(0.98, 0.976, 0.984), 5_000, PASS),
        (Interval(0.981, 0.9775, 0.9845), 5_000, PASS),
        # estimate meets, interval too wide; even where all of it lies above
        (Interval(0.985, 0.975, 0.995), 5_000, INCONCLUSIVE),
        (Interval(0.992, 0.982, 0.998), 5_000, INCONCLUSIVE),
        # the upper end lies below, however wide
        (Interval(0.90, 0.80, 0.979), 5_000, FAIL),
        # the estimate misses it in a narrow interval that reaches across
        (Interval(0.979, 0.976, 0.982), 5_000, FAIL),
        # the estimate misses it in a wide interval that reaches across
        (Interval(0.975, 0.96, 0.99), 5_000, INCONCLUSIVE),
        # too few rows, whatever the rest says
        (Interval(0.99, 0.989, 0.991), 1_999, INCONCLUSIVE),
        (Interval(0.50, 0.49, 0.51), 1_999, INCONCLUSIVE),
        (Interval(0.99, 0.989, 0.991), 2_000, PASS),
        # too few objects, or nothing counted
        (Interval(0.99), 5_000, INCONCLUSIVE),
        (Interval(None), 5_000, INCONCLUSIVE),
    ],
)
def test_strict_accuracy(interval, rows, expected):
    status, reason = decide(interval, 0.98, rows, 2_000, 0.005, strict=True)
    assert status is expected
    assert reason


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.99, 0.96, 1.0), PASS),  # wide, but all of it meets
        (Interval(0.96, 0.94, 0.98), INCONCLUSIVE),
        (Interval(0.94, 0.92, 0.96), INCONCLUSIVE),
        (Interval(0.92, 0.90, 0.94), FAIL),
    ],
)
def test_figure_without_a_width_of_its_own(interval, expected):
    assert decide(interval, 0.95, 5_000, 2_000)[0] is expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (Interval(0.0006, 0.0004, 0.0009), PASS),
        (Interval(0.0009, 0.0006, 0.0012), INCONCLUSIVE),
        (Interval(0.0011, 0.0009, 0.0013), INCONCLUSIVE),
        (Interval(0.0030, 0.0011, 0.0060), FAIL),
    ],
)
def test_lower_is_better(interval, expected):
    assert decide(interval, 0.001, 5_000, 2_000, at_least=False)[0] is expected


def narrow(estimate: float, half: float = 0.002) -> Interval:
    return Interval(estimate, estimate - half, estimate + half)


def evaluation(**changed) -> Evaluation:
    """One whose every line passes, with some figures changed."""
    figures = {
        "rows": 5_000,
        "ceiling": 0.99,
        "accuracy": narrow(0.99),
        "precision": narrow(0.98),
        "recall": narrow(0.98),
        "f1": narrow(0.98),
        "regret": narrow(0.0005, 0.0002),
        "gain": narrow(0.3, 0.1),
        "p99_ms": 0.2,
        "memory_bytes": 80_000_000,
        "size_bytes": 2_000_000,
        "label_differences": 0,
        "champion": None,
        "form": ONNX,
        "sizes_bytes": {},
        "slices": (),
    } | changed
    rungs = tuple(
        Rung(
            name, figures["accuracy"], narrow(0.995), 0.98, figures["regret"], 0.0, 900.0, figures["gain"], narrow(0.05)
        )
        for name in (MODEL, EXECUTED)
    )
    good = narrow(0.98)
    classes = (
        ClassScores("hde", 1_000, figures["precision"], good, good),
        ClassScores("amst", 1_000, good, figures["recall"], good),
        ClassScores("none", 1_000, good, good, figures["f1"]),
    )
    fallbacks = {"low_confidence": 4, "not_worth_it": 6}
    time = SplitScores(
        "time",
        figures["rows"],
        100,
        50,
        figures["ceiling"],
        fallbacks,
        rungs,
        classes,
        ((1, 0, 0),) * 3,
        (),
        0.01,
        tuple(Slice("dc", kind, 50, good, good, gain) for kind, gain in figures["slices"]),
    )
    footprint = Footprint(0.05, 0.1, figures["p99_ms"], 0.3, 40.0, figures["memory_bytes"], 5_000)
    others = dict.fromkeys(FORMS, 0) | {figures["form"]: figures["label_differences"]}
    parity = Parity(
        tuple(Agreement("held-out rows", 5_000, 2e-7, 0, 0, other, form, "a runtime") for form, other in others.items())
    )
    return Evaluation(
        "v1", "d" * 64, figures["size_bytes"], "f" * 16, "seed_3_1", Rule(), {}, time, None, figures["champion"],
        parity, (), footprint, figures["sizes_bytes"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        ((("logs", Interval(-0.01, -0.05, 0.001)),), PASS),  # slower by chance alone
        ((("logs", Interval(-0.01)),), PASS),  # too few objects to tell
        ((("logs", Interval(-0.02, -0.05, -0.001)), ("media", narrow(0.3))), FAIL),
    ],
)
def test_no_kind_of_transfer_may_be_slower_than_zstd(slices, expected):
    verdict = judge(evaluation(slices=slices), Settings())
    line = next(line for line in verdict.lines if line.name == "kinds of transfer slower than zstd")
    assert line.status is expected is verdict.status
    assert expected is PASS or line.reason == "beyond their intervals: logs over dc"


def statuses(verdict: Verdict) -> dict[str, Status]:
    return {line.name: line.status for line in verdict.lines}


def test_all_met_is_a_pass_without_reasons():
    verdict = judge(evaluation(), SETTINGS)
    assert verdict.status is PASS
    assert verdict.reasons == ()
    assert len(verdict.lines) == 17


@pytest.mark.parametrize(
    ("changed", "line", "expected"),
    [
        ({"accuracy": narrow(0.97)}, "strict accuracy", FAIL),
        ({"accuracy": narrow(0.985, 0.006)}, "strict accuracy", INCONCLUSIVE),
        ({"precision": narrow(0.94)}, "precision (hde)", FAIL),
        ({"recall": narrow(0.94)}, "recall (amst)", FAIL),
        ({"f1": narrow(0.955)}, "F1 (none)", FAIL),
        ({"regret": narrow(0.002, 0.0005)}, "mean regret as executed", FAIL),
        ({"gain": narrow(0.05, 0.04)}, "throughput gain over zstd", FAIL),
        ({"gain": narrow(0.15, 0.1)}, "throughput gain over zstd", INCONCLUSIVE),
        ({"p99_ms": 10.1}, "latency p99", FAIL),
        ({"size_bytes": 50_000_001}, "model size", FAIL),
        ({"sizes_bytes": {TFLITE: 50_000_001}}, "model size", FAIL),
        ({"memory_bytes": 100_000_001}, "memory", FAIL),
        *(({"label_differences": 1, "form": form}, "rows that differ from what was trained", FAIL) for form in FORMS),
    ],
)
def test_each_line_speaks_for_itself(changed, line, expected):
    verdict = judge(evaluation(**changed), SETTINGS)
    assert statuses(verdict) == {name: expected if name == line else PASS for name in statuses(verdict)}
    assert verdict.status is expected
    (reason,) = verdict.reasons
    assert reason.startswith(line)


def test_one_fail_outweighs_any_number_of_inconclusive_lines():
    verdict = judge(evaluation(rows=10, p99_ms=11.0), SETTINGS)
    assert verdict.status is FAIL
    assert list(statuses(verdict).values()).count(INCONCLUSIVE) == 12


def test_few_rows_hold():
    verdict = judge(evaluation(rows=10), SETTINGS)
    assert verdict.status is INCONCLUSIVE
    assert "10 test rows are too few, 2,000 are needed" in verdict.reasons[0]


def test_not_measured_is_not_passed():
    verdict = judge(dataclasses.replace(evaluation(), measured=None), SETTINGS)
    assert verdict.status is INCONCLUSIVE
    nothing_compared = dataclasses.replace(evaluation(), parity=Parity(()))
    assert judge(nothing_compared, SETTINGS).status is INCONCLUSIVE


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_was_not_compared_holds(form):
    whole = evaluation()
    without = Parity(tuple(part for part in whole.parity.agreements if part.form != form))
    assert judge(dataclasses.replace(whole, parity=without), SETTINGS).status is INCONCLUSIVE


@pytest.mark.parametrize(
    ("difference", "worst", "expected"),
    [
        (narrow(0.0, 0.003), Interval(None), PASS),  # equal, narrow
        (narrow(-0.001, 0.003), Interval(None), PASS),  # within the tolerance, narrow
        (narrow(0.03, 0.01), Interval(None), PASS),  # surely better, wide
        (narrow(-0.003, 0.003), Interval(None), FAIL),  # misses, narrow
        (narrow(-0.03, 0.01), Interval(None), FAIL),  # surely worse
        (narrow(0.0, 0.01), Interval(None), INCONCLUSIVE),  # too wide to tell
        (narrow(0.0, 0.003), Interval(-0.02, -0.03, -0.01), FAIL),  # one slice is surely worse
        (narrow(0.0, 0.003), Interval(-0.02, -0.05, 0.01), PASS),  # a slice may be worse, who knows
    ],
)
def test_against_the_champion(difference, worst, expected):
    champion = Comparison("v0", difference, narrow(0.0), narrow(0.0), "wan / logs", worst)
    verdict = judge(evaluation(champion=champion), SETTINGS)
    assert verdict.status is expected
    assert len(verdict.lines) == 19


def test_a_champion_that_cannot_be_compared_holds_and_says_why():
    unknown = Interval(None)
    champion = Comparison("v0", unknown, unknown, unknown, "", unknown, note="it takes features that are gone: x")
    verdict = judge(evaluation(champion=champion), SETTINGS)
    assert verdict.status is INCONCLUSIVE
    assert verdict.reasons[0].endswith("it takes features that are gone: x")


def test_verdict_survives_json():
    verdict = judge(evaluation(rows=10, p99_ms=11.0), SETTINGS)
    assert Verdict.from_json(verdict.to_json()) == verdict
    with pytest.raises(ValueError):
        Verdict.from_json("{}")


def test_thresholds_come_from_settings():
    assert judge(evaluation(ceiling=None), Settings(gate_accuracy=0.995)).status is FAIL
    assert judge(evaluation(rows=60), Settings(gate_min_rows=50)).status is PASS


@pytest.mark.parametrize("accuracy", [narrow(0.99), narrow(0.9)])
def test_labels_worth_less_than_the_threshold_tell_nothing(accuracy):
    verdict = judge(evaluation(accuracy=accuracy, ceiling=0.979), SETTINGS)
    assert verdict.status is INCONCLUSIVE
    assert "two measurements agree on 97.9% of such labels only" in verdict.reasons[0]
    assert statuses(judge(evaluation(ceiling=None), SETTINGS))["strict accuracy"] is PASS
