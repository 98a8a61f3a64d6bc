"""What the field says of one version in one region, in one word: the question that a staged rollout asks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from dwcp.release.registry import connect
from dwcp.settings import Settings
from dwcp.store import digest_of
from dwcp.window import Window

Status = Literal["PASS", "FAIL", "INCONCLUSIVE"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """``reasons`` are sentences for a person; ``digest`` names the evaluated window's figures (64 hex digits).

    ``window`` is what was measured, None if nothing was; ``rows`` the transfers behind it.
    """

    status: Status
    reasons: tuple[str, ...]
    window: Window | None
    rows: int
    digest: str | None


def verdict_for(settings: Settings, region: str, version: str) -> Verdict:
    """The newest look at ``version`` in ``region``: PASS within every limit, FAIL for harm, else INCONCLUSIVE.

    Too few rows, an accuracy that asks for retraining, or no look at all are INCONCLUSIVE: a rollout holds on them.
    """
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT window_start, window_end, measurement, action, reasons FROM watch_observations
            WHERE version = %s AND %s = ANY (regions) ORDER BY window_end DESC, id DESC LIMIT 1
            """,
            (version, region),
        )
        row = cursor.fetchone()
    if row is None:
        return Verdict("INCONCLUSIVE", (f"the watch has not looked at {version} in {region} yet",), None, 0, None)
    start, end, measurement, action, reasons = row
    window = Window.parse(start.isoformat(), end.isoformat())
    said = {"region": region, "version": version, "window": [str(start), str(end)], "measurement": measurement}
    digest = digest_of(json.dumps(said, sort_keys=True).encode())
    judged = measurement.get("accuracy") is not None and not any("too few rows" in reason for reason in reasons)
    status: Status = "INCONCLUSIVE"
    if action == "rollback":
        status = "FAIL"
    elif judged and action in ("none", "flag"):
        status = "PASS"
    return Verdict(status, tuple(reasons), window, int(measurement.get("rows") or 0), digest)
