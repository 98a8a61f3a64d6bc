from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

import trained
from dwcp.export import parity
from dwcp.export.forms import FORMS, ONNX, build_forms
from dwcp.release import charts
from dwcp.release.card import evaluation_page, model_card
from dwcp.release.evaluate import MODEL, evaluate
from dwcp.release.gate import judge
from dwcp.release.report import render
from dwcp.release.wording import percent
from dwcp.training.dataset import TEST
from dwcp.window import Window

SETTINGS = trained.SETTINGS
WINDOW = Window(datetime(2026, 8, 3, tzinfo=UTC), datetime(2026, 8, 10, tzinfo=UTC))


def evaluated(dataset):
    before, parity.RANDOM_ROWS = parity.RANDOM_ROWS, 500
    try:
        ensemble = trained.ensemble()
        forms = build_forms(ensemble, version="<b>v1</b>")
        return evaluate(forms, dataset, ensemble, SETTINGS, champion=forms[ONNX])
    finally:
        parity.RANDOM_ROWS = before


@pytest.fixture(scope="module")
def found():
    return evaluated(trained.dataset())


@pytest.fixture(scope="module")
def verdict(found):
    return judge(found, SETTINGS)


class Tags(HTMLParser):
    """Checks that every element that opens closes, in order."""

    VOID = ("meta", "br", "use", "path")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_page_is_whole_and_needs_nothing_else(found, verdict):
    page = render(found, verdict).decode()
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    loads = re.findall(r"""(?:src|href)=["'](?!#)|@import|url\((?!#)""", page)
    assert loads == []
    assert page.count("<svg") == 4
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers))


def test_page_shows_the_gate_and_the_ladder(found, verdict):
    page = render(found, verdict).decode()
    for line in verdict.lines:
        assert line.name in page
    for reason in verdict.reasons:
        assert reason.split(",")[0] in page
    for rung in found.time.ladder:
        assert rung.name in page
        assert percent(rung.accuracy.estimate) in page
    assert "seen before the test split" in page


def test_values_are_escaped(found, verdict):
    assert "<b>v1" not in render(found, verdict).decode()


@pytest.mark.parametrize("draw", [charts.confusion, charts.calibration, charts.regret])
def test_plots_are_svg_in_the_colour_of_the_page(found, draw):
    drawn = draw(found.time)
    ElementTree.fromstring(drawn)
    assert "currentColor" in drawn
    assert charts.INK not in drawn
    assert "#000000" not in drawn
    assert draw(found.time) == drawn


def test_importance_plot_shows_the_largest_first(found):
    drawn = charts.importance(found.importance)
    ElementTree.fromstring(drawn)
    shown = sorted(found.importance, key=lambda part: -part.accuracy_lost)[: charts.SHOWN_FEATURES]
    assert all(part.name in drawn for part in shown)


def test_card_tells_use_data_figures_and_weakness(found, verdict):
    card = model_card(found, verdict, window=WINDOW, feature_names=trained.ensemble().feature_names)
    assert card.index("## Use") < card.index("## Training data") < card.index("## Figures")
    assert "2026-08-03 to 2026-08-10" in card
    assert verdict.status.value in card
    assert percent(found.time.rung(MODEL).accuracy.estimate) in card
    worst = max(found.time.slices, key=lambda part: part.mean_regret.estimate)
    assert f"{worst.data_type} on {worst.link_type}" in card
    assert all(f"| {name} |" in card for name in trained.ensemble().feature_names)


def test_evaluation_page_shows_every_slice(found, verdict):
    page = evaluation_page(found, verdict)
    assert all(f"| {part.link_type} | {part.data_type} | {part.rows:,} |" in page for part in found.time.slices)
    assert all(line.name in page for line in verdict.lines)


def test_every_form_stands_beside_what_was_trained(found, verdict):
    card = model_card(found, verdict, window=WINDOW, feature_names=trained.ensemble().feature_names)
    for page in (evaluation_page(found, verdict), card, render(found, verdict).decode()):
        assert all(form in page for form in FORMS)
        assert all(runtime in page for runtime in found.parity.runtimes)


def test_nothing_held_out_still_makes_a_page_and_a_card():
    dataset = trained.dataset()
    empty = evaluated(dataset.take(dataset.split != TEST))
    verdict = judge(empty, SETTINGS)
    assert "INCONCLUSIVE" in render(empty, verdict).decode()
    assert "nothing is known" in model_card(empty, verdict, window=WINDOW, feature_names=("rtt_ms", "a new one"))
    assert "INCONCLUSIVE" in evaluation_page(empty, verdict)


def test_without_what_was_measured(found):
    bare = dataclasses.replace(found, measured=None)
    assert "was not measured" in render(bare, judge(bare, SETTINGS)).decode()
