"""The Go module's features and probe against Python's: the same bits, from the same words.

``go/internal/featureparity`` says how the two talk.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import ALGORITHMS, AMST_CHUNK_BYTES, DATA_TYPES, FEATURES, LINK_TYPES, REGIONS
from dwcp.features import costs, probe
from dwcp.features.history import HISTORY_COLUMNS, History, Observations
from dwcp.features.recompute import OUTCOME_COLUMNS, SEEN_FEATURES, feature_matrix, outcomes
from dwcp.fleet.engines import STREAM_COUNTS, Base, hde_compress

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

GO_MODULE = Path(__file__).parents[2] / "go"
NAMES = [feature.name for feature in FEATURES]
AT = {name: position for position, name in enumerate(NAMES)}
DEFAULT = {feature.name: feature.default for feature in FEATURES}
LIMITS = {feature.name: (feature.minimum, feature.maximum) for feature in FEATURES}
STATES = 100_000

Columns = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("Go is not installed: its features cannot be held against Python's")
    built = tmp_path_factory.mktemp("go") / "featureparity"
    command = [go, "build", "-o", str(built), "./internal/featureparity"]
    done = subprocess.run(command, cwd=GO_MODULE, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return built


def ask(program: Path, what: str, given: bytes) -> bytes:
    done = subprocess.run([program, what], input=given, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


# -- features ----------------------------------------------------------------------------------------------------------


def make_states(rows: int, seed: int) -> Columns:
    """Transfers of a few nodes in time order: ordinary figures, those around every bin and bound, and the extremes."""
    rng = np.random.default_rng(seed)

    def around(values: list[float], least: float, most: float) -> np.ndarray:
        """Contract bounds, and what borders on each value to the last bit."""
        near = [
            value for bound in values for value in (np.nextafter(bound, -np.inf), bound, np.nextafter(bound, np.inf))
        ]
        return np.clip(np.array([*near, least, most]), least, most)

    def mixed(ordinary: np.ndarray, special: np.ndarray) -> np.ndarray:
        return np.where(rng.random(rows) < 0.9, ordinary, rng.choice(special, rows))

    def measure(name: str, low: float, high: float, *borders: float) -> np.ndarray:
        """Log-uniform between ``low`` and ``high``, with the contract's bounds of feature ``name`` mixed in."""
        return mixed(10 ** rng.uniform(np.log10(low), np.log10(high), rows), around([*borders], *LIMITS[name]))

    def share(name: str) -> np.ndarray:
        return mixed(rng.random(rows), around([0.005, 0.5], *LIMITS[name]))

    def words(known: tuple[str, ...], unknown: str) -> np.ndarray:
        return rng.choice(np.array([*known, unknown]), rows)

    chunk = AMST_CHUNK_BYTES
    sizes = [0, 1_024, 1_048_576, chunk, 2 * chunk, 9 * chunk, 2**24, 2**31, 2**44]
    size = mixed(10 ** rng.uniform(0, 8, rows), np.array([n + d for n in sizes for d in (-1, 0, 1)])).astype(np.int64)
    size = size.clip(1, 2**44)
    # Few objects come again and again, many once; every so often two transfers of a node begin at once.
    step_ns = rng.choice([0, 1, 1_000_000_007, 977_000_000_000], rows, p=[0.1, 0.1, 0.7, 0.1])
    executed = rng.integers(len(ALGORITHMS), size=rows)
    full = rng.random(rows) < 0.3
    columns: Columns = {
        "timestamp_ns": 1_785_715_200_000_000_000 + np.cumsum(step_ns),
        "node_id": np.char.add("node-", rng.integers(6, size=rows).astype(str)),
        "peer_id": np.char.add("peer-", rng.integers(9, size=rows).astype(str)),
        "object_id": np.char.add("object-", (rng.pareto(0.5, rows).clip(max=1e6)).astype(np.int64).astype(str)),
        "region": words(REGIONS, "mars"),
        "link_type": words(LINK_TYPES, "satellite"),
        "data_type": words(DATA_TYPES, "unheard of"),
        "rtt_ms": measure("rtt_ms", 0.05, 400, 1, 10),
        "jitter_ms": measure("jitter_ms", 0.001, 50),
        "available_bandwidth_mbps": measure("bandwidth_mbps", 1, 1e5),
        "packet_loss_rate": measure("packet_loss_rate", 1e-6, 0.1),
        "data_size_bytes": size,
        "cpu_usage": share("cpu_usage"),
        "memory_available_mb": measure("memory_available", 1, 1e6).astype(np.int64),
        "active_transfers": measure("active_transfers", 1, 100).astype(np.int64),
        "peer_has_version": rng.random(rows) < 0.6,
        "amst_streams": mixed(rng.choice(STREAM_COUNTS, rows), np.array([1, 3, 7, 1_024])).astype(np.int64),
        "known_share": share("known_share"),
        "zero_share": share("zero_share"),
        "probed": rng.random(rows) < 0.95,
        "entropy": share("entropy"),
        "compressibility_score": share("compressibility_score"),
        "delta_potential": share("delta_potential"),
        "probe_zstd_share": share("probe_zstd_share"),
        "probe_zstd_ms_per_mb": measure("probe_zstd_ms_per_mb", 1, 30),
        "probe_lz4_ms_per_mb": measure("probe_lz4_ms_per_mb", 0.3, 9),
        "full": full,
        "hde_hit_rate": share("known_share"),
    }
    for place, engine in enumerate(ALGORITHMS):
        if engine != "none":
            columns[f"{engine}_measured"] = full | (executed == place)
            compressed = mixed(size / 10 ** rng.uniform(-0.05, 4, rows), np.array([1, 2**44]))
            columns[f"{engine}_bytes"] = np.maximum(1, compressed).astype(np.int64)
            for way in ("ms", "back_ms"):
                columns[f"{engine}_{way}"] = mixed(
                    size / 1e6 * rng.uniform(0.1, 20, rows), np.array([0, 1e-6, 86_400_000])
                )
    return columns


