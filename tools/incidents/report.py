"""What an incident came to, and how it is printed: for a terminal, and as ``docs/incidents.md``."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

Clock = Literal["field", "wall"]
"""``field``: hours of the emulated fleet, as the hourly watch sees them; ``wall``: seconds on this machine."""


@dataclass(frozen=True, slots=True)
class Span:
    """A time with the clock that it was taken by; ``of`` says what was waited for."""

    seconds: float
    clock: Clock
    of: str

    def __str__(self) -> str:
        """For a person."""
        if self.clock == "wall":
            return f"{self.seconds:.1f} s on the clock ({self.of})"
        hours = self.seconds / 3_600
        return (
            f"{hours:.0f} h in the field ({self.of})"
            if hours < 72
            else f"{hours / 24:.1f} days in the field ({self.of})"
        )


@dataclass(frozen=True, slots=True)
class NodesSaid:
    """What the nodes did while it lasted. ``kind``: who they are."""

    kind: str
    decisions: int
    failed: int
    slowest_ms: float
    first_failure: str = ""


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident. ``detected``: from cause to detection, None if nothing noticed; ``recovered``: from there on.

    ``said`` are the lines that a person got, word for word; ``did`` what the product did by itself; ``on_call`` what a
    person is left to do. ``open``: what this showed to be missing.
    """

    number: int
    name: str
    cause: str
    detected: Span | None
    recovered: Span | None
    said: tuple[str, ...]
    did: tuple[str, ...]
    on_call: str
    nodes: NodesSaid
    open: tuple[str, ...] = ()
    took_s: float = 0.0
    ran: str = ""
    """When and where: one that is run alone is newer than the others of the page."""


def to_json(one: Incident) -> str:
    """For the page of a later run."""
    return json.dumps(dataclasses.asdict(one), indent=1, ensure_ascii=False)


def from_json(text: str) -> Incident:
    """What ``to_json`` wrote."""
    fields = json.loads(text)
    for name in ("detected", "recovered"):
        fields[name] = Span(**fields[name]) if fields[name] else None
    for name in ("said", "did", "open"):
        fields[name] = tuple(fields[name])
    return Incident(**{**fields, "nodes": NodesSaid(**fields["nodes"])})


def in_words(one: Incident) -> str:
    """All of it, for a terminal."""
    lines = [f"\n== {one.number}. {one.name} ({one.took_s:.0f} s) ==", f"cause: {one.cause}"]
    lines += [f"detected: {one.detected or 'NOT DETECTED'}", f"recovered: {one.recovered or 'NOT RECOVERED'}"]
    lines += [f"said: {line}" for line in one.said] or ["said: nothing"]
    lines += [f"did: {line}" for line in one.did]
    lines += [f"on call: {one.on_call}", f"nodes: {_nodes(one)}"]
    return "\n".join(lines + [f"OPEN: {line}" for line in one.open])


def page(found: Sequence[Incident], *, fleet: str) -> str:
    """``docs/incidents.md``."""
    ran = "; ".join(sorted({one.ran for one in found}))
    head = f"""# Eight incidents

Written by `make incidents` (`--only N` runs one of them anew), {ran}.
Each line comes from a run of the product's own steps on an embedded Postgres, a real InfluxDB where one is named, an
emulated fleet that follows the signed channel, and a webhook; Go nodes in all six regions decided without a pause.
{fleet}

**Field** hours are those of the emulated fleet, which the hourly watch looked at hour by hour; **clock** seconds, and
the slowest decision, are this machine's, whatever else it did. From cause to detection a field time includes the hour
that the watch waits for. To save time it looked every six hours after the first day of 3, every three after the mending
in 4, and once, at the end, in 7. Rows from after a rollback are not emulated; in 3 the changed week's past was changed,
too. `dwcp_drift_watch`, `dwcp_staged_rollout` and the rollback form are wiring over the steps that ran here;
`tests/dags` runs that wiring.
A decision has failed if the node got no choice that it can execute, or an error where the model or the rules should
have spoken.

| | incident | from cause to detection | from detection to recovery | decisions on nodes | failed |
|---|---|---|---|---:|---:|
"""
    rows = "\n".join(
        f"| {one.number} | [{one.name}](#{one.number}{_anchor(one.name)}) | {one.detected or '**not detected**'} "
        f"| {one.recovered or '**not recovered**'} | {one.nodes.decisions:,} | {one.nodes.failed} |"
        for one in found
    )
    return f"{head}{rows}\n" + "".join(_section(one) for one in found)


def machine() -> str:
    """Day, processor, its cores and Python."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    named = cpu.partition(":")[2].strip() or platform.machine()
    return f"{datetime.now(UTC):%Y-%m-%d}, {named}, {os.cpu_count()} cores, Python {platform.python_version()}"


def _section(one: Incident) -> str:
    said = "\n".join(f"> {_shortened(line)}\n>" for line in one.said).removesuffix("\n>") or "> (nothing)"
    did = "\n".join(f"* {line}" for line in one.did)
    left = "".join(f"\n* **Open**: {line}" for line in one.open)
    return f"""
## {one.number}. {one.name}

{one.cause}

* From cause to detection: {one.detected or "**not detected**"}.
* From detection to recovery: {one.recovered or "**not recovered**"}.
* Nodes: {_nodes(one)}.{left}

Said:

{said}

Done by itself:

{did}

On call: {one.on_call}
"""


def _nodes(one: Incident) -> str:
    nodes = one.nodes
    failure = f"; the first: {nodes.first_failure}" if nodes.failed else ""
    counted = f"{nodes.decisions:,} decisions by {nodes.kind}, {nodes.failed} failed"
    return f"{counted}, slowest {nodes.slowest_ms:.1f} ms{failure}"


def _shortened(line: str, most: int = 600) -> str:
    return line if len(line) <= most else f"{line[:most]} ..."


def _anchor(name: str) -> str:
    return "-" + "".join(c for c in name.lower().replace(" ", "-") if c.isalnum() or c == "-")
