"""What the emulated nodes know of their transfers before they choose, as they log it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import LINK_TYPES, REGIONS, ROLLOUT_BUCKETS
from dwcp.fleet.last_probe import LastProbes
from dwcp.fleet.outcomes import beside_other_work
from dwcp.fleet.world import Transfers, World

_LOGGED_LOOKS = ("entropy", "compressibility_score")
_LOOKS = ("delta_potential", "probe_zstd_share")
_PROBE_SPEEDS = ("probe_zstd_ms_per_mb", "probe_lz4_ms_per_mb")
_SHARES = {"known_share": "hde_hit_rate", "zero_share": "zero_share"}
"""What a dirty log or a pass over all blocks tells of this very payload."""
_DIRTY_LOG = ("vm_memory", "vm_disk")
"""A hypervisor's dirty log gives these types' known share for nothing; of the others all blocks are hashed for it."""


@dataclass(frozen=True, slots=True)
class Known:
    """Columns of shape (rows,), all known before the choice.

    ``logged`` holds columns of ``LOGGED_SCHEMA``, ``features.recompute.RAW_COLUMNS`` among them; ``seen`` holds
    ``features.recompute.SEEN_FEATURES``, of which the log keeps what was served.
    """

    logged: dict[str, Any]
    seen: dict[str, NDArray[Any]]


class Nodes:
    """What nodes find out about transfers. Texts and figures of the world are made once and taken by number."""

    def __init__(self, world: World) -> None:
        table, first = world.profiles.table, world.profiles.first_row
        nodes, objects = world.nodes.node_id.tolist(), table["object_id"].take(pa.array(first)).to_pylist()
        self._world = world
        self._node = pa.array(nodes, pa.string())
        self._zone = pa.array(world.nodes.zone_name.tolist(), pa.string())
        self._payload = {name: table[name].combine_chunks() for name in ("object_id", "data_type", "payload_digest")}
        self._bucket = np.array([[rollout_bucket(node, name) for name in objects] for node in nodes])
        profiles = world.profiles
        self._look = {name: profiles.column(name) for name in (*_LOGGED_LOOKS, *_LOOKS, *_PROBE_SPEEDS)}
        dirty_log = pc.is_in(table["data_type"], value_set=pa.array(_DIRTY_LOG)).to_numpy()
        hashed = (profiles.column("version") > 0) & ~dirty_log
        self._probe_ms, self._hash_ms = (
            profiles.column("probe_time_ms"),
            np.where(hashed, profiles.column("hash_ms"), 0.0),
        )
        self._probes = LastProbes(len(nodes), len(objects))

    def know(self, transfers: Transfers) -> Known:
        """All that is known of a week's transfers; weeks come in order, as nodes remember their probes.

        A look takes longer beside the node's other work. Its time is that of a fresh probe and, where no dirty log says
        which blocks the peer has, of hashing.
        """
        world, profile = self._world, transfers.profile
        profiles = world.profiles
        rng = np.random.default_rng([world.seed, int(transfers.number[0]), 1])
        slowdown = beside_other_work(rng, transfers) / world.nodes.speed[transfers.node]
        version = profiles.column("version")[profile]
        number = profiles.object_of_row[profile]
        last = self._probes.recall(transfers.node, number, profile, slowdown, transfers.fully_measured)
        look_ms = (np.where(last.fresh, self._probe_ms[profile], 0.0) + self._hash_ms[profile]) * slowdown
        texts = {name: _take(column, profile) for name, column in self._payload.items()}
        logged = {
            "timestamp_ns": transfers.timestamp_ns,
            "transfer_id": pc.binary_join_element_wise(
                f"f{world.seed}", pa.array(transfers.number).cast(pa.string()), "-"
            ),
            "region": _take(_REGIONS, world.nodes.region[transfers.node]),
            "availability_zone": _take(self._zone, transfers.node),
            "node_id": _take(self._node, transfers.node),
            "peer_id": _take(self._node, transfers.peer),
            "link_type": _take(_LINK_TYPES, transfers.link),
            "rtt_ms": transfers.rtt_ms,
            "jitter_ms": transfers.jitter_ms,
            "available_bandwidth_mbps": transfers.bandwidth_mbps,
            "packet_loss_rate": transfers.loss,
            **texts,
            "object_version": version,
            "data_size_bytes": profiles.column("size_bytes")[profile],
            **{name: self._look[name][last.profile] for name in _LOGGED_LOOKS},
            "cpu_usage": transfers.cpu_usage,
            "memory_available_mb": transfers.memory_mb,
            "active_transfers": transfers.active_transfers,
            "probe_time_ms": look_ms,
            "rollout_bucket": self._bucket[transfers.node, number],
        }
        seen = {
            **{name: self._look[name][last.profile] for name in _LOOKS},
            **{name: self._look[name][last.profile] * last.slowdown for name in _PROBE_SPEEDS},
            **{name: profiles.column(column)[profile] for name, column in _SHARES.items()},
            "peer_has_version": version > 0,
            "amst_streams": transfers.streams,
        }
        return Known(logged, seen)


def rollout_bucket(node_id: str, object_id: str) -> int:
    """Stable bucket of a node's object, 0 to 9,999: an object stays in its arm as long as its node sends it."""
    digest = hashlib.blake2b(f"{node_id}/{object_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % ROLLOUT_BUCKETS


_REGIONS, _LINK_TYPES = pa.array(REGIONS, pa.string()), pa.array(LINK_TYPES, pa.string())


def _take(texts: pa.Array, numbers: NDArray[np.int64]) -> pa.Array:
    return texts.take(pa.array(numbers))
