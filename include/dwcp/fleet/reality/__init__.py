"""The oracle's cost formula against real transfers, and AMST's makespan against real threads.

Every payload goes by every algorithm from one process to another over an emulated link (``dwcp.fleet.link``): compress,
send over TCP, decompress, one after the other as the formula adds them; AMST on as many threads and TCP connections as
its plan has streams. The time from the first to the last is measured; each result is compared with the payload. The
prediction is seed §3.1 with sizes and CPU times measured beforehand as the library's are, and the bandwidth and loss
that a bulk transfer finds on the link. Round trips, slow start, wake-ups and what two processes cost one another are in
the measurement and not in the formula; what that does to the choice is what this package tells.
"""

from __future__ import annotations

from dwcp.fleet.reality.check import LINKS, check_reality
from dwcp.fleet.reality.payloads import prepare, small_objects
from dwcp.fleet.reality.report import render

__all__ = ["LINKS", "check_reality", "prepare", "render", "small_objects"]
