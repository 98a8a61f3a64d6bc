"""The model card that travels in the bundle (Mitchell et al., 2019), and ``docs/compression_selector_eval.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.release import wording
from dwcp.release.evaluate import EXECUTED, MODEL, Evaluation, SplitScores
from dwcp.release.gate import Verdict
from dwcp.window import Window


def model_card(evaluation: Evaluation, verdict: Verdict, *, window: Window, feature_names: Sequence[str]) -> str:
    """Markdown: what the model is for, what it was trained on, how good it is, where it is weak.

    ``window`` is the span of its transfers; ``feature_names`` are its inputs, in order.
    """
    known = {feature.name: feature for feature in FEATURES}
    inputs = [
        (name, known[name].unit, str(known[name].default), known[name].meaning) if name in known else (name, "", "", "")
        for name in feature_names
    ]
    parts = [
        f"# Model {evaluation.version[:12]}",
        f"**Gate: {verdict.status.value}.** {'; '.join(verdict.reasons) or 'Every line was met.'}",
        "## Use",
        f"Chooses between {', '.join(CANDIDATES)} for one DWCP transfer. A node runs zstd where the choice's "
        "gain over it is not positive for certain, and falls back to the rules where there is no valid model. Input: "
        "finite float32 in the order below; serve the default of a feature that is not known. Not for payloads or "
        "links outside the contract's ranges.",
        "## Training data",
        f"Fully measured transfers from {window.start:%Y-%m-%d} to {window.end:%Y-%m-%d} (UTC), labelled by the oracle "
        f"`{evaluation.oracle}`, split by time. Left out: {_counts(evaluation.dropped)}.",
        "## Figures",
        _gate(verdict),
        _ladder(evaluation),
        "## Forms",
        parity_table(evaluation),
        "## Where it is weak",
        _weakest(evaluation.time),
        "## Inputs",
        table(("feature", "unit", "default", "meaning"), inputs),
        f"Version `{evaluation.version}`, file `sha256:{evaluation.model_digest}`, features "
        f"`{evaluation.feature_set_digest}`.",
    ]
    return "\n\n".join(parts) + "\n"


def evaluation_page(evaluation: Evaluation, verdict: Verdict) -> str:
    """Markdown of ``docs/compression_selector_eval.md``: the ladder and the gate exactly as found."""
    time = evaluation.time
    parts = [
        "# Evaluation of the compression selector",
        "Generated from an evaluation's JSON; do not edit. The exported ONNX file was run by onnxruntime on rows that "
        "it was not trained on. Intervals are 95 %, by bootstrap over objects.",
        f"**Gate: {verdict.status.value}.** {'; '.join(verdict.reasons) or 'Every line was met.'}",
        "## The gate",
        _gate(verdict),
        "## The ladder",
        _ladder(evaluation),
        f"`{EXECUTED}` runs zstd where the lower bound of the choice's gain over it is not positive: "
        f"{time.fallbacks['low_confidence']:,} of {time.rows:,} rows with a confidence below "
        f"{evaluation.rule.fallback_confidence}, {time.fallbacks['not_worth_it']:,} above. "
        f"{time.ties:,} rows lie within 1 % of a tie. Expected calibration error: "
        f"{wording.percent(time.calibration_error)}. Left out of the dataset: {_counts(evaluation.dropped)}.",
        "## One function in each form",
        parity_table(evaluation),
        "## Each class",
        table(
            ("class", "rows", "precision", "recall", "F1"),
            [
                (
                    c.name,
                    f"{c.rows:,}",
                    wording.interval(c.precision),
                    wording.interval(c.recall),
                    wording.interval(c.f1),
                )
                for c in time.classes
            ],
        ),
        "## Each link and data type",
        table(
            ("link", "data type", "rows", "accuracy", "mean regret"),
            [
                (
                    s.link_type,
                    s.data_type,
                    f"{s.rows:,}",
                    wording.interval(s.accuracy),
                    wording.interval(s.mean_regret, 3),
                )
                for s in time.slices
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def parity_table(evaluation: Evaluation) -> str:
    """Each form beside what was trained."""
    return table(
        ("form", "run by", "size", "vectors", "largest difference of a probability", "outliers", "other labels"),
        [parity_cells(evaluation, form) for form in evaluation.parity.forms],
    )


def parity_cells(evaluation: Evaluation, form: str) -> tuple[str, ...]:
    """A form's name, runtime, size, vectors, largest difference, outliers and other labels, as they read."""
    compared = evaluation.parity.of(form)
    size = evaluation.sizes_bytes.get(form)
    return (
        form,
        ", ".join(compared.runtimes),
        wording.NOTHING if size is None else f"{size / 1e6:.2f} MB",
        f"{compared.compared:,}",
        f"{compared.max_difference:.1e}",
        f"{compared.outliers:,}",
        f"{compared.label_differences:,}",
    )


def _gate(verdict: Verdict) -> str:
    return table(
        ("line", "threshold", "value", "95 % interval", "verdict", "why"),
        [
            (
                line.name,
                wording.threshold(line),
                wording.quantity(line.value, line.unit),
                wording.line_bounds(line),
                line.status.value,
                line.reason,
            )
            for line in verdict.lines
        ],
    )


def _ladder(evaluation: Evaluation) -> str:
    by_chance = evaluation.random
    return table(
        (
            "selector",
            "accuracy, time split",
            "accuracy, random split",
            "mean regret",
            "throughput over zstd",
            "over rules",
        ),
        [
            (
                rung.name,
                wording.interval(rung.accuracy),
                wording.interval(by_chance.rung(rung.name).accuracy) if by_chance else wording.NOTHING,
                wording.interval(rung.mean_regret, 3),
                wording.interval(rung.gain_over_zstd, 1),
                wording.interval(rung.gain_over_rules, 1),
            )
            for rung in evaluation.time.ladder
        ],
    )


def _weakest(scores: SplitScores) -> str:
    """The three slices with the highest mean regret, and the class that is recalled worst."""
    slices = sorted(
        (part for part in scores.slices if part.mean_regret.estimate is not None),
        key=lambda part: part.mean_regret.estimate or 0.0,
        reverse=True,
    )[:3]
    if not slices:
        return "No held-out rows: nothing is known."
    lines = [
        f"- {part.data_type} on {part.link_type}: mean regret {wording.percent(part.mean_regret.estimate, 3)}, "
        f"accuracy {wording.percent(part.accuracy.estimate)} ({part.rows:,} rows)"
        for part in slices
    ]
    recalls = [(part.recall.estimate, part.name) for part in scores.classes if part.recall.estimate is not None]
    recall, name = min(recalls)
    accuracy = scores.rung(MODEL).accuracy_outside_ties
    lines.append(f"- {name} is recalled worst: {wording.percent(recall)}")
    lines.append(f"- outside 1 % ties the accuracy is {wording.interval(accuracy)}")
    return "\n".join(lines)


def _counts(dropped: dict[str, int]) -> str:
    return ", ".join(f"{rows:,} rows ({reason})" for reason, rows in dropped.items()) or "nothing"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
