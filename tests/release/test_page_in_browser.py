"""The evaluation page as a person sees it."""

from __future__ import annotations

import pytest

import trained
from dwcp.export import parity
from dwcp.export.forms import build_forms
from dwcp.release.evaluate import evaluate
from dwcp.release.gate import judge
from dwcp.release.report import render

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def html() -> bytes:
    before, parity.RANDOM_ROWS = parity.RANDOM_ROWS, 500
    try:
        ensemble = trained.ensemble()
        found = evaluate(build_forms(ensemble, version="v1"), trained.dataset(), ensemble, trained.SETTINGS)
    finally:
        parity.RANDOM_ROWS = before
    return render(found, judge(found, trained.SETTINGS))


@pytest.mark.parametrize("width", ["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_verdict_comes_first_and_every_plot_is_drawn(open_page, html: bytes, width: str, scheme: str):
    page = open_page(html, "evaluation", width, scheme)
    text = page.inner_text("body")
    assert text.index("strict accuracy") < text.index("always zstd")
    plots = page.locator("svg").evaluate_all("plots => plots.map(plot => plot.getBoundingClientRect().height)")
    assert len(plots) >= 4
    assert min(plots) > 50
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the window"
