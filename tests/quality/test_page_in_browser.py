"""The quality gate's page as a person sees it."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from dwcp.quality.report import render
from dwcp.quality.result import CheckResult, Example, Severity, ValidationResult
from dwcp.warehouse.load import Counts
from dwcp.window import Window

pytestmark = pytest.mark.browser

BROKEN = CheckResult(
    "values are known",
    "link_type",
    Severity.FAIL,
    False,
    "one of dc, metro, wan",
    "1 of 296 rows",
    1,
    (Example("t3-20260806-7", "<script>document.title='stolen'</script>"),),
)
RESULT = ValidationResult(
    Window(datetime(2026, 8, 3, tzinfo=UTC), datetime(2026, 8, 10, tzinfo=UTC)),
    "manual__2026-08-10T03:00:00+00:00",
    Counts(300, 296, 3, 1),
    (("hde", 50), ("amst", 30), ("none", 16)),
    (("rtt_ms not a finite number", 2), ("packet_loss_rate below the minimum", 1)),
    (BROKEN, CheckResult("values are in range", "rtt_ms", Severity.FAIL, True, "0 to 60000", "0.2 to 83")),
)


@pytest.mark.parametrize("width", ["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_counts_and_failures_come_first_and_nothing_of_a_row_runs(open_page, width: str, scheme: str):
    page = open_page(render(RESULT), "quality", width, scheme)
    text = page.inner_text("body")
    assert text.index("300") < text.index("link_type") < text.index("rtt_ms")
    assert "t3-20260806-7" in text
    assert page.title() != "stolen"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the window"
