"""The Go engines against Python's: the same bytes in both directions, the same sizes of probed blocks.

``go/engines/internal/engineparity`` says how the two talk.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lz4.block
import pytest
import zstandard

from dwcp.features.probe import BLOCK_BYTES
from dwcp.fleet import engines
from dwcp.fleet.engines import Base
from dwcp.fleet.measure import codec_versions
from dwcp.fleet.payloads import MAKERS, Spec

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

ENGINES_MODULE = Path(__file__).parents[2] / "go" / "engines"


@dataclass(frozen=True, slots=True)
class Answer:
    """What Go says, and the bytes it gives."""

    said: dict[str, Any]
    data: bytes


class GoEngines:
    """A running ``engineparity``."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(
        self, operation: str, data: bytes, *, engine: str = "", previous: bytes | None = None, **more: int
    ) -> Answer:
        """One request; ``more`` are ``streams`` and ``runs``."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        known = -1 if previous is None else len(previous)
        request = {"operation": operation, "engine": engine, "bytes": len(data), "previous": known, **more}
        stdin.write(json.dumps(request).encode() + b"\n" + data + (previous or b""))
        stdin.flush()
        said = json.loads(stdout.readline())
        return Answer(said, stdout.read(said["Bytes"]))

    def close(self) -> None:
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoEngines]:
    for tool in ("go", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the Go engines, which are C inside, cannot be built")
    built = tmp_path_factory.mktemp("go") / "engineparity"
    command = ["go", "build", "-o", str(built), "./internal/engineparity"]
    done = subprocess.run(command, cwd=ENGINES_MODULE, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    running = GoEngines(built)
    yield running
    running.close()


@pytest.fixture(scope="module")
def chains() -> list[list[bytes]]:
    """Real bytes of every kind that the fleet measures, each a chain of three versions, and files of packages."""
    made = [
        list(maker(Spec(kind, 600_000, 0.05, 3, seed=5))) for kinds in MAKERS.values() for kind, maker in kinds.items()
    ]
    sites = Path(sysconfig.get_paths()["purelib"])
    files = sorted(path for path in sites.glob("*/*") if path.is_file() and 0 < path.stat().st_size < 2_000_000)
    chosen = random.Random(1).sample(files, 150)
    return made + [[path.read_bytes()] for path in chosen]


def pairs(chains: list[list[bytes]]) -> Iterator[tuple[bytes, bytes | None]]:
    """Every version and the one before it."""
    for chain in chains:
        yield from zip(chain, [None, *chain[:-1]], strict=True)


def test_the_libraries_are_those_that_the_fleet_measures_with(go: GoEngines) -> None:
    said = go.ask("blocks", b"x").said
    assert {"libzstd": said["Zstd"], "liblz4": said["LZ4"]} == codec_versions()


def test_probed_blocks_have_the_same_sizes(go: GoEngines, chains: list[list[bytes]]) -> None:
    compressor = zstandard.ZstdCompressor(level=3)
    payloads = [payload for payload, _ in pairs(chains)]
    assert len(payloads) >= 200
    for payload in payloads:
        said = go.ask("blocks", payload).said
        blocks = [payload[at : at + BLOCK_BYTES] for at in range(0, len(payload), BLOCK_BYTES)]
        assert said["Light"] == [len(lz4.block.compress(block, store_size=False)) for block in blocks]
        assert said["Heavy"] == [len(compressor.compress(block)) for block in blocks]


def test_both_make_the_same_bytes(go: GoEngines, chains: list[list[bytes]]) -> None:
    deltas = 0
    for payload, previous in pairs(chains):
        assert go.ask("compress", payload, engine="zstd").data == engines.zstd_compress(payload)
        assert go.ask("compress", payload, engine="amst", streams=4).data == engines.amst_compress(payload).data
        mine = engines.hde_compress(payload, None if previous is None else Base.of(previous))
        theirs = go.ask("compress", payload, engine="hde", previous=previous)
        assert theirs.data == mine.data
        assert theirs.said["KnownShare"] == mine.hit_rate
        deltas += mine.hit_rate > 0
    assert deltas > 20


def unpack(engine: str, data: bytes, previous: bytes | None) -> bytes:
    match engine:
        case "hde":
            return engines.hde_decompress(data, None if previous is None else Base.of(previous))
        case "amst":
            return engines.amst_decompress(data, 2).data
        case _:
            return engines.zstd_decompress(data)


def edited(payload: bytes, rng: random.Random) -> bytes:
    """Some blocks changed, moved and removed, and a tail of another length."""
    out = bytearray(payload)
    for _ in range(rng.randrange(8)):
        at = rng.randrange(len(out) + 1)
        out[at : at + rng.randrange(9_000)] = rng.randbytes(rng.randrange(9_000))
    cut = rng.randrange(len(out) // BLOCK_BYTES + 1) * BLOCK_BYTES
    return bytes(out[cut:] + out[:cut])


def test_each_decompresses_what_the_other_compressed(go: GoEngines) -> None:
    rng = random.Random(2)
    for size in (0, 1, 7, 4_095, 4_096, 4_097, 262_143, 262_144, 262_145, 3_000_001):
        text = b" ".join(b"%d" % rng.randrange(300) for _ in range(size))[:size]
        for previous in (text, text[: size // 2], b"", None, b"\x37\xa4\x30\xec" + text):  # zstd's mark of a dictionary
            payload = edited(previous or text, rng)
            for engine in ("hde", "amst", "zstd"):
                packed = go.ask("compress", payload, engine=engine, previous=previous, streams=2)
                assert packed.said["Error"] == ""
                assert unpack(engine, packed.data, previous) == payload
                back = go.ask("decompress", packed.data, engine=engine, previous=previous, streams=8)
                assert (back.said["Error"], back.data) == ("", payload)


def test_damage_is_refused_or_left_to_the_digest(go: GoEngines) -> None:
    rng = random.Random(3)
    previous = b" ".join(b"%d" % rng.randrange(300) for _ in range(100_000))
    payload = edited(previous, rng)
    refused = 0
    for engine in ("hde", "amst", "zstd"):
        packed = go.ask("compress", payload, engine=engine, previous=previous).data
        for _ in range(150):
            damaged = bytearray(packed)
            damaged[rng.randrange(min(len(damaged), 200))] ^= 1 << rng.randrange(8)
            answer = go.ask("decompress", bytes(damaged), engine=engine, previous=previous)
            refused += answer.said["Error"] != ""
            # A literal that changed shows to nobody but the digest of the payload, which a node checks.
            assert answer.said["Error"] or len(answer.data) == len(payload)
        for cut in (0, 1, 3, 10, 11, len(packed) // 2, len(packed) - 1):
            assert "damaged" in go.ask("decompress", packed[:cut], engine=engine, previous=previous).said["Error"]
    assert refused > 50
    delta = go.ask("compress", payload, engine="hde", previous=previous).data
    assert "missing" in go.ask("decompress", delta, engine="hde").said["Error"]
    assert "no engine" in go.ask("compress", payload, engine="none").said["Error"]


def test_times_are_cpu_time_of_the_threads_at_work(go: GoEngines) -> None:
    payload = random.Random(4).randbytes(1 << 20) * 8
    one = go.ask("compress", payload, engine="amst", streams=1, runs=3).said
    four = go.ask("compress", payload, engine="amst", streams=4, runs=3).said
    assert one["CPUNs"] == one["MakespanNs"] > 0
    assert four["MakespanNs"] < 0.6 * four["CPUNs"]
    began = time.perf_counter_ns()
    zstd = go.ask("compress", payload, engine="zstd").said
    assert 0 < zstd["CPUNs"] < time.perf_counter_ns() - began