def as_lines(at: Columns) -> bytes:
    lists = {name: values.tolist() for name, values in at.items()}
    lines = []
    for row in range(len(lists["timestamp_ns"])):
        one = {name: values[row] for name, values in lists.items()}
        measured = {
            engine.upper() if engine != "zstd" else "Zstd": {
                "CompressedBytes": one[f"{engine}_bytes"],
                "CompressionMs": one[f"{engine}_ms"],
                "DecompressionMs": one[f"{engine}_back_ms"],
            }
            for engine in ("hde", "amst", "zstd")
            if one[f"{engine}_measured"]
        }
        looked = {
            "Blocks": 64,
            "Entropy": one["entropy"],
            "CompressibilityScore": one["compressibility_score"],
            "DeltaPotential": one["delta_potential"],
            "ZstdShare": one["probe_zstd_share"],
            "ZstdMsPerMB": one["probe_zstd_ms_per_mb"],
            "LZ4MsPerMB": one["probe_lz4_ms_per_mb"],
        }
        transfer = {
            "Node": one["node_id"],
            "AtNs": one["timestamp_ns"],
            "Peer": one["peer_id"],
            "Region": one["region"],
            "LinkType": one["link_type"],
            "RTTMs": one["rtt_ms"],
            "JitterMs": one["jitter_ms"],
            "BandwidthMbps": one["available_bandwidth_mbps"],
            "PacketLossRate": one["packet_loss_rate"],
            "CPUUsage": one["cpu_usage"],
            "MemoryMB": one["memory_available_mb"],
            "Active": one["active_transfers"],
            "Object": one["object_id"],
            "DataType": one["data_type"],
            "SizeBytes": one["data_size_bytes"],
            "PeerHasVersion": one["peer_has_version"],
            "Streams": one["amst_streams"],
            "KnownShare": one["known_share"],
            "ZeroShare": one["zero_share"],
            "Probe": looked if one["probed"] else None,
            "Outcome": {
                **measured,
                "HDEHitRate": one["hde_hit_rate"] if one["hde_measured"] else 0,
                "FullyMeasured": one["full"],
            },
        }
        lines.append(json.dumps(transfer))
    return "\n".join(lines).encode()


def in_python(at: Columns, history: History) -> np.ndarray:
    """Features of the same transfers as the fleet serves and ``recompute`` finds them."""
    known = dict(at)
    for name in ("entropy", "compressibility_score", "delta_potential", *(n for n in at if n.startswith("probe_"))):
        known[name] = np.where(at["probed"], at[name], DEFAULT[name])
    seen = {name: known[name] for name in SEEN_FEATURES}
    logged = {name: at[name] for name in ("data_size_bytes", "amst_streams")}
    logged["compressibility_score"] = known["compressibility_score"]
    logged["hde_delta_hit_rate"] = at["hde_hit_rate"]
    logged["amst_compressed_size_bytes"] = at["amst_bytes"]
    for engine, column in (("hde", "hde"), ("amst", "amst"), ("zstd", "baseline")):
        logged[f"{column}_compression_ratio"] = at["data_size_bytes"] / at[f"{engine}_bytes"]
        logged[f"{column}_compression_time_ms"] = at[f"{engine}_ms"]
        logged[f"{column}_decompression_time_ms"] = at[f"{engine}_back_ms"]
        for name in logged:
            if name.startswith(f"{column}_"):
                logged[name] = np.where(at[f"{engine}_measured"], logged[name], np.nan)
    logged |= {f"served_{name}": values.astype(np.float32) for name, values in seen.items()}
    added = outcomes({name: logged[name].astype(np.float64) for name in OUTCOME_COLUMNS}, at["full"])
    names = (pa.array(at[name]) for name in ("node_id", "object_id", "data_type", "peer_id"))
    observed = Observations(added, at["available_bandwidth_mbps"], at["jitter_ms"])
    past = history.advance(history.keys(*names), at["timestamp_ns"], observed)
    text = {name: pa.array(at[name]) for name in ("region", "link_type", "data_type")}
    return feature_matrix(known | text, past, seen)


