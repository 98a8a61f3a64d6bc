"""How often the test rows were looked at: each look that informs a choice makes the next figure a little less honest.

Every evaluation and every ladder appends one line to ``looks.jsonl`` in ``DWCP_HOME``; pages print the count.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime

from dwcp.settings import Settings

FILE = "looks.jsonl"


@dataclass(frozen=True, slots=True)
class Looks:
    """How many looks were taken at this dataset's test rows, and at any."""

    here: int
    anywhere: int


def record_look(settings: Settings, dataset_digest: str, command: str) -> Looks:
    """Append one line and count all, this one included. Lines of processes that write at once do not mix."""
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "dataset": dataset_digest,
        "command": command,
    }
    path = settings.home / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, json.dumps(line).encode() + b"\n")
    finally:
        os.close(handle)
    return count_looks(settings, dataset_digest)


def count_looks(settings: Settings, dataset_digest: str) -> Looks:
    """What the log says. Raises ``ValueError`` naming a line that is no look."""
    path = settings.home / FILE
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    digests = []
    for number, line in enumerate(lines, 1):
        try:
            digests.append(json.loads(line)["dataset"])
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"line {number} of {path} is no look at the test rows: mend or remove it") from None
    return Looks(digests.count(dataset_digest), len(digests))
