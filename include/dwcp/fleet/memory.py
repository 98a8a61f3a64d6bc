"""A busy process that hands out snapshots of its own memory: real heaps, as a live migration moves them.

Run as ``python -m dwcp.fleet.memory KIND SEED BYTES DIRTY MATERIAL``: for every line on standard input it works on (a
DIRTY share of) its data and writes one snapshot to standard output: the same address ranges each time, from
``/proc/self/mem``. MATERIAL is a file of real text that the work is done on.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_PAGE = 4_096
_MOST_BYTES = 64 << 20
KINDS = (
    "records",
    "arrays",
    "text",
    "cache",
    "sparse",
    "allocator",
    "table",
    "frames",
    "hash_map",
    "documents",
    "columns",
    "tree",
)


def snapshots(kind: str, seed: int, size: int, dirty: float, versions: int) -> Iterator[bytes]:
    """``versions`` snapshots of ``size`` bytes of a working child process. Raises ``RuntimeError`` if it dies."""
    from dwcp.fleet import corpus

    with tempfile.NamedTemporaryFile() as material:
        material.write(corpus.take("text" if kind == "text" else "source", size + (1 << 20), random.Random(seed)))  # noqa: S311
        material.flush()
        command = [sys.executable, "-m", "dwcp.fleet.memory", kind, str(seed), str(size), str(dirty), material.name]
        yield from _converse(command, size, versions)


def _converse(command: list[str], size: int, versions: int) -> Iterator[bytes]:
    # One thread: the stacks of more are address space that nothing was ever written to.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as child:
        assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - Popen was given both pipes
        try:
            for _ in range(versions):
                child.stdin.write(b"\n")
                child.stdin.flush()
                snapshot = child.stdout.read(size)
                if len(snapshot) < size:
                    raise RuntimeError(f"the busy process ended early: {' '.join(command)}")
                yield snapshot
        finally:
            child.kill()


def work(kind: str, rng: random.Random, size: int, dirty: float, material: bytes) -> Callable[[], None]:
    """Build a data structure of about ``size`` bytes and return the step that works on a share of it."""
    import numpy as np

    noise = np.random.default_rng(rng.randrange(2**32))

    def excerpt(most: int) -> bytes:
        at = rng.randrange(max(1, len(material) - most))
        return material[at : at + rng.randrange(most // 8, most)]

    if kind == "arrays":
        array = np.cumsum(noise.normal(size=max(64, size // 8)))

        def walk() -> None:
            run = max(1, int(len(array) * dirty / 4))
            for _ in range(4):
                at = rng.randrange(max(1, len(array) - run))
                array[at : at + run] += noise.normal(size=run)

        return walk
    if kind == "sparse":
        pages = bytearray(size)

        def touch(share: float = dirty / 3) -> None:
            for _ in range(max(1, int(size * share / 4_096))):
                data = excerpt(4_096)
                at = rng.randrange(max(1, size - len(data)))
                pages[at : at + len(data)] = data

        touch(0.4)
        return touch
    if kind == "text":
        words: list[list[str]] = [
            line.split() for line in material[: size // 3].decode("utf-8", "replace").splitlines()
        ]

        def shuffle() -> None:
            for _ in range(max(1, int(len(words) * dirty))):
                line = words[rng.randrange(len(words))]
                line[:] = [word[::-1] for word in line]

        return shuffle
    if kind == "cache":
        store: dict[int, bytes] = {}

        def blob() -> bytes:
            data = excerpt(8_192)
            return zlib.compress(data) if rng.random() < 0.5 else data

        total = 0
        while total < size:
            store[len(store)] = data = blob()
            total += len(data)

        def evict() -> None:
            for _ in range(max(1, int(len(store) * dirty))):
                store[rng.randrange(len(store))] = blob()

        return evict
    if kind == "allocator":
        held: list[list[object]] = [[n, str(n), float(n)] for n in range(size // 200)]

        def churn() -> None:
            for _ in range(max(1, int(len(held) * dirty))):
                held[rng.randrange(max(1, len(held)))] = [rng.random(), hex(rng.getrandbits(64)), None]

        return churn
    if kind == "records":
        rows = [
            {"id": n, "name": f"user-{rng.randrange(10**6)}", "balance": rng.random(), "tags": ["a", "b"]}
            for n in range(max(10, size // 450))
        ]

        def update() -> None:
            for _ in range(max(1, int(len(rows) * dirty))):
                row = rows[rng.randrange(len(rows))]
                row["balance"], row["name"] = rng.random(), f"user-{rng.randrange(10**6)}"

        return update
    if kind == "table":
        import sqlite3

        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value REAL, note BLOB)")
        connection.execute("CREATE INDEX t_name ON t (name)")
        count = max(10, size // 400)
        insert = "INSERT OR REPLACE INTO t VALUES (?, ?, ?, ?)"

        def line(number: int) -> tuple[object, ...]:
            return number, f"item-{rng.randrange(10**6)}", rng.random(), excerpt(400)

        connection.executemany(insert, map(line, range(count)))

        def write() -> None:
            changed = (line(rng.randrange(count)) for _ in range(max(1, int(count * dirty))))
            connection.executemany(insert, list(changed))

        return write
    if kind == "frames":
        width = max(64, int((size / 12) ** 0.5))
        picture = np.add.outer(np.arange(width), np.arange(width)).astype(np.uint8)
        buffers = np.repeat(picture[None], max(1, size // picture.size), axis=0)

        def render() -> None:
            for _ in range(max(1, int(len(buffers) * dirty))):
                top, height = rng.randrange(width), max(1, width // 3)
                buffers[rng.randrange(len(buffers)), top : top + height] += noise.integers(0, 9, width, np.uint8)

        return render
    if kind == "hash_map":
        counts = dict.fromkeys((rng.getrandbits(40) for _ in range(max(10, size // 110))), 0)
        keys = list(counts)

        def count_up() -> None:
            for _ in range(max(1, int(len(keys) * dirty))):
                counts[keys[rng.randrange(len(keys))]] += rng.getrandbits(30)

        return count_up
    if kind == "documents":
        lines = material[: size // 3].decode("utf-8", "replace").splitlines()
        index: dict[str, list[int]] = {}
        for number, text in enumerate(lines):
            for word in text.split():
                index.setdefault(word, []).append(number)
        terms = list(index) or [""]

        def reindex() -> None:
            for _ in range(max(1, int(len(lines) * dirty))):
                number = rng.randrange(max(1, len(lines)))
                lines[number : number + 1] = [f"{lines[number]} {rng.choice(terms)}" if lines else ""]
                index.setdefault(rng.choice(terms), []).append(number)

        return reindex
    if kind == "columns":
        count = max(64, size // 24)
        table = {
            "key": noise.integers(0, 1_000, count),
            "price": np.round(noise.lognormal(3, 1, count), 2),
            "at": 1_700_000_000_000 + np.cumsum(noise.integers(0, 50, count)),
        }

        def revalue() -> None:
            chosen = slice(at := rng.randrange(count), at + max(1, int(count * dirty)))
            table["price"][chosen] = np.round(table["price"][chosen] * 1.01, 2)
            table["key"][noise.integers(0, count, max(1, int(count * dirty / 50)))] += 1

        return revalue
    if kind == "tree":
        root: list[object] = []
        nodes = [root]
        while len(nodes) < max(10, size // 160):
            node: list[object] = [rng.random(), f"n{len(nodes)}"]
            nodes[rng.randrange(len(nodes))].append(node)
            nodes.append(node)

        def rotate() -> None:
            for _ in range(max(1, int(len(nodes) * dirty))):
                node = nodes[rng.randrange(1, len(nodes))]
                node[0], node[1] = rng.random(), f"m{rng.randrange(10**6)}"

        return rotate
    raise ValueError(f"unknown kind of work {kind!r}: choose one of {', '.join(KINDS)}")


def resident() -> dict[tuple[str, int], tuple[int, int, int]]:
    """Start, end and resident KiB of each region of this process's private writable memory.

    Keyed by the end that stays when it grows: a heap's start, a mapping's end (the kernel maps downwards and merges).
    """
    found: dict[tuple[str, int], tuple[int, int, int]] = {}
    with open("/proc/self/smaps") as maps:  # noqa: PTH123
        low, high, name, ours = 0, 0, "", False
        for line in maps:
            words = line.split()
            if "-" in words[0]:
                low, high = (int(edge, 16) for edge in words[0].split("-"))
                name = words[5] if len(words) > 5 else ""
                ours = words[1].startswith("rw-p") and name in ("", "[heap]")
            elif words[0] == "Rss:" and ours:
                found[name, low if name else high] = (low, high, int(words[1]))
    return found


Region = tuple[int, int]
"""Start and length."""


def grown(before: dict[tuple[str, int], tuple[int, int, int]]) -> list[Region]:
    """Regions with more resident memory than ``before``, in order of address, cut to their last or first 64 MB."""
    chosen = []
    for key, (low, high, kib) in resident().items():
        if kib > before.get(key, (0, 0, 0))[2]:
            length = min(high - low, _MOST_BYTES)
            chosen.append((high - length if key[0] else low, length))
    return sorted(chosen)


def window(regions: list[Region], start: int, size: int) -> list[Region]:
    """``size`` bytes of ``regions``, laid end to end, from ``start`` on; fewer where they end."""
    chosen = []
    for low, length in regions:
        begin, end = max(0, start), min(length, start + size)
        if begin < end:
            chosen.append((low + begin, end - begin))
        start -= length
    return chosen


def look(memory: BinaryIO, regions: list[Region]) -> bytes:
    """The bytes of ``regions`` now; what was given back to the system since reads as zeros."""
    parts = []
    for low, length in regions:
        try:
            memory.seek(low)
            data = memory.read(length) or b""
        except OSError:
            data = b""
        parts.append(data.ljust(length, b"\0"))
    return b"".join(parts)


def main(kind: str, seed: int, size: int, dirty: float, material: Path) -> None:
    """Work and answer until standard input ends."""
    import numpy as np  # loaded before the first look, so that it is no part of the work's memory

    rng = random.Random(seed)  # noqa: S311
    text, before = material.read_bytes(), resident()
    step = work(kind, rng, size, dirty, text)
    with open("/proc/self/mem", "rb", buffering=0) as memory:  # noqa: PTH123
        for _ in range(3):  # what only the first steps touch is no working set
            step()
        # Somewhere among what the work changes: not in what a heap once held, nor in what looking itself changes.
        # Where the work found room in what was resident already, no region grew; then all of them are looked at.
        for regions in (grown(before), grown({})):
            looks = [look(memory, regions), look(memory, regions)]
            step()
            looks.append(look(memory, regions))
            first, second, third = (np.frombuffer(data, np.uint8).reshape(-1, _PAGE) for data in looks)
            changed = np.count_nonzero(second != third, axis=1) * (first == second).all(axis=1)
            if changed.any():
                break
        target = rng.choices(range(len(changed)), changed.tolist())[0] * _PAGE if changed.any() else 0
        start = max(0, min(target - rng.randrange(size) // _PAGE * _PAGE, sum(n for _, n in regions) - size))
        chosen = window(regions, start, size)
        for _ in sys.stdin.buffer:
            step()
            sys.stdout.buffer.write(look(memory, chosen).ljust(size, b"\0"))
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
