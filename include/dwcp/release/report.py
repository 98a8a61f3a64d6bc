"""The evaluation's page: one HTML file that needs nothing else; the verdict first, then what it rests on."""

from __future__ import annotations

from pathlib import Path

import jinja2

from dwcp.release import charts, wording
from dwcp.release.evaluate import EXECUTED, MODEL, Evaluation
from dwcp.release.gate import Verdict

_TEMPLATE = Path(__file__).with_name("report.html.j2")
STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
"""How this room's pages look, in light and dark."""


def render(evaluation: Evaluation, verdict: Verdict) -> bytes:
    """The page of one evaluation and its verdict, as UTF-8."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    by_chance = {rung.name: rung for rung in evaluation.random.ladder} if evaluation.random else {}
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        evaluation=evaluation,
        verdict=verdict,
        model=evaluation.time.rung(MODEL),
        executed=evaluation.time.rung(EXECUTED),
        executed_name=EXECUTED,
        by_chance=by_chance,
        wording=wording,
        style=STYLE,
        plots={
            "confusion": charts.confusion(evaluation.time),
            "calibration": charts.calibration(evaluation.time),
            "regret": charts.regret(evaluation.time),
            "importance": charts.importance(evaluation.importance),
        },
    )
    return page.encode()
