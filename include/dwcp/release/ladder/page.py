"""The ladder's page: one HTML file that needs nothing else; the answer first, then what it rests on."""

from __future__ import annotations

from pathlib import Path

import jinja2

from dwcp.release import wording
from dwcp.release.ladder import found, plots
from dwcp.release.ladder.found import Ladder
from dwcp.release.ladder.markdown import SLICED_BY, looks_sentence
from dwcp.release.report import STYLE

_TEMPLATE = Path(__file__).with_name("page.html.j2")


def render(ladder: Ladder) -> bytes:
    """The page, as UTF-8."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    time = ladder.splits[0]
    page = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        ladder=ladder,
        time=time,
        ensemble=time.rung(found.ENSEMBLE),
        product=time.rung(found.PRODUCT),
        sliced_by=SLICED_BY,
        looks=looks_sentence(ladder),
        style=STYLE,
        wording=wording,
        plots={
            "accuracies": plots.accuracies(ladder),
            "regrets": plots.regrets(ladder),
            "gap": plots.by_gap(ladder),
            "reliability": plots.reliability(ladder.calibration),
            "learning": plots.learning(ladder.curve),
            "oracles": plots.oracles(ladder.worth),
            "sizes": plots.model_sizes(ladder.sizes),
            "accuracy_grid": plots.accuracy_grid(time),
            "gains": plots.gains(time, paid=False),
            "gains_paid": plots.gains(time, paid=True),
        },
    )
    return page.encode()
