"""What a weekly run did, for a person: rows, labels, the gate's table, the version or the reason why not."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dwcp.pipeline.ingest import COUNTS
from dwcp.pipeline.site import dsn
from dwcp.settings import Settings
from dwcp.store import Store
from dwcp.window import Window

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dwcp.release.evaluate import Evaluation
    from dwcp.release.registry import RegisteredVersion

COLOURS = {"PASS": "green", "FAIL": "red", "INCONCLUSIVE": "yellow"}


def render_summary(settings: Settings, run_id: str | None = None) -> RenderableType:
    """The last weekly run that reached the gate, or the one named. Raises ``ValueError`` if there is none."""
    model = registered_model(settings, run_id)
    week = Window.parse(*model.metrics["week"])  # type: ignore[misc]
    return Group(
        Text(f"\nDWCP weekly run {model.run_id}", style="bold"),
        Text(f"week {week.start:%Y-%m-%d} to {week.end:%Y-%m-%d}, data since {model.window.start:%Y-%m-%d}\n"),
        _rows(settings, week),
        _labels(settings, week),
        _gate(model),
        _parity(settings, model),
        _outcome(settings, model),
    )


def evaluation_markdown(settings: Settings, run_id: str | None = None) -> str:
    """The evaluation of the last run that reached the gate, or the one named: ``docs/compression_selector_eval.md``."""
    from dwcp.release.card import evaluation_page
    from dwcp.release.gate import Verdict

    model = registered_model(settings, run_id)
    evaluation = _evaluation(settings, model)
    page = evaluation_page(evaluation, Verdict.from_json(json.dumps(model.metrics["gate"])))
    # Times in it are those of this machine: the evaluation's own process ran here.
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    machine = f"{cpu.partition(':')[2].strip() or platform.machine()}, {os.cpu_count()} cores"
    return (
        f"{page}\nPrinted by `dwcp evaluation` from run `{model.run_id}`, {model.registered_at:%Y-%m-%d}; {machine}.\n"
    )


def render_models(settings: Settings) -> RenderableType:
    """Every registered version with its verdict, and where it serves."""
    from dwcp.release.registry import champions, list_versions

    serving = champions(settings)
    table = _table("Models", "version", "state", "verdict", "accuracy", "trained up to", "serves")
    for model in list_versions(settings):
        regions = sorted(region for region, version in serving.items() if version == model.version)
        table.add_row(
            model.version,
            model.state,
            Text(model.verdict, style=COLOURS[model.verdict]),
            "" if model.accuracy is None else f"{model.accuracy:.2%}",
            f"{model.window.end:%Y-%m-%d}",
            ", ".join(regions),
        )
    return table


def registered_model(settings: Settings, run_id: str | None) -> RegisteredVersion:
    """The last registered model, or the one of ``run_id``. Raises ``ValueError`` if there is none."""
    from dwcp.release.registry import list_versions

    found = [model for model in list_versions(settings) if run_id in (None, model.run_id)]
    if not found:
        raise ValueError(f"no model was registered by run {run_id}" if run_id else "no weekly run reached the gate yet")
    return found[0]


def rollout_lines(settings: Settings) -> list[str]:
    """For each region what serves, and what the rollout does next or waits for: a line each."""
    from dwcp.pipeline.rollout import evidence_for
    from dwcp.release.rollout import decide, status

    lines = []
    for position in status(settings):
        decision = decide(position, settings, evidence_for(settings, position))
        where = f", {position.version} is in {position.state}" if position.version else ""
        lines.append(
            f"{position.region}: {position.champion or 'rules'} serves{where}; {str(decision).partition(': ')[2]}"
        )
    return lines


def _evaluation(settings: Settings, model: RegisteredVersion) -> Evaluation:
    from dwcp.release.evaluate import Evaluation

    return Evaluation.from_json(Store(settings.store_dir).get(model.artifacts["evaluation.json"]))


def _table(title: str, *columns: str) -> Table:
    return Table(*columns, title=title, title_justify="left", title_style="bold")


def _rows(settings: Settings, week: Window) -> RenderableType:
    from dwcp.warehouse.windows import loaded_counts

    counts = loaded_counts(dsn(settings, "loader"), week)
    table = _table("Rows (read = loaded + quarantined + duplicate)", *COUNTS)
    table.add_row(*(f"{getattr(counts, name):,}" for name in COUNTS))
    return table


def _labels(settings: Settings, week: Window) -> RenderableType:
    from dwcp.contract import CANDIDATES
    from dwcp.warehouse.labels import loaded_labels

    labels = loaded_labels(dsn(settings, "loader"), week)["optimal_compression"]
    counts = {entry["values"]: entry["counts"] for entry in labels.drop_null().value_counts().to_pylist()}
    total = sum(counts.values())
    table = _table(f"Labels ({total:,} fully measured rows)", "oracle's choice", "rows", "share")
    for name in CANDIDATES:
        table.add_row(name, f"{counts.get(name, 0):,}", f"{counts.get(name, 0) / max(total, 1):.1%}")
    return table


def _gate(model: RegisteredVersion) -> RenderableType:
    from dwcp.release.gate import Verdict
    from dwcp.release.wording import line_bounds, quantity, threshold

    verdict = Verdict.from_json(json.dumps(model.metrics["gate"]))
    table = _table("Gate", "", "threshold", "value", "95 % interval", "verdict")
    for line in verdict.lines:
        status = Text(line.status.value, style=COLOURS[line.status.value])
        table.add_row(line.name, threshold(line), quantity(line.value, line.unit), line_bounds(line), status)
    return table


def _parity(settings: Settings, model: RegisteredVersion) -> RenderableType:
    """A line a form: how far it is from what was trained."""
    from dwcp.release.card import parity_cells

    evaluation = _evaluation(settings, model)
    head = ("form", "run by", "size", "vectors", "max |Δp|", "outliers", "other labels")
    table = _table("Parity with what was trained", *head)
    for form in evaluation.parity.forms:
        table.add_row(*parity_cells(evaluation, form))
    return table


def _outcome(settings: Settings, model: RegisteredVersion) -> RenderableType:
    from dwcp.release.registry import champions

    style = COLOURS[model.verdict]
    serving = [region for region, version in champions(settings).items() if version == model.version]
    if serving:
        said = Text(f"\nPublished: version {model.version} serves {len(serving)} regions", style=style)
    elif model.verdict == "PASS":
        said = Text("\n".join(["", "Published; its rollout:", *rollout_lines(settings)]), style=style)
    else:
        said = Text(f"\nNot published: the gate says {model.verdict} of version {model.version}\n", style=style)
        said.append("\n".join(f"  {reason}" for reason in model.reasons), style="default")
    page = settings.reports_dir / str(model.metrics["report"])
    return Group(said, Text(f"\nThe evaluation page: {page}"))
