"""``dwcp parity``: how far each form is from what was trained, and what a decision of it costs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from dwcp.settings import Settings
from dwcp.store import Store

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dwcp.export.footprint import Footprint
    from dwcp.export.naive import Naive
    from dwcp.export.parity import Parity
    from dwcp.release.int8 import Int8Comparison, Variant

log = logging.getLogger(__name__)


def run_parity(settings: Settings, run_id: str | None = None) -> tuple[RenderableType, bool]:
    """The tables for the last registered run, or the one named, and whether every form agrees.

    Forms as they were registered, beside the trained ensemble, the libraries that trained it, and its network in int8.
    Raises ``ValueError`` if there is no such run, or it registered fewer forms.
    """
    from dwcp.export.footprint import measure_footprint, measure_go_footprint
    from dwcp.export.forms import FORMS, GO, ONNX, TFLITE
    from dwcp.export.naive import time_naive
    from dwcp.export.parity import check_parity
    from dwcp.export.tflite_graph import build_tflite
    from dwcp.pipeline.summary import registered_model
    from dwcp.release.baselines import inputs_of
    from dwcp.release.int8 import compare_int8
    from dwcp.training.dataset import TEST, Dataset
    from dwcp.training.ensemble import Ensemble
    from dwcp.training.split import split_by_time

    model = registered_model(settings, run_id)
    if absent := [form for form in FORMS if form not in model.artifacts]:
        raise ValueError(f"run {model.run_id} registered no {', '.join(absent)}: run the week again with this version")
    store = Store(settings.store_dir)
    forms = {form: store.get(model.artifacts[form]) for form in FORMS}
    ensemble = Ensemble.from_bytes(store.get(model.artifacts["ensemble.zip"]))
    dataset = split_by_time(Dataset.from_parquet_bytes(store.get(model.artifacts["dataset.parquet"])), settings)
    rows = inputs_of(dataset.only(TEST), ensemble.feature_names)
    log.info("comparing the forms of version %s with what was trained", model.version)
    parity = check_parity(forms, ensemble, rows, seed=settings.seed)
    log.info("timing single decisions, each form in a process of its own")
    footprints = {form: measure_footprint(content, rows, form=form) for form, content in forms.items() if form != GO}
    footprints[GO] = measure_go_footprint(forms[GO], rows) or measure_footprint(forms[GO], rows, form=GO)
    log.info("timing the libraries that trained it")
    naive = time_naive(ensemble, forms[ONNX], rows)
    log.info("holding the network in int8 beside the float one")
    int8 = compare_int8(forms[TFLITE], dataset, ensemble, settings)
    network = replace(ensemble, xgboost_weight=0.0)
    alone = compare_int8(build_tflite(network, version=model.version), dataset, network, settings)
    sizes = {form: len(content) for form, content in forms.items()}
    head = Text(
        f"\nVersion {model.version} of run {model.run_id}, {parity.rows:,} vectors or more a form\n", style="bold"
    )
    return Group(head, _forms(parity, sizes, footprints), _naive(naive), _int8(int8, alone)), parity.agrees


def _table(title: str, names: Sequence[str], *numbers: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in names:
        table.add_column(name, no_wrap=True)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _forms(parity: Parity, sizes: dict[str, int], footprints: dict[str, Footprint]) -> RenderableType:
    table = _table(
        "Each form beside what was trained: outliers, other labels; CPU time of a decision in a process of its own",
        ("form", "run by"),
        *("vectors", "max |Δp|", "outliers", "labels", "size", "load", "p50", "p99", "memory"),
    )
    for form, measured in footprints.items():
        compared = parity.of(form)
        table.add_row(
            form,
            ", ".join(compared.runtimes),
            f"{compared.compared:,}",
            f"{compared.max_difference:.1e}",
            f"{compared.outliers:,}",
            f"{compared.label_differences:,}",
            f"{sizes[form] / 1e6:.2f} MB",
            f"{measured.load_ms:.1f} ms",
            f"{1e3 * measured.latency_p50_ms:,.0f} µs",
            f"{1e3 * measured.latency_p99_ms:,.0f} µs",
            f"{measured.peak_memory_bytes / 1e6:.0f} MB",
        )
    return table


def _naive(found: list[Naive]) -> RenderableType:
    table = _table(
        "Without an export; times as they pass, as these spread over threads", ("called", "answers"), "p50", "p99"
    )
    for way in found:
        table.add_row(way.name, way.part, f"{1e3 * way.latency_p50_ms:,.0f} µs", f"{1e3 * way.latency_p99_ms:,.0f} µs")
    return table


def _int8(found: Int8Comparison, alone: Int8Comparison) -> RenderableType:
    """The ensemble in both variants, and what its network says ``alone``; only the ensemble would ship."""
    table = _table(
        "The network in int8, trees as they are: model.tflite on the test rows",
        ("answers", "variant"),
        *("accuracy", "regret as executed", "same label", "size", "p50", "p99"),
    )
    for variant in (found.float32, found.int8):
        table.add_row(
            "the ensemble",
            *_quality(variant),
            f"{variant.size_bytes / 1e6:.2f} MB",
            f"{1e3 * variant.latency_p50_ms:,.0f} µs",
            f"{1e3 * variant.latency_p99_ms:,.0f} µs",
        )
    for variant in (alone.float32, alone.int8):
        table.add_row("the network alone", *_quality(variant))
    said = f"It does not ship: {'; '.join(found.reasons)}." if found.reasons else "It would be worth shipping."
    return Group(table, Text(f"{said}\n"))


def _quality(variant: Variant) -> tuple[str, ...]:
    return variant.name, f"{variant.accuracy:.2%}", f"{variant.mean_regret:.3%}", f"{variant.agreement:.2%}"
