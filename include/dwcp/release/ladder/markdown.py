"""The ladder as Markdown: the generated part of ``docs/compression_selector_eval.md``."""

from __future__ import annotations

from dwcp.contract import CANDIDATES
from dwcp.release.card import table
from dwcp.release.ladder.found import Ladder, SplitFound
from dwcp.release.ladder.score import AGE, GAP, LINK, LINK_TYPE, SIZE, TYPE
from dwcp.release.wording import interval, percent

SLICED_BY = (LINK, TYPE, SIZE, GAP, AGE, LINK_TYPE)


def ladder_markdown(ladder: Ladder) -> str:
    """All that the ladder found, in tables; headings of the second level."""
    time = ladder.splits[0]
    parts = [
        "## The ladder",
        f"{ladder.rows:,} fully measured transfers of {ladder.objects:,} objects, {ladder.first_day} to "
        f"{ladder.last_day}, labelled by `{ladder.oracle}`. Every rung learns from the same training rows and is "
        "judged on the same test rows of its split, by the reference that exports are held against. Intervals are "
        "95 %, by bootstrap over objects. Regret is cost beyond the oracle's, as a share of it; gain is throughput "
        "over always zstd, *paid* after charging what looking at the payload cost before the choice "
        f"({percent(time.look_share)} of the oracle's time). {looks_sentence(ladder)}",
        *(part for split in ladder.splits for part in _split(split)),
        "## Slices",
        "The ensemble on the time split: accuracy and regret of its argmax, then what the product runs of it. The "
        "difference of the two regrets is what *never worse than zstd* costs a slice.",
        *(_slices(time, by) for by in SLICED_BY),
        _on_other_splits(ladder),
        "## Confidence",
        f"Expected calibration error {percent(ladder.calibration.error_before)} as it is, "
        f"{percent(ladder.calibration.error_after)} after dividing logarithms by a temperature of "
        f"{ladder.calibration.temperature:.2f}, fitted on validation rows.",
        "## Sizes of model",
        "Time split. Latency is the median CPU time of one decision through onnxruntime on one thread. The knee is the "
        "fastest within 0.1 points of the best, chosen on validation rows.",
        _sizes(ladder),
        "## Learning curve",
        "XGBoost on parts of the training rows, drawn by chance; time split.",
        table(
            ("training rows", "accuracy", "mean regret"),
            [(f"{p.rows:,}", interval(p.accuracy), interval(p.mean_regret, 3)) for p in ladder.curve],
        ),
        "## What the labels are worth",
        *_worth(ladder),
        "## Mistakes",
        *_mistakes(ladder),
        f"Printed by `{ladder.command}` in {ladder.seconds:.0f} s on {ladder.machine}. Dataset "
        f"`{ladder.dataset_digest}`.",
    ]
    return "\n\n".join(parts) + "\n"


def looks_sentence(ladder: Ladder) -> str:
    """How often the test rows were looked at."""
    return (
        f"Looks at these test rows so far, this one included: {ladder.looks.here:,} "
        f"({ladder.looks.anywhere:,} at any rows of this installation)."
    )


def _split(split: SplitFound) -> list[str]:
    dropped = "".join(f"; left out: {rows:,} rows ({why})" for why, rows in split.dropped.items() if rows)
    return [
        f"### {split.name.capitalize()} split",
        f"{split.training_rows:,} training rows, {split.test_rows:,} test rows of {split.test_objects:,} objects, "
        f"{split.new_objects:,} of which training never saw{dropped}.",
        table(
            ("selector", "inputs", "accuracy", "outside 1 % ties", "mean regret", "p95", "gain", "paid"),
            [
                (
                    rung.name,
                    "" if rung.inputs is None else str(rung.inputs),
                    interval(rung.accuracy),
                    percent(rung.accuracy_outside_ties.estimate),
                    interval(rung.mean_regret, 3),
                    percent(rung.p95_regret, 3),
                    interval(rung.gain_over_zstd, 1),
                    percent(rung.gain_paid.estimate, 1),
                )
                for rung in split.rungs
            ],
        ),
    ]


