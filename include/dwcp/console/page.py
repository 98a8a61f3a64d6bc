"""The console as one HTML page that needs nothing else: what is urgent first, then what serves, then why."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib.resources import files
from types import SimpleNamespace

import jinja2
import psycopg2
from markupsafe import Markup

from dwcp.console import status, wording
from dwcp.console.lines import Line, plot
from dwcp.console.queries import POINTS, Facts, Figure, History, Place, begin, outdated, read_facts, read_history
from dwcp.contract import REGIONS, ROLLOUT_BUCKETS
from dwcp.release import wording as release_wording
from dwcp.release.registry import RegistryError, connect
from dwcp.settings import Settings

RANGES = {30: "30 days", 90: "90 days", 365: "a year"}
_HERE = files("dwcp.console")
SCRIPT = (_HERE / "leave_frame.js").read_text(encoding="utf-8")
STYLE = (files("dwcp.release") / "page.css").read_text(encoding="utf-8") + (_HERE / "console.css").read_text("utf-8")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; script-src 'sha256-"
    + base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    + "'"
)
"""``Content-Security-Policy``: nothing from outside, and no script but the one."""


@dataclass(frozen=True, slots=True)
class Form:
    """A form of Airflow's that on-call may need."""

    dag_id: str
    label: str
    what: str


FORMS = (
    Form("dwcp_manual_rollback", "Roll back …", "take a model back, in one region or everywhere"),
    Form("dwcp_manual_backfill", "Backfill days …", "load or label chosen days again"),
    Form("dwcp_weekly_retraining", "Train now …", "the weekly run, for the last full week or another"),
)
PLOTS: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = (
    ("accuracy", "Realised accuracy", (("accuracy", "accuracy"),)),
    ("regret", "Mean regret of what was executed", (("mean regret", "mean_regret"),)),
    ("loss", "Throughput lost against the best choices", (("lost", "throughput_loss"),)),
    ("gain", "Canary's throughput against control", (("gain", "throughput_gain"),)),
    (
        "latency",
        "Latency of a decision: p99, p95 (dashed), p50 (dotted)",
        (("p99", "latency_p99_ms"), ("p95", "latency_p95_ms"), ("p50", "latency_p50_ms")),
    ),
    ("drift", "Drift: largest stability index of a feature", (("index", "feature_psi"),)),
)


def console_page(
    settings: Settings, *, region: str | None = None, days: int = 30, may_start: Collection[str] = ()
) -> tuple[int, bytes]:
    """HTTP status and page. ``region`` None is the most urgent one; ``may_start`` are the DAGs whose form may be used.

    Whatever keeps Postgres from answering becomes a page with one line that says what to do.
    """
    try:
        with connect(settings, "reader") as db:
            begin(db)
            facts = read_facts(db)
            judged = status.judge(facts, settings)
            chosen = region if region in REGIONS else judged.regions()[0]
            history = read_history(db, chosen, days if days in RANGES else 30)
    except RegistryError as error:
        return 503, _render("failure.html.j2", line=str(error), may_start=may_start)
    except psycopg2.Error as error:
        told = outdated(error)
        if told is None:
            raise
        return 503, _render("failure.html.j2", line=str(told), may_start=may_start)
    return 200, render(facts, judged, history, days=days if days in RANGES else 30, may_start=may_start)


def render(
    facts: Facts, judged: status.Status, history: History, *, days: int, may_start: Collection[str] = ()
) -> bytes:
    """The page of what was read, as UTF-8. Everything is escaped: reasons hold what nodes logged and people typed."""
    return _render(
        "console.html.j2",
        facts=facts,
        judged=judged,
        history=history,
        days=days,
        ranges=RANGES,
        region_count=len(REGIONS),
        places=_in_order(facts, judged),
        paused={pause.region for pause in facts.pauses},
        share=lambda place: _share(facts, place),
        verdicts=_verdicts(facts, history.region),
        plots=[(name, title, _plot(title, parts, history, days)) for name, title, parts in PLOTS],
        gates=[(gate, [SimpleNamespace(**line) for line in gate.lines]) for gate in facts.gates],
        serves=lambda version: sorted({p.region for p in facts.places if p.version == version and p.role != "none"}),
        wording=wording,
        release_wording=release_wording,
        status=status,
        may_start=may_start,
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("dwcp.console", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(template: str, **values: object) -> bytes:
    page = _environment().get_template(template).render(style=STYLE, script=SCRIPT, forms=FORMS, **values)
    return page.encode()


def _in_order(facts: Facts, judged: status.Status) -> list[Place | str]:
    """What serves where, the most urgent region first; a region's name alone where no model was ever."""
    found: list[Place | str] = []
    for region in judged.regions():
        here = [place for place in facts.places if place.region == region]
        found += here or [region]
    return found


def _share(facts: Facts, place: Place) -> float:
    """The share of the region's objects that the version decides for."""
    if place.role != "champion":
        return place.share_buckets / ROLLOUT_BUCKETS
    taken = sum(p.share_buckets for p in facts.places if p.region == place.region and p.role == "challenger")
    return (ROLLOUT_BUCKETS - taken) / ROLLOUT_BUCKETS


def _verdicts(facts: Facts, region: str) -> list[tuple[str, str, Sequence[Figure]]]:
    """Version, role and figures of each look in the region, in the order of ``QUANTITIES``."""
    order = list(wording.QUANTITIES)
    found: dict[tuple[str, str], list[Figure]] = {}
    for figure in facts.figures:
        # Without a canary there is nothing that could be compared with control.
        compared = figure.value is not None or not wording.quantity(figure.quantity).loss
        if figure.region == region and compared:
            found.setdefault((figure.version, figure.role), []).append(figure)

    def place(figure: Figure) -> tuple[bool, int]:
        known = figure.quantity in order
        return figure.verdict != "FAIL", order.index(figure.quantity) if known else len(order)

    return [(*key, sorted(figures, key=place)) for key, figures in found.items()]


def _plot(title: str, parts: Sequence[tuple[str, str]], history: History, days: int) -> Markup:
    if history.start is None or history.until is None:
        return Markup()
    lines = [Line(name, history.of(quantity)) for name, quantity in parts]
    return plot(
        title,
        lines,
        history.marks,
        start=history.start,
        until=history.until,
        gap=3 * timedelta(days=days) / POINTS,
        quantity=wording.quantity(parts[0][1]),
    )
