"""The documents say what the code does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from dwcp import contract
from dwcp.quality import expectations
from dwcp.quality.dictionary import render
from dwcp.quality.expectations import Surroundings, build_suite
from dwcp.quality.suite import LABEL_SAMPLE
from dwcp.window import Window
from transfers import START

DOCS = Path(__file__).parents[2] / "docs"


def test_the_data_dictionary_is_current() -> None:
    assert (DOCS / "data_dictionary.md").read_text(encoding="utf-8") == render(), "run `make generate`"


def test_every_column_and_feature_has_its_line() -> None:
    lines = [line.split(" | ") for line in render().splitlines() if line.startswith("| ")]
    first = [line[0].removeprefix("| ") for line in lines]
    for column in contract.COLUMNS:
        assert first.count(f"`{column.name}`") == 1, column.name
    assert len({len(line) for line in lines if line[0].startswith("| `served_")}) == 1
    numbered = [line[1] for line in lines if line[0].removeprefix("| ").isdigit()]
    assert numbered == [f"`{feature.name}`" for feature in contract.FEATURES]


def test_the_specification_names_every_expectation_and_its_limits() -> None:
    text = (DOCS / "compression_data_pipeline.md").read_text(encoding="utf-8")
    day = Window.of_day(START.date())
    around = Surroundings(day, START + timedelta(days=2), rows=9, labelled=3, ledger_loaded=9, earlier_rows=(9,))
    titles = {str(expectation.meta["title"]) for expectation in build_suite(around).expectations}
    assert len(titles) > 20
    for title in titles:
        shown = title.split("'s outcomes ")[-1].removeprefix("amst ").removeprefix("none ").removeprefix("hde ")
        assert shown in text, title
    for low, high in (expectations.LABEL_SHARE_FAIL, expectations.LABEL_SHARE_WARN):
        assert f"{low * 100:g} % to {high * 100:g} %" in text
    for low, high in (expectations.VOLUME_FAIL, expectations.VOLUME_WARN):
        assert f"{low:g} to {high:g} times" in text
    assert f"{LABEL_SAMPLE:,} rows" in text
    assert (timedelta(days=1), timedelta(hours=6)) == (expectations.FRESHNESS_FAIL, expectations.FRESHNESS_WARN)
