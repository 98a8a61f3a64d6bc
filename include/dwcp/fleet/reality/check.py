"""The whole check: time the engines, run the threads, send everything over every link."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from dwcp.fleet.link import WAYS, Link, best_way, run_over
from dwcp.fleet.payloads import PayloadObject
from dwcp.fleet.reality.ends import receive_all, send_all
from dwcp.fleet.reality.found import Reality
from dwcp.fleet.reality.payloads import prepare, usable_cores
from dwcp.fleet.reality.threads import thread_plans

log = logging.getLogger(__name__)

LINKS = (Link("dc", 1_000, 0.2), Link("metro", 200, 5), Link("wan", 50, 40))


def check_reality(
    objects: Sequence[PayloadObject],
    *,
    links: Sequence[Link] | None = None,
    repeats: int = 2,
    runs: int = 5,
    way: str | None = None,
    fresh: bool = False,
    congestion: str = "cubic",
) -> Reality:
    """Transfer every version of ``objects`` over every link. ``fresh`` opens new connections for each transfer.

    ``links`` defaults to ``LINKS``, ``way`` to the better that this machine allows. Raises ``LinkError`` if it cannot
    be had or an end died.
    """
    if way is not None and way not in WAYS:
        raise ValueError(f"no way {way!r} to emulate a link: choose one of {', '.join(WAYS)}")
    sent = prepare(objects, runs)
    log.info("AMST on real threads, %d cores", usable_cores())
    plans = tuple(thread_plans(sent, runs))
    way = way or best_way()
    found = []
    for link in LINKS if links is None else links:
        log.info("%s: %g Mbit/s, %g ms, by %s", link.name, link.rate_mbps, link.rtt_ms, way)
        found.append(run_over(link, way, send_all, receive_all, (link, sent, repeats, fresh, congestion)))
    return Reality(way, usable_cores(), fresh, tuple(sent), tuple(found), plans)
