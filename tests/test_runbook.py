"""The runbook starts from the text that on-call sees: whatever the code can say to them has its line there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.watch.decide import POLICY

REPOSITORY = Path(__file__).parent.parent
RUNBOOK = (REPOSITORY / "docs" / "compression_selector_ops.md").read_text()
DWCP = REPOSITORY / "include" / "dwcp"
GAP = "…"
"""Stands in code and runbook for what differs from case to case."""
OPERATIONS = ("pipeline", "release", "sources", "training", "warehouse", "watch")
"""The rooms whose steps tasks run."""
NOT_AT_NIGHT = {
    *("ladder.py", "looks.py", "calibrate.py", "found.py", "rows.py", "worth.py", "int8.py", "parity.py", "tune.py"),
    *("weeks.py", "summary.py", "baselines.py", "export.py", "migrate.py", "server.py", "profile.py", "page.py"),
    *("line_protocol.py", "decide.py"),
}
"""Of the command line and of emulated nodes, for engineers at their desks; and the policy's own page."""
TOLD = re.compile(r"[A-Z]\w*(Error|Failed)")
"""What is raised in those rooms for people; other built-in errors are the caller's mistake."""


WITHIN = {"its regions, bundles or serial"}
"""Ends of other texts."""


def template(node: ast.AST | None) -> str:
    """The text that an expression makes, with gaps; empty if it is not written out there."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return ""


def files() -> Iterator[Path]:
    for room in OPERATIONS:
        yield from (path for path in sorted((DWCP / room).rglob("*.py")) if path.name not in NOT_AT_NIGHT)
    yield REPOSITORY / "dags" / "notifier.py"


def said(wanted: str) -> dict[str, str]:
    """Where each text stands: ``notices`` (what happened → what was done) or ``errors`` (what is raised)."""
    found = {}
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            text = ""
            if wanted == "notices" and isinstance(node, ast.JoinedStr) and " → " in template(node):
                text = template(node)
            if wanted == "errors" and isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                told = node.exc.args and TOLD.fullmatch(ast.unparse(node.exc.func))
                text = template(node.exc.args[0]) if told else ""
            if text.replace(GAP, "").strip(" :") and text not in WITHIN:
                found[text] = f"{path.name}:{node.lineno}"
    return found


def entries() -> list[str]:
    """What the runbook's lines start from: the code in the first cells of its tables."""
    rows = [line.split("|")[1] for line in RUNBOOK.splitlines() if line.startswith("| `")]
    return [entry for row in rows for entry in re.findall(r"`([^`]+)`", row)]


def covers(entry: str, text: str) -> bool:
    """Whether ``text`` reads like the entry: its words in their order, with anything in its gaps."""
    if text == entry:
        return True
    words = [re.escape(part.strip()) for part in entry.split(GAP) if part.strip()]
    return sum(map(len, words)) >= 8 and re.search(".*".join(words), text) is not None


@pytest.mark.parametrize(("wanted", "least"), [("notices", 7), ("errors", 100)])
def test_every_text_that_on_call_can_see_has_its_line(wanted: str, least: int) -> None:
    texts = said(wanted)
    assert len(texts) >= least, "the texts are not found any more"
    known = entries()
    missing = [f"{place}: {text}" for text, place in texts.items() if not any(covers(entry, text) for entry in known)]
    assert missing == []


def test_every_quantity_that_the_watch_judges_has_its_line() -> None:
    assert [rule.quantity for rule in POLICY if rule.quantity.replace("_", " ") not in " ".join(entries())] == []


def test_no_line_starts_from_a_text_that_nobody_says() -> None:
    spoken = [*said("notices"), *said("errors")]
    own = RUNBOOK.split("## When a line like this appears")[1].split("\n## ")[0]
    errors = own.split("### What failed, and why")[1].split("\n### ")[0]
    listed = [entry for line in errors.splitlines() if line.startswith("| `") for entry in _code(line)]
    assert len(listed) > 50
    elsewhere = ("Dag … is paused", "The timeout time has passed", "… No space left on device")
    unspoken = [entry for entry in listed if not any(covers(entry, text) for text in spoken)]
    assert [entry for entry in unspoken if not entry.startswith(elsewhere)] == []


def test_the_check_itself_sees_a_text_without_a_line() -> None:
    assert not any(covers(entry, "a word that nobody wrote → nothing; look at …") for entry in entries())
    assert covers("… is gone … restore it", "the key … is gone … → restore it now")


def _code(line: str) -> list[str]:
    return re.findall(r"`([^`]+)`", line.split("|")[1])
