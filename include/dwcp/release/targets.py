"""The versions one can go back to, kept beside the channel document so that a form shows them without a database.

A hint for people and nothing else: a rollback itself asks Postgres.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dwcp.settings import Settings
from dwcp.store import write_atomically

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """A version that was full somewhere. ``regions``: where it is full now; ``taken_back``: where it did harm."""

    version: str
    trained_to: str
    accuracy: float | None
    last_full: str
    regions: tuple[str, ...]
    taken_back: tuple[str, ...]


def find_targets(settings: Settings, limit: int = 10) -> list[Target]:
    """The versions that were full in some region, the one that became so last first."""
    from dwcp.release.registry import connect

    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT n.version, to_char(m.window_end AT TIME ZONE 'UTC', 'YYYY-MM-DD'), m.accuracy,
                   to_char(max(f.at) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI'),
                   coalesce(array_agg(n.region ORDER BY n.region) FILTER (WHERE n.state = 'full'), '{}'),
                   coalesce(array_agg(n.region ORDER BY n.region) FILTER (WHERE n.state = 'rolled_back'), '{}')
            FROM rollout_now AS n
            JOIN model_versions AS m USING (version)
            LEFT JOIN (
                SELECT region, version, max(at) AS at FROM rollout_transitions
                WHERE to_state = 'full' GROUP BY region, version
            ) AS f USING (region, version)
            GROUP BY n.version, m.window_end, m.accuracy
            HAVING max(f.at) IS NOT NULL
            ORDER BY max(f.at) DESC LIMIT %s
            """,
            (limit,),
        )
        return [
            Target(version, trained_to, accuracy, last_full, tuple(regions), tuple(taken_back))
            for version, trained_to, accuracy, last_full, regions, taken_back in cursor.fetchall()
        ]


def keep_targets(settings: Settings) -> None:
    """Write them beside the channel document. A failure is logged and no more: it must not stop a rollback."""
    try:
        found = [asdict(target) for target in find_targets(settings)]
        write_atomically(targets_path(settings), json.dumps(found, indent=1).encode())
    except (OSError, RuntimeError) as error:
        _log.warning("the form's list of versions was not renewed: %s", error)


def read_targets(settings: Settings) -> list[Target]:
    """What was kept last; nothing if that is missing or damaged."""
    try:
        kept = json.loads(targets_path(settings).read_text())
        return [
            Target(**{**entry, "regions": tuple(entry["regions"]), "taken_back": tuple(entry["taken_back"])})
            for entry in kept
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def targets_table(targets: Sequence[Target]) -> str:
    """Markdown, a line a version."""
    if not targets:
        return "No version has served in full yet."
    lines = [
        "| version | trained up to | accuracy | full since | serves | was taken back in |",
        "|---|---|---|---|---|---|",
    ]
    for target in targets:
        accuracy = "" if target.accuracy is None else f"{target.accuracy:.2%}"
        where = f"{', '.join(target.regions)} | {', '.join(target.taken_back)}"
        lines.append(f"| {target.version} | {target.trained_to} | {accuracy} | {target.last_full} UTC | {where} |")
    return "\n".join(lines)


def targets_path(settings: Settings) -> Path:
    """Beside the channel document."""
    return settings.channel_path.with_name("versions.json")