def differing(one: np.ndarray, other: np.ndarray) -> dict[str, int]:
    """How many rows of each feature are not the same bits."""
    assert one.shape == other.shape
    counts = (one.view(np.uint32) != other.view(np.uint32)).sum(axis=0)
    return {name: int(count) for name, count in zip(NAMES, counts, strict=True) if count}


def in_go(program: Path, at: Columns) -> np.ndarray:
    return np.frombuffer(ask(program, "features", as_lines(at)), "<f4").reshape(-1, len(FEATURES))


def test_features_are_the_same_bits(program: Path):
    states = make_states(STATES, seed=5)
    python = in_python(states, History())
    # The states reach what they are meant to reach.
    assert set(np.unique(python[:, AT["history_source"]])) == {0, 1, 2}
    for name in ("region", "link_type", "data_type", "rtt_bin", "size_category"):
        minimum = 1 if name in {"rtt_bin", "size_category"} else 0
        assert set(np.unique(python[:, AT[name]])) == set(np.arange(minimum, LIMITS[name][1] + 1)), name
    for name in ("baseline_ratio", "hde_cost_ratio", "recent_zstd_ms_per_mb"):
        assert python[:, AT[name]].max() == LIMITS[name][1], name
    assert np.isfinite(python).all()
    assert differing(in_go(program, states), python) == {}


def changed_alpha(history: History, _: pytest.MonkeyPatch) -> None:
    history._objects.alpha = 0.3000001


def changed_type_alpha(history: History, _: pytest.MonkeyPatch) -> None:
    history._data_types.alpha = 0.0500001


def changed_link_alpha(history: History, _: pytest.MonkeyPatch) -> None:
    history._peers.alpha = 0.3000001


