"""The emulated world that the recorded library is crossed with: nodes, links, objects' lives, and every transfer.

Whole weeks at a time and vectorised. A week's transfers depend on the seed and the week alone, so a run of weeks 9 to
12 finds the same world as a run of weeks 1 to 12.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import LINK_TYPES, REGIONS
from dwcp.fleet.engines import CHUNK_BYTES, STREAM_COUNTS
from dwcp.fleet.library import Profiles
from dwcp.fleet.mix import Mix

NS_PER_WEEK = 7 * 86_400 * 1_000_000_000
_HOURS_PER_WEEK = 168
_PEAK_HOUR = 14.0
_ZONE_OFFSET_HOURS = {
    "us-east": -5,
    "us-west": -8,
    "eu-central": 1,
    "eu-west": 0,
    "ap-south": 5.5,
    "ap-northeast": 9,
}


def _rng(seed: int, *names: object) -> np.random.Generator:
    """A source of chance of its own for each name: adding one never moves another."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def _log_uniform(rng: np.random.Generator, span: Sequence[float], size: int) -> NDArray[np.float64]:
    low, high = span
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


@dataclass(frozen=True)
class Nodes:
    """Every node's fixed properties; arrays of shape (nodes,). ``load`` has shape (nodes, hours of the world)."""

    node_id: NDArray[np.str_]
    region: NDArray[np.int64]
    zone: NDArray[np.int64]
    zone_name: NDArray[np.str_]
    speed: NDArray[np.float64]
    cores: NDArray[np.int64]
    load: NDArray[np.float64]


