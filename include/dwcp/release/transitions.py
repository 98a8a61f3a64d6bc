"""The rollout's log in Postgres, read and written: where each version is, and the serial under which nodes learn of it.

Every write happens under one advisory lock; SQL refuses what is not a legal move whoever writes (``0101_rollout.sql``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from psycopg2.extensions import connection

from dwcp.release.states import NONE, STATES, Ladder, Role
from dwcp.window import Window

if TYPE_CHECKING:
    from dwcp.release.channel import Channel

LOCK_KEY = 0x6477_6370_0100
"""Advisory lock under which a serial is taken and a transition is written: one at a time. SQL names it too."""
Action = Literal["publish", "advance", "revert", "rollback"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a version is in a region; ``since`` when, and from when on its soak there counts."""

    version: str
    state: str
    since: datetime
    soak_since: datetime

    @property
    def role(self) -> Role:
        """What nodes see in it."""
        return STATES[self.state].role


@dataclass(frozen=True, slots=True)
class Step:
    """One transition to write. ``soak_since`` is a time taken over from the version that it replaces."""

    region: str
    version: str
    move: str
    origin: str
    target: str
    soak_since: datetime | None = None

    @property
    def seen_by_nodes(self) -> bool:
        """Whether the channel document changes by it."""
        return STATES[self.origin].role != "none" or STATES[self.target].role != "none"


Places = Mapping[str, Place]
"""A region's versions by name."""


def lock(db: connection) -> None:
    """Wait for the other writers; held until the transaction ends."""
    with db.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))


def newest_serial(db: connection) -> int:
    """The serial of the last release, 0 before the first."""
    with db.cursor() as cursor:
        cursor.execute("SELECT coalesce(max(serial), 0) FROM releases")
        (newest,) = cursor.fetchone() or (0,)
    return int(newest)


def places(db: connection) -> dict[str, dict[str, Place]]:
    """For each region its versions' places, in the order in which they came there."""
    with db.cursor() as cursor:
        cursor.execute("SELECT region, version, state, since, soak_since FROM rollout_now ORDER BY region, number")
        found: dict[str, dict[str, Place]] = {}
        for region, *rest in cursor.fetchall():
            found.setdefault(region, {})[rest[0]] = Place(*rest)
    return found


def place_of(here: Places, role: Role) -> Place | None:
    """The region's champion or challenger, if it has one."""
    return next((place for place in here.values() if place.role == role), None)


def state_of(here: Places, version: str) -> str:
    """The version's state in the region."""
    return here[version].state if version in here else NONE


def ladder_of(db: connection, region: str) -> Ladder:
    """``next`` once a version was full in the region, ``first`` before."""
    with db.cursor() as cursor:
        cursor.execute(
            "SELECT EXISTS (SELECT FROM rollout_transitions WHERE region = %s AND to_state = 'full')", (region,)
        )
        (mature,) = cursor.fetchone() or (False,)
    return "next" if mature else "first"


def paused_regions(db: connection) -> dict[str, str]:
    """For each paused region who paused it, when and why, in one line."""
    with db.cursor() as cursor:
        cursor.execute("SELECT region, at, who, reason FROM rollout_paused")
        return {region: f"paused by {who} on {at:%Y-%m-%d %H:%M} UTC: {reason}" for region, at, who, reason in cursor}


def record(
    db: connection,
    action: Action,
    who: str,
    reason: str,
    steps: Sequence[Step],
    seen: Channel | None,
    *,
    evidence: Window | None = None,
    digest: str | None = None,
    tell_again: bool = False,
) -> int:
    """Write the steps under the next serial and return it; if nodes see nothing new, the newest serial there is.

    ``seen`` is the published document: should Postgres have been restored from an older backup, its numbers must not
    be given out a second time, since nodes refuse to go back; ``tell_again`` takes a serial without any step.
    ``evidence`` is the measured window behind it, ``digest`` that of its figures.
    """
    serial = newest = newest_serial(db)
    if tell_again or any(step.seen_by_nodes for step in steps):
        serial = max(newest, seen.serial if seen else 0) + 1
    with db.cursor() as cursor:
        if serial > newest:
            cursor.execute(
                """
                INSERT INTO releases (serial, action, released_by, reason, evidence_start, evidence_end)
                VALUES (%s, %s, %s, %s, %s, %s)
                """,
                (serial, action, who, reason, evidence and evidence.start, evidence and evidence.end),
            )
        for step in steps:
            cursor.execute(
                """
                INSERT INTO rollout_transitions
                    (region, version, move, from_state, to_state, soak_since, who, reason, evidence_digest, serial)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
                """,
                (
                    *(step.region, step.version, step.move, step.origin, step.target, step.soak_since),
                    *(who, reason, digest, serial if step.seen_by_nodes else None),
                ),
            )
    return serial
