"""The quality gate's page: one HTML file that needs nothing else; counts first, failures before passes."""

from __future__ import annotations

from pathlib import Path

import jinja2

from dwcp.quality.result import CheckResult, ValidationResult

_TEMPLATE = Path(__file__).with_name("report.html.j2")


def render(result: ValidationResult) -> bytes:
    """The page of one validation, as UTF-8. Values from rows are escaped: a node may log any text."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    labelled = sum(count for _, count in result.labels)
    page = template.render(
        result=result,
        labelled=labelled,
        shares=[(name, count, count / labelled) for name, count in result.labels],
        passed_by_column=_by_column([check for check in result.checks if check.passed]),
        passed=sum(check.passed for check in result.checks),
    )
    return page.encode()


def _by_column(checks: list[CheckResult]) -> dict[str, list[CheckResult]]:
    columns: dict[str, list[CheckResult]] = {}
    for check in checks:
        columns.setdefault(check.column or "whole window", []).append(check)
    return columns