@dataclass(frozen=True)
class Lives:
    """When each of the library's objects exists; arrays of shape (objects,), times in weeks since the world began."""

    birth: NDArray[np.float64]
    weeks_per_version: NDArray[np.float64]
    death: NDArray[np.float64]
    home: NDArray[np.int64]
    popularity: NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Nodes, lives and links of one seed."""

    seed: int
    mix: Mix
    profiles: Profiles
    nodes: Nodes
    lives: Lives


@dataclass(frozen=True)
class Transfers:
    """What happens before any choice, in time order; arrays of shape (rows,).

    ``profile`` is the row in the library.
    """

    timestamp_ns: NDArray[np.int64]
    node: NDArray[np.int64]
    peer: NDArray[np.int64]
    profile: NDArray[np.int64]
    link: NDArray[np.int64]
    rtt_ms: NDArray[np.float64]
    jitter_ms: NDArray[np.float64]
    bandwidth_mbps: NDArray[np.float64]
    loss: NDArray[np.float64]
    realised_share: NDArray[np.float64]
    cpu_usage: NDArray[np.float64]
    peer_cpu_usage: NDArray[np.float64]
    memory_mb: NDArray[np.int64]
    active_transfers: NDArray[np.int64]
    streams: NDArray[np.int64]
    fully_measured: NDArray[np.bool_]
    explore: NDArray[np.int64]
    decision_us: NDArray[np.float64]
    number: NDArray[np.int64]

    def take(self, rows: NDArray[Any] | slice) -> Transfers:
        """Some of the rows."""
        return Transfers(*(getattr(self, field.name)[rows] for field in fields(self)))


def make_world(profiles: Profiles, mix: Mix, seed: int) -> World:
    """Nodes, links and lives, all drawn from ``seed``."""
    return World(seed, mix, profiles, _nodes(mix, seed), _lives(profiles, mix, seed))


def _nodes(mix: Mix, seed: int) -> Nodes:
    zones, per_zone = mix.nodes["zones"], mix.nodes["per_zone"]
    rng = _rng(seed, "nodes")
    rows = [
        (f"{region}-{zone}-{number}", region_number, region_number * len(zones) + zone_number, f"{region}-{zone}")
        for region_number, region in enumerate(REGIONS)
        for zone_number, zone in enumerate(zones)
        for number in range(per_zone)
    ]
    count = len(rows)
    hours = np.arange(mix.world["weeks"] * _HOURS_PER_WEEK)
    offsets = np.array([_ZONE_OFFSET_HOURS[REGIONS[row[1]]] for row in rows])
    day = np.cos((hours[None, :] + offsets[:, None] - _PEAK_HOUR) * (2 * np.pi / 24))
    noise = _slow_noise(rng, count, len(hours)) * mix.nodes["load_sigma"]
    load = mix.nodes["mean_load"] + mix.nodes["day_amplitude"] * day + noise + rng.normal(0, 0.08, (count, 1))
    return Nodes(
        node_id=np.array([row[0] for row in rows]),
        region=np.array([row[1] for row in rows]),
        zone=np.array([row[2] for row in rows]),
        zone_name=np.array([row[3] for row in rows]),
        speed=np.exp(rng.normal(0, mix.nodes["speed_sigma"], count)),
        cores=rng.choice(mix.nodes["cores"], count),
        load=np.clip(load, 0.02, 0.97),
    )


def _slow_noise(rng: np.random.Generator, series: int, steps: int) -> NDArray[np.float64]:
    """Autoregressive noise of unit variance, shape (series, steps): an hour keeps 0.8 of the last."""
    keep = 0.8
    out = np.empty((series, steps))
    state = rng.normal(size=series)
    shocks = rng.normal(size=(steps, series)) * np.sqrt(1 - keep**2)
    for step in range(steps):
        out[:, step] = state
        state = keep * state + shocks[step]
    return out


def _lives(profiles: Profiles, mix: Mix, seed: int) -> Lives:
    rng = _rng(seed, "lives")
    count, weeks = len(profiles.versions), mix.world["weeks"]
    life = _log_uniform(rng, (mix.world["min_life_weeks"], mix.world["max_life_weeks"]), count)
    # Those there from the start are somewhere in their lives; the others come evenly.
    first = rng.random(count) < mix.world["first_share"]
    birth = np.where(first, -rng.random(count) * life * 0.5, rng.random(count) * weeks)
    return Lives(
        birth=birth,
        weeks_per_version=life / profiles.versions,
        death=birth + life,
        home=rng.integers(len(REGIONS) * len(mix.nodes["zones"]) * mix.nodes["per_zone"], size=count),
        popularity=np.exp(rng.normal(0, mix.world["popularity_sigma"], count)),
    )


def week_transfers(world: World, week: int, start_ns: int, rows: int) -> Transfers:
    """All transfers of one week (0-based) of a world that begins at ``start_ns``, in time order."""
    mix, profiles, nodes, lives = world.mix, world.profiles, world.nodes, world.lives
    rng = _rng(world.seed, "week", week)
    # Time: the traffic of a day follows the day; strictly increasing over the whole fleet, so also per node.
    hour = np.arange(_HOURS_PER_WEEK)
    density = 1 + 0.5 * np.cos((hour - _PEAK_HOUR) * (2 * np.pi / 24))
    at_hour = rng.choice(_HOURS_PER_WEEK, rows, p=density / density.sum())
    offset = np.sort(((at_hour + rng.random(rows)) * 3_600e9).astype(np.int64))
    offset = np.maximum.accumulate(offset - np.arange(rows)) + np.arange(rows)
    when = week + offset / NS_PER_WEEK
    # Which object: by popularity among those alive at the time.
    choice = _alive_choice(rng, lives, when)
    version = ((when - lives.birth[choice]) / lives.weeks_per_version[choice]).astype(np.int64)
    version = np.clip(version, 0, profiles.versions[choice] - 1)
    profile = profiles.first_row[choice] + version
    # From where: nine in ten from the object's home, the others from a second node that holds a replica.
    replica = (lives.home[choice] + 1 + choice % (len(nodes.node_id) - 1)) % len(nodes.node_id)
    node = np.where(rng.random(rows) < 0.9, lives.home[choice], replica)
    link = rng.choice(len(LINK_TYPES), rows, p=[mix.links[name]["share"] for name in LINK_TYPES])
    peer = _peers(rng, nodes, node, link)
    # What the node finds.
    world_hour = np.minimum((when * _HOURS_PER_WEEK).astype(np.int64), nodes.load.shape[1] - 1)
    cpu = np.clip(nodes.load[node, world_hour] + rng.normal(0, 0.04, rows), 0.0, 0.99)
    peer_cpu = np.clip(nodes.load[peer, world_hour] + rng.normal(0, 0.04, rows), 0.0, 0.99)
    memory_mb = (
        nodes.cores[node]
        * mix.nodes["memory_mb_per_core"]
        * np.clip(1 - cpu * 0.8 + rng.normal(0, 0.05, rows), 0.05, 1)
    )
    idle = np.minimum(nodes.cores[node] * (1 - cpu), nodes.cores[peer] * (1 - peer_cpu))
    chunks = -(-profiles.column("size_bytes")[profile] // CHUNK_BYTES)
    plan = np.minimum(np.maximum(1, idle), chunks)
    streams = np.array(STREAM_COUNTS)[np.searchsorted(STREAM_COUNTS, plan, side="right") - 1]
    network = _network(rng, world, node, peer, link, when)
    return Transfers(
        timestamp_ns=start_ns + week * NS_PER_WEEK + offset,
        node=node,
        peer=peer,
        profile=profile,
        link=link,
        **network,
        cpu_usage=cpu,
        peer_cpu_usage=peer_cpu,
        memory_mb=memory_mb.astype(np.int64),
        active_transfers=rng.poisson(1 + 6 * cpu),
        streams=streams,
        fully_measured=rng.random(rows) < mix.world["measured_share"],
        explore=np.where(rng.random(rows) < mix.world["explore_share"], rng.integers(4, size=rows), -1),
        decision_us=np.exp(rng.normal(np.log(12.0), 0.3, rows)),
        number=week * 10_000_000 + np.arange(rows),
    )


def _alive_choice(rng: np.random.Generator, lives: Lives, when: NDArray[np.float64]) -> NDArray[np.int64]:
    """An object for each time, by popularity among those alive; six-hour steps are fine enough for birth and death."""
    steps = np.floor(when * 28).astype(np.int64)
    edges = np.flatnonzero(np.diff(steps, prepend=-1))
    draws = rng.random(len(when))
    choice = np.empty(len(when), np.int64)
    for start, stop in zip(edges, np.append(edges[1:], len(when)), strict=True):
        middle = when[start]
        weight = lives.popularity * ((lives.birth <= middle) & (middle < lives.death))
        if not weight.any():
            raise ValueError(f"no object is alive in week {middle:.1f} of the world: the library is too small")
        share = np.cumsum(weight)
        choice[start:stop] = np.searchsorted(share, draws[start:stop] * share[-1], side="right")
    return choice


def _peers(
    rng: np.random.Generator, nodes: Nodes, node: NDArray[np.int64], link: NDArray[np.int64]
) -> NDArray[np.int64]:
    """A peer in the same zone (dc), in another zone of the region (metro), or in another region (wan)."""
    count = len(nodes.node_id)
    every = np.arange(count)
    same_region = nodes.region[:, None] == nodes.region[None, :]
    same_zone = nodes.zone[:, None] == nodes.zone[None, :]
    allowed = [same_zone & (every[:, None] != every[None, :]), same_region & ~same_zone, ~same_region]
    draws = rng.random(len(node))
    peer = np.empty(len(node), np.int64)
    for kind, matrix in enumerate(allowed):
        rows = np.flatnonzero(link == kind)
        counts = matrix.sum(axis=1)
        table = np.argsort(~matrix, axis=1, kind="stable")  # allowed peers first
        peer[rows] = table[node[rows], (draws[rows] * counts[node[rows]]).astype(np.int64)]
    return peer


def _network(
    rng: np.random.Generator,
    world: World,
    node: NDArray[np.int64],
    peer: NDArray[np.int64],
    link: NDArray[np.int64],
    when: NDArray[np.float64],
) -> dict[str, NDArray[np.float64]]:
    """State of each transfer's link: a pair's own capacity, RTT and loss, then the hour's traffic and noise."""
    mix, count = world.mix, len(world.nodes.node_id)
    pair_rng = _rng(world.seed, "links")
    capacity, rtt, loss = (np.empty((len(LINK_TYPES), count, count)) for _ in range(3))
    for kind, name in enumerate(LINK_TYPES):
        entry = mix.links[name]
        capacity[kind] = pair_rng.choice(entry["capacity_mbps"], (count, count))
        rtt[kind] = _log_uniform(pair_rng, entry["rtt_ms"], count * count).reshape(count, count)
        loss[kind] = _log_uniform(pair_rng, entry["loss"], count * count).reshape(count, count)
    busy_hours = np.cos(((when * _HOURS_PER_WEEK) % 24 - _PEAK_HOUR) * (2 * np.pi / 24))
    traffic = mix.traffic
    used = traffic["mean_utilisation"] + traffic["day_amplitude"] * busy_hours
    used = np.clip(used + rng.normal(0, traffic["utilisation_sigma"], len(when)), 0.0, 0.9)
    here = (link, node, peer)
    rtt_ms = rtt[here] * (1 + 0.5 * used**2) * np.exp(rng.normal(0, 0.05, len(when)))
    return {
        "rtt_ms": rtt_ms,
        "jitter_ms": rtt_ms * traffic["jitter_share"] * np.exp(rng.normal(0, 0.4, len(when))),
        "bandwidth_mbps": capacity[here] * (1 - used),
        "loss": np.minimum(0.2, loss[here] * (1 + 3 * used**3) * np.exp(rng.normal(0, 0.3, len(when)))),
        "realised_share": np.exp(rng.normal(0, traffic["realised_sigma"], len(when))),
    }