def _slices(split: SplitFound, by: str) -> str:
    return f"By {by}:\n\n" + table(
        (by, "rows", "objects", "accuracy", "regret", "regret as run", "runs zstd", "gain", "gain, paid"),
        [
            (
                part.name,
                f"{part.rows:,}",
                f"{part.objects:,}",
                interval(part.accuracy),
                percent(part.regret.estimate, 3),
                percent(part.executed_regret.estimate, 3),
                percent(part.zstd_share, 1),
                interval(part.gain_over_zstd, 1),
                interval(part.gain_paid, 1),
            )
            for part in split.slices
            if part.by == by
        ],
    )


def _on_other_splits(ladder: Ladder) -> str:
    """Accuracy of the same slices on every split, side by side; those of one link and type are left to the page."""
    names = [(part.by, part.name) for part in ladder.splits[0].slices if part.by != LINK_TYPE]
    found = [{(part.by, part.name): part.accuracy for part in split.slices} for split in ladder.splits]
    return "Accuracy on every split:\n\n" + table(
        ("slice", *(f"{split.name} split" for split in ladder.splits)),
        [
            (
                f"{name[0]}: {name[1]}",
                *(interval(split[name]) if name in split else "no rows" for split in found),
            )
            for name in names
        ],
    )


def _sizes(ladder: Ladder) -> str:
    return table(
        ("kind", "size", "inputs", "accuracy", "mean regret", "validation accuracy", "latency", "file", ""),
        [
            (
                size.kind,
                size.name,
                str(size.inputs),
                percent(size.accuracy),
                percent(size.mean_regret, 3),
                percent(size.validation_accuracy),
                f"{size.latency_us:.0f} µs",
                f"{size.size_bytes / 1e6:.2f} MB",
                "knee" if size.knee else "",
            )
            for size in ladder.sizes
        ],
    )


def _worth(ladder: Ladder) -> list[str]:
    worth = ladder.worth
    runs = ", ".join(f"{rows:,} rows by {count} runs" for count, rows in worth.runs.items())
    majority = ladder.splits[0].rung("majority class").accuracy
    ceilings = table(
        ("what agrees with what", "agreement", "mean regret"),
        [(one.source, percent(one.agreement), percent(one.mean_regret, 3)) for one in worth.ceilings],
    )
    return [
        f"Each time is the least of several runs: {runs}. An agreement below is a ceiling: no predictor can be "
        "expected to score higher against labels that are no surer.",
        ceilings if worth.ceilings else "No ceiling is known: no payload was measured often enough on one node.",
        "The same transfers under every definition of the oracle, each with XGBoost trained and judged under it (the "
        "cost ratios among the features follow §3.1):",
        table(
            (
                "oracle",
                *(f"best is {name}" for name in CANDIDATES),
                f"agrees with {ladder.oracle}",
                "gap under 1 %",
                "under 5 %",
                "accuracy",
                "mean regret",
                "gain over zstd",
            ),
            [
                (
                    one.name,
                    *(percent(one.mix[name], 1) for name in CANDIDATES),
                    percent(one.agreement),
                    percent(one.ties_1),
                    percent(one.ties_5),
                    interval(one.accuracy),
                    interval(one.mean_regret, 3),
                    percent(one.gain_over_zstd.estimate, 1),
                )
                for one in worth.definitions
            ],
        ),
        f"XGBoost that learned from shuffled labels scores {interval(ladder.shuffled)}; the majority class "
        f"{interval(majority)}.",
    ]


def _mistakes(ladder: Ladder) -> list[str]:
    return [
        "The ensemble's argmax on the time split, by kind:",
        table(
            ("oracle's choice", "said", "link", "rows", "share of all time lost"),
            [
                (kind.truth, kind.said, kind.link_type, f"{kind.rows:,}", percent(kind.share_of_lost, 1))
                for kind in ladder.mistake_kinds
            ],
        ),
        "Those that cost most time:",
        table(
            (
                "object",
                "version",
                "type",
                "link",
                "bytes",
                "oracle",
                "said",
                "confidence",
                "oracle's ms",
                "lost ms",
                "gap",
            ),
            [
                (
                    one.object_id,
                    str(one.version),
                    one.data_type,
                    one.link_type,
                    f"{one.size_bytes:,}",
                    one.truth,
                    one.said,
                    f"{one.confidence:.2f}",
                    f"{one.oracle_ms:,.2f}",
                    f"{one.lost_ms:,.2f}",
                    percent(one.gap, 1),
                )
                for one in ladder.mistakes
            ],
        ),
    ]
