"""What ``make incidents`` prints, and two of its incidents on a small installation."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

from incidents import postgres_restart, report, two_operators
from incidents.report import Incident, NodesSaid, Span
from incidents.site import Ground, ground

from dwcp.release.publish import publish
from dwcp.settings import Settings
from releases import ready

SEEN = Incident(
    number=3,
    name="Nodes' clocks stop",
    cause="They stop.",
    detected=Span(7_200, "field", "the first look"),
    recovered=Span(1.25, "wall", "until they go"),
    said=("eu-west: v1: alert",),
    did=("nothing",),
    on_call="wind them",
    nodes=NodesSaid("six Go nodes", 1_000, 0, 1.5),
)
UNSEEN = Incident(
    number=4,
    name="Nobody looks",
    cause="It is dark.",
    detected=None,
    recovered=None,
    said=(),
    did=(),
    on_call="look",
    nodes=NodesSaid("six Go nodes", 10, 1, 2.0, "no model is loaded"),
    open=("nobody is told",),
)


def test_each_time_says_its_clock():
    assert str(SEEN.detected) == "2 h in the field (the first look)"
    assert str(Span(10 * 86_400, "field", "x")) == "10.0 days in the field (x)"
    assert str(SEEN.recovered) == "1.2 s on the clock (until they go)"


def test_what_was_not_seen_is_said_so_wherever_it_is_printed():
    printed = report.in_words(UNSEEN)
    assert "detected: NOT DETECTED" in printed
    assert "1 failed, slowest 2.0 ms; the first: no model is loaded" in printed
    assert "OPEN: nobody is told" in printed
    page = report.page([SEEN, UNSEEN], fleet="A fleet.")
    assert "| 4 | [Nobody looks](#4-nobody-looks) | **not detected** | **not recovered** | 10 | 1 |" in page
    assert "| 3 | [Nodes' clocks stop](#3-nodes-clocks-stop) | 2 h in the field (the first look) |" in page
    assert "> eu-west: v1: alert\n" in page
    assert "* **Open**: nobody is told" in page


def test_a_run_is_kept_for_the_page_of_a_later_one():
    assert report.from_json(report.to_json(SEEN)) == SEEN
    assert report.from_json(report.to_json(UNSEEN)) == UNSEEN


def serve(settings: Settings) -> None:
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="a test")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: the incidents count what real nodes decide")
    with ground(tmp_path_factory.mktemp("incidents"), serve) as made:
        yield made


@pytest.mark.parametrize("scenario", [postgres_restart, two_operators])
def test_no_decision_fails_and_nothing_is_left_open(base: Ground, scenario):
    with base.site(1) as site:
        found = scenario.run(site)
    assert found.detected
    assert found.recovered
    assert found.open == ()
    assert found.nodes.decisions > 100
    assert found.nodes.failed == 0, found.nodes.first_failure
    assert len(found.said) >= 2
