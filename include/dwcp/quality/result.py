"""What a validation found, as plain values: a task can store it and a page show it without Great Expectations."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from dwcp.warehouse.load import Counts
from dwcp.window import Window


class Severity(StrEnum):
    """What a failure means: ``fail`` turns the run red and leaves the window unvalidated; ``warn`` is shown."""

    FAIL = "fail"
    WARN = "warn"


@dataclass(frozen=True, slots=True)
class Example:
    """One row that broke an expectation: which transfer, and the value found."""

    transfer_id: str
    value: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One expectation against one window. ``unexpected`` counts rows, or is 0 where the whole window is judged."""

    title: str
    column: str
    severity: Severity
    passed: bool
    expected: str
    observed: str
    unexpected: int = 0
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True, slots=True)
class ValidationResult:
    """Everything that one validation of one window found."""

    window: Window
    run_id: str
    counts: Counts
    """What became of the rows read, by the ledger: read = loaded + quarantined + duplicate."""
    labels: tuple[tuple[str, int], ...]
    """Rows of each label, most frequent first; rows that were not fully measured have none."""
    quarantine: tuple[tuple[str, int], ...]
    """Reasons without their values, most frequent first. A row with two reasons counts in both."""
    checks: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """True if something was checked and no expectation marked ``fail`` failed."""
        return bool(self.checks) and not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """Failed expectations marked ``fail``."""
        return tuple(check for check in self.checks if not check.passed and check.severity is Severity.FAIL)

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        """Failed expectations marked ``warn``."""
        return tuple(check for check in self.checks if not check.passed and check.severity is Severity.WARN)

    def summary(self) -> str:
        """One line for a log or an exception."""
        verdict = "validated" if self.passed else "NOT validated"
        parts = [
            f"window {self.window.start:%Y-%m-%d %H:%M} to {self.window.end:%Y-%m-%d %H:%M} {verdict}",
            f"{len(self.checks)} expectations, {len(self.failures)} failed, {len(self.warnings)} warned",
            *(f"{check.title}: observed {check.observed}, expected {check.expected}" for check in self.failures[:5]),
        ]
        return "; ".join(parts)

    def to_json_bytes(self) -> bytes:
        """Canonical JSON, for the store."""
        return json.dumps(asdict(self), sort_keys=True, default=_iso).encode()

    @classmethod
    def from_json_bytes(cls, data: bytes) -> ValidationResult:
        """The result that ``to_json_bytes`` wrote."""
        raw: dict[str, Any] = json.loads(data)
        return cls(
            window=Window.parse(raw["window"]["start"], raw["window"]["end"]),
            run_id=raw["run_id"],
            counts=Counts(**raw["counts"]),
            labels=tuple((name, count) for name, count in raw["labels"]),
            quarantine=tuple((reason, count) for reason, count in raw["quarantine"]),
            checks=tuple(
                CheckResult(
                    **{
                        **check,
                        "severity": Severity(check["severity"]),
                        "examples": tuple(Example(**example) for example in check["examples"]),
                    }
                )
                for check in raw["checks"]
            ),
        )


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")
