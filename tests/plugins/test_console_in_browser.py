"""The console as on-call sees it at 3 a.m.: in light and dark, on a desk and a phone, and by the keyboard alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from pydantic import SecretStr

import histories
from dwcp.console.page import FORMS, PLOTS, console_page
from dwcp.settings import Settings

pytestmark = pytest.mark.browser
CONTRAST = 4.5
"""WCAG 2.2 AA for text."""
_MEASURE_CONTRAST = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const light = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const worst = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || ["SCRIPT", "STYLE", "title"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const ink = element.closest("svg") ? style.fill : style.color;
    const [high, low] = [light(parse(ink)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (high + 0.05) / (low + 0.05);
    const name = `${element.tagName}.${element.getAttribute("class") || ""}`;
    if (!(worst[name] < ratio)) worst[name] = ratio;
  }
  return worst;
}
"""


def settings_of(warehouse: object, home: Path) -> Settings:
    return Settings(home=home, reader_dsn=SecretStr(warehouse.reader_dsn))


@pytest.fixture(scope="module")
def html(warehouse: object, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Nine weeks; then a region's accuracy falls, another decides slowly, a third is paused, a day is held back."""
    histories.write_history(warehouse, weeks=9)
    histories.let_harm_happen(warehouse)
    may_start = {form.dag_id for form in FORMS[:2]}
    status, html = console_page(settings_of(warehouse, tmp_path_factory.mktemp("home")), may_start=may_start)
    assert status == 200
    return html


@pytest.mark.parametrize("width", ["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_worst_comes_first_and_all_of_it_can_be_read(open_page, html: bytes, width: str, scheme: str) -> None:
    page = open_page(html, "console", width, scheme)
    text = page.inner_text("body")
    assert text.index("Something is wrong: week009 (full) does harm in eu-west") < text.index("Roll back …")
    assert text.index("Roll back …") < text.index("What serves where") < text.index("What was done")
    assert page.locator("tbody").first.inner_text().startswith("eu-west")
    heights = page.locator("svg").evaluate_all("plots => plots.map(plot => plot.getBoundingClientRect().height)")
    assert len(heights) == len(PLOTS)
    assert min(heights) > 100
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "wider than the window"
    too_faint = {name: ratio for name, ratio in page.evaluate(_MEASURE_CONTRAST).items() if ratio < CONTRAST}
    assert too_faint == {}
    first = page.get_by_role("status").bounding_box()
    assert first["y"] + first["height"] < 500, "the sentence is not on the first screen"


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(open_page, html: bytes) -> None:
    page = open_page(html, "console-keyboard")
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(({innerText, ariaLabel, tagName}) => tagName === 'BODY' ? '' : ariaLabel || innerText)"
                "(document.activeElement)"
            )
        )
    assert seen[:4] == ["Look again", "Roll back …", "Backfill days …", "What serves where"]
    order = ["eu-west", "Realised accuracy", "The gate's table of week009", "Rows by day", "Transition log"]
    assert [seen.index(name) for name in order] == sorted(seen.index(name) for name in order)
    page.locator("a", has_text="Roll back …").focus()
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_headings_and_tables_are_told_to_those_who_do_not_see_them(open_page, html: bytes) -> None:
    page = open_page(html, "console-structure")
    levels = page.locator("h1, h2, h3, h4").evaluate_all("all => all.map(one => Number(one.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels)), levels
    assert page.locator("table th:not([scope])").count() == 0
    assert page.locator("table").count() == page.locator("table:has(thead th)").count() > 4
    assert page.locator("svg:not([role=img][aria-label])").count() == 0


def test_without_postgres_the_first_line_says_what_to_do(open_page, tmp_path: Path) -> None:
    away = Settings(home=tmp_path, reader_dsn=SecretStr("postgresql://dwcp_reader:hush@127.0.0.1:1/dwcp"))
    _, html = console_page(away, may_start={FORMS[0].dag_id})
    page = open_page(html, "console-no-postgres", scheme="dark")
    assert "cannot reach Postgres" in page.get_by_role("status").inner_text()


def test_a_fresh_installation_is_no_empty_page(open_page, fresh_warehouse, tmp_path: Path) -> None:
    _, html = console_page(settings_of(fresh_warehouse, tmp_path), may_start={form.dag_id for form in FORMS})
    page = open_page(html, "console-fresh")
    assert page.get_by_role("status").inner_text().startswith("Nothing is wrong: no model decides anywhere")
