"""Pages are looked at in a real browser: the machine's own Chromium, driven by Playwright, without any network."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

WIDTHS = {"desk": 1200, "phone": 420}


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A headless Chromium. Skips with the reason where there is none."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        started = playwright.chromium.launch(executable_path=executable, args=arguments)
        yield started
        started.close()


@pytest.fixture
def open_page(browser, tmp_path: Path) -> Iterator[Callable[..., object]]:
    """Open HTML as a file and return the page. At the end: it asked for nothing outside, and no script failed.

    With ``DWCP_SCREENSHOTS`` set, a picture of every page is kept in that directory.
    """
    asked: list[str] = []
    errors: list[str] = []
    contexts = []

    def opened(html: bytes, name: str, width: str = "desk", scheme: str = "light") -> object:
        context = browser.new_context(viewport={"width": WIDTHS[width], "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        file = tmp_path / f"{name}-{width}-{scheme}.html"
        file.write_bytes(html)
        page.goto(file.as_uri())
        if pictures := os.environ.get("DWCP_SCREENSHOTS"):
            page.screenshot(path=Path(pictures) / f"{file.stem}.png", full_page=True)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert errors == []