def changed_call(_: History, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(costs, "CALL_BYTES", 8_193)


def changed_delta(_: History, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(costs, "NEW_MS_PER_MB", 5.8000001)


@pytest.mark.parametrize(
    ("change", "shows_in"),
    [
        (changed_alpha, "recent_amst_ratio"),
        (changed_type_alpha, "recent_amst_ratio"),
        (changed_link_alpha, "jitter_average_ms"),
        (changed_call, "recent_zstd_ms_per_mb"),
        (changed_delta, "hde_cost_ratio"),
    ],
)
def test_a_change_in_the_seventh_digit_is_caught(
    program: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[History, pytest.MonkeyPatch], None], shows_in: str
):
    states = make_states(3_000, seed=6)
    go = in_go(program, states)
    assert differing(go, in_python(states, History())) == {}
    history = History()
    change(history, monkeypatch)
    assert shows_in in differing(go, in_python(states, history))


def test_python_sees_nothing_that_go_is_not_told():
    """What the history remembers is all in the comparison: no column of it is constant in the states."""
    states = make_states(5_000, seed=7)
    history = History()
    in_python(states, history)
    assert (np.nanstd(history._objects.values, axis=1) > 0).all()
    assert len(history._objects.values) + 3 == len(HISTORY_COLUMNS)


# -- probe -------------------------------------------------------------------------------------------------------------


def make_payloads() -> list[tuple[bytes, bytes]]:
    """Payloads and what the peer has of each (b"": nothing), of all sizes that a probe treats differently."""
    rng = np.random.default_rng(8)
    block = probe.BLOCK_BYTES
    pairs: list[tuple[bytes, bytes]] = []
    sizes = [1, 2, 255, block - 1, block, block + 1, 16 * block, 16 * block + 1, 17 * block, 63 * block, 64 * block]
    sizes += [65 * block - 7, 100 * block, 1_023 * block, 1_024 * block + 1, 1_100 * block, 2_000 * block + 5]
    sizes += [4_095 * block, 4_096 * block + 99, 5_000 * block]
    for number, size in enumerate(sizes):
        noise = rng.integers(256, size=size, dtype=np.uint8)
        skewed = (rng.pareto(1.0, size) * 3).clip(max=255).astype(np.uint8)
        text = np.frombuffer((b"2026-08-03 request %d served in %d ms\n" % (number, size)) * (size // 30 + 1), np.uint8)
        structured = np.where(np.arange(size) // (3 * block) % 3 == 0, 0, np.where(noise < 9, noise, text[:size]))
        kinds = (structured.astype(np.uint8), noise, skewed, np.zeros(size, np.uint8))
        for payload in kinds if size < 1 << 22 else kinds[:1]:
            previous = payload.copy()
            for at in rng.integers(size, size=max(1, size // (8 * block))):
                previous[at : at + 50] += 1
            # Known blocks lie at other positions too, and the peer's version has another length.
            moved = np.roll(previous, block * 2)[: max(1, size - block // 2)]
            pairs += [(payload.tobytes(), b""), (payload.tobytes(), moved.tobytes())]
        pairs.append((structured.astype(np.uint8).tobytes(), structured.astype(np.uint8).tobytes()))
    return pairs


def light_bytes(block: Any, **_: Any) -> bytes:
    """The stand-in codecs of ``featureparity``: as many bytes as they would make."""
    symbols = np.frombuffer(block, np.uint8)
    return bytes(2 * (1 + int((symbols[1:] != symbols[:-1]).sum())))


def heavy_bytes(block: Any) -> bytes:
    return bytes(16 * len(np.unique(np.frombuffer(block, np.uint8))))


def test_probes_see_the_same(program: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe, "lz4", SimpleNamespace(block=SimpleNamespace(compress=light_bytes)))
    monkeypatch.setattr(probe, "_zstd", SimpleNamespace(compress=heavy_bytes))
    pairs = make_payloads()
    given = b"".join(struct.pack("<Q", len(part)) + part for pair in pairs for part in pair)
    answers = [json.loads(line) for line in ask(program, "probe", given).splitlines()]
    assert len(answers) == len(pairs)
    seen = {"known": 0, "zero": 0, "light": 0}
    for (payload, previous), go in zip(pairs, answers, strict=True):
        base = Base.of(previous) if previous else None
        look = probe.probe(payload, frozenset(base.hashes) if base else frozenset())
        count = -(-len(payload) // probe.BLOCK_BYTES)
        positions = np.unique(np.linspace(0, count - 1, probe.probe_blocks(count)).round().astype(int)).tolist()
        assert go["Blocks"] == positions
        assert go["CompressibilityScore"] == look.compressibility_score
        assert go["DeltaPotential"] == look.delta_potential
        assert go["ZstdShare"] == look.zstd_share
        assert go["ZeroShare"] == probe.zero_share(payload)
        if len(payload) < 1 << 20:  # HDE itself is slow on larger ones
            assert go["KnownShare"] == (hde_compress(payload, base).hit_rate if base else 0)
        # Sums in another order, of another library's logarithms: the float64 may differ, the feature may not.
        assert abs(go["Entropy"] - look.entropy) < 1e-13
        assert np.float32(go["Entropy"]) == np.float32(look.entropy)
        seen["known"] += 0 < look.delta_potential < 1
        seen["zero"] += 0 < go["ZeroShare"] < 1
        seen["light"] += 0 < look.compressibility_score < 1
    assert min(seen.values()) > 10, seen


def test_block_positions_are_the_same_for_every_count(program: Path):
    """Up to 300 blocks each count, and some beyond: single bytes suffice, a payload's last block may be that short."""
    block = probe.BLOCK_BYTES
    counts = [*range(1, 300), 1_025, 1_040, 2_777, 4_111]
    given = b"".join(struct.pack("<Q", size) + bytes(size) + bytes(8) for size in ((n - 1) * block + 1 for n in counts))
    answers = [json.loads(line)["Blocks"] for line in ask(program, "probe", given).splitlines()]
    for count, go in zip(counts, answers, strict=True):
        assert go == np.unique(np.linspace(0, count - 1, probe.probe_blocks(count)).round().astype(int)).tolist()


def test_amst_is_planned_alike(program: Path):
    """The plan of ``fleet.world``: idle cores of the less idle side, the payload's chunks, powers of two."""
    rng = np.random.default_rng(9)
    size = np.r_[
        (10 ** rng.uniform(0, 8, 2_000)).astype(np.int64), np.arange(1, 20) * AMST_CHUNK_BYTES, AMST_CHUNK_BYTES + 1
    ]
    idle = np.r_[rng.uniform(0, 20, 2_000), np.linspace(0, 9, 20)]
    plan = np.minimum(np.maximum(1, idle), -(-size // AMST_CHUNK_BYTES))
    expected = np.array(STREAM_COUNTS)[np.searchsorted(STREAM_COUNTS, plan, side="right") - 1]
    lines = "\n".join(f"{one} {other!r}" for one, other in zip(size.tolist(), idle.tolist(), strict=True))
    assert [int(line) for line in ask(program, "streams", lines.encode()).split()] == expected.tolist()
