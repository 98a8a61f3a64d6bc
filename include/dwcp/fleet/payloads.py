"""Objects of every data type with chains of versions, of bytes that programs really made.

An object's kind, size and dirty share are drawn once and stay; version v is version v - 1 after some more work. Makers
are generators: they keep their state (a database, a process, a disk image) between versions. ``directory_objects``
reads chains that somebody else made, from ``<type>/<object>/<version>``.
"""

from __future__ import annotations

import io
import json
import logging
import math
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from dwcp.contract import DATA_TYPES
from dwcp.fleet import corpus, memory
from dwcp.fleet.mix import Mix


class PayloadError(RuntimeError):
    """Payloads cannot be read or made; the message says which and what to do."""


@dataclass(frozen=True, slots=True)
class PayloadObject:
    """One object. ``versions`` yields its payloads in order, version 0 first; a fresh chain at every call."""

    object_id: str
    data_type: str
    kind: str
    versions: Callable[[], Iterator[bytes]]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a maker is told: bytes of version 0, share that each version changes, versions, seed."""

    kind: str
    size: int
    dirty: float
    versions: int
    seed: int

    def rng(self) -> random.Random:
        """The object's own source of chance."""
        return random.Random(self.seed)  # noqa: S311


def made_objects(mix: Mix, count: int, versions: int, seed: int) -> list[PayloadObject]:
    """``count`` objects in the mix's shares; object n is the same whatever ``count`` is. At least one of each type."""
    objects = []
    names = list(mix.types)
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")  # noqa: S311
        # Low-discrepancy in place of chance, so that the shares hold for few objects too.
        place, total = (number * 0.618_033_988_75) % 1.0, 0.0
        for name in names:
            total += mix.types[name]["share"]
            if place < total:
                break
        entry = mix.types[name]
        kinds = list(MAKERS[name])
        kind = kinds[rng.randrange(len(kinds))]
        size = int(math.exp(rng.uniform(math.log(entry["min_bytes"]), math.log(entry["max_bytes"]))))
        large = size >= mix.library["large_bytes"]
        spec = Spec(
            kind=kind,
            size=size,
            dirty=math.exp(rng.uniform(math.log(entry["min_dirty"]), math.log(entry["max_dirty"]))),
            versions=min(versions, mix.library["large_versions"]) if large else versions,
            seed=rng.randrange(2**31),
        )
        maker = MAKERS[name][spec.kind]
        objects.append(
            PayloadObject(f"{name}-{number:05d}", name, spec.kind, lambda maker=maker, spec=spec: maker(spec))  # type: ignore[misc]
        )
    return objects


def directory_objects(root: Path) -> list[PayloadObject]:
    """Objects below ``root``: ``<type>/<object>/<version>``, versions in natural order of their names.

    Raises ``PayloadError`` if the directory is missing, empty or names an unknown type, or an object has no versions.
    """
    if not root.is_dir():
        raise PayloadError(f"{root} is no directory: expected <type>/<object>/<version> below it")
    objects = []
    for type_path in sorted(p for p in root.iterdir() if p.is_dir()):
        if type_path.name not in DATA_TYPES:
            raise PayloadError(f"{type_path} is no data type: use one of {', '.join(DATA_TYPES)}")
        for object_path in sorted(p for p in type_path.iterdir() if p.is_dir()):
            paths = sorted((p for p in object_path.iterdir() if p.is_file()), key=_natural)
            if not paths:
                raise PayloadError(f"{object_path} has no versions: put at least one file in it")
            numbers = [int(p.stem) for p in paths if p.stem.isdigit()]
            gaps = sorted(set(range(min(numbers), max(numbers))) - set(numbers)) if len(numbers) == len(paths) else []
            if gaps:
                raise PayloadError(f"{object_path} lacks versions {', '.join(map(str, gaps))}: add them, or renumber")
            empty = [p.name for p in paths if p.stat().st_size == 0]
            if empty:
                raise PayloadError(f"{object_path} has empty versions ({', '.join(empty)}): remove them")

            def versions(paths: list[Path] = paths) -> Iterator[bytes]:
                for path in paths:
                    try:
                        yield path.read_bytes()
                    except OSError as error:
                        raise PayloadError(f"version {path} cannot be read: {error}") from None

            name = f"{type_path.name}-{object_path.name}"
            objects.append(PayloadObject(name, type_path.name, "directory", versions))
    if not objects:
        raise PayloadError(f"{root} holds no objects: expected <type>/<object>/<version> below it")
    return objects


def _natural(path: Path) -> tuple[int, int, str]:
    stem = path.name.split(".")[0]
    return (0, int(stem), path.name) if stem.isdigit() else (1, 0, path.name)


# -- processes ---------------------------------------------------------------------------------------------------------


def _process(spec: Spec) -> Iterator[bytes]:
    yield from memory.snapshots(spec.kind, spec.seed, spec.size, spec.dirty, spec.versions)


# -- databases ---------------------------------------------------------------------------------------------------------


def _row(kind: str, number: int, rng: random.Random, text: bytes) -> tuple[object, ...]:
    at = rng.randrange(max(1, len(text) - 600))
    if kind == "orders":
        return number, f"customer-{rng.randrange(5_000)}", rng.randrange(1, 50), round(rng.uniform(1, 900), 2), "open"
    if kind == "documents":
        return (
            number,
            f"page {number}",
            rng.randrange(9),
            0.0,
            text[at : at + rng.randrange(100, 600)].decode("latin-1"),
        )
    if kind == "sessions":
        return number, rng.randbytes(24).hex(), rng.randrange(10**9), rng.random(), rng.randbytes(16).hex()
    if kind == "readings":
        return number, f"sensor-{number % 97}", number, math.sin(number / 50) + rng.gauss(0, 0.05), None
    return number, "blob", len(text), 0.0, zlib.compress(text[at : at + 600])


def _database(spec: Spec) -> Iterator[bytes]:
    """An SQLite file under inserts, updates (half of them on a hot range) and deletes."""
    rng = spec.rng()
    text = corpus.take("text", 1 << 18, rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "database.sqlite")
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {1_024 if spec.size < 32_768 else 4_096}")
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c REAL, d)")
            connection.execute("CREATE INDEX t_a ON t (a)")
            rows = 0
            while path.stat().st_size < spec.size:
                batch = max(8, min(5_000, int((spec.size - path.stat().st_size) / 400)))
                connection.execute("BEGIN")
                connection.executemany(
                    "INSERT INTO t VALUES (?, ?, ?, ?, ?)",
                    [_row(spec.kind, rows + n, rng, text) for n in range(batch)],
                )
                connection.execute("COMMIT")
                rows += batch
            yield path.read_bytes()
            for _ in range(spec.versions - 1):
                changes = max(1, int(rows * spec.dirty / 2))
                hot = rng.randrange(rows)
                connection.execute("BEGIN")
                for change in range(changes):
                    target = (hot + change) % rows if change % 2 else rng.randrange(rows)
                    new = _row(spec.kind, target, rng, text)
                    connection.execute("UPDATE t SET b = ?, c = ?, d = ? WHERE id = ?", (*new[2:], target))
                for _ in range(changes // 10):
                    connection.execute("DELETE FROM t WHERE id = ?", (rng.randrange(rows),))
                for _ in range(changes // 8):
                    connection.execute("INSERT INTO t VALUES (?, ?, ?, ?, ?)", _row(spec.kind, rows, rng, text))
                    rows += 1
                connection.execute("COMMIT")
                yield path.read_bytes()
        finally:
            connection.close()


# -- disks and containers ----------------------------------------------------------------------------------------------

_TREES = {
    "code": ("source", "bytecode"),
    "system": ("binary", "text", "source"),
    "documents": ("text", "media", "json"),
}


def _tree(spec: Spec, rng: random.Random, fill: float) -> Iterator[tuple[str, bytes]]:
    """New files for ever, of the kinds that the object's tree holds; none larger than a quarter of the object."""
    most = max(1_024, int(spec.size * fill / 4))
    sources = [corpus.pieces(kind, rng) for kind in _TREES[spec.kind]]
    number = 0
    while True:
        path, data = next(sources[number % len(sources)])
        yield f"{number:05d}-{path.name}"[:60], data[:most]
        number += 1


def _disk(spec: Spec) -> Iterator[bytes]:
    """An ext4 image that files are written to and removed from in place; free space is part of it."""
    rng = spec.rng()
    if shutil.which("mkfs.ext4") is None or shutil.which("debugfs") is None:
        raise PayloadError("mkfs.ext4 and debugfs are needed to make disk images: install e2fsprogs")
    with tempfile.TemporaryDirectory() as folder:
        root, image = Path(folder, "root"), Path(folder, "disk.img")
        root.mkdir()
        block = 1_024 if spec.size < 4 << 20 else 4_096
        size = max(spec.size, 128 * 1_024) // block * block
        budget = size * rng.uniform(0.25, 0.75)
        tree = _tree(spec, rng, 0.5)
        names: list[tuple[str, int]] = []
        used = 0
        inodes = min(512, max(16, size // block // 4))
        while used < budget and len(names) < inodes - 16:
            name, data = next(tree)
            if used + len(data) > budget:
                break
            (root / name).write_bytes(data)
            names.append((name, len(data)))
            used += len(data) + block
        with image.open("wb") as file:
            file.truncate(size)
        # No journal and no reserve: small images would hold little else.
        options = ["-q", "-F", "-b", str(block), "-m", "0", "-O", "^has_journal", "-N", str(inodes), "-d", str(root)]
        _tool(["mkfs.ext4", *options, str(image)])
        yield image.read_bytes()
        fresh = Path(folder, "fresh")
        for version in range(spec.versions - 1):
            commands: list[str] = []
            changed = 0
            fresh.mkdir(exist_ok=True)
            while changed < size * spec.dirty and len(commands) < 2 * inodes:
                if names:
                    name, freed = names.pop(rng.randrange(len(names)))
                    commands.append(f"rm /{name}")
                else:
                    freed = int(budget / 2)
                name, data = next(tree)
                name, data = f"v{version}-{name}", data[: max(block, freed)]
                (fresh / name).write_bytes(data)
                commands.append(f"write {fresh / name} /{name}")
                names.append((name, len(data)))
                changed += len(data) + block
            script = Path(folder, "commands")
            script.write_text("\n".join(commands) + "\n")
            _tool(["debugfs", "-w", "-f", str(script), str(image)])
            shutil.rmtree(fresh)
            yield image.read_bytes()


def _tool(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PayloadError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")


def _layers(spec: Spec) -> Iterator[bytes]:
    """A tar of a package tree; a version replaces, adds and removes files. One object in four is a gzipped layer."""
    rng = spec.rng()
    packed = rng.random() < 0.25
    tree = _tree(spec, rng, 1.0)
    target = spec.size * (3 if packed else 1)
    content: list[tuple[str, bytes]] = []
    total = 0
    while total < target:
        name, data = next(tree)
        content.append((name, data[: max(512, target - total)]))
        total += len(content[-1][1]) + 512
    content.sort()
    stamp = 1_700_000_000
    for version in range(spec.versions):
        if version:
            changed = 0
            while changed < total * spec.dirty:
                place = rng.randrange(len(content))
                name, old = content[place]
                if rng.random() < 0.6:  # a new build of the same file: most of it stays
                    at = rng.randrange(max(1, len(old)))
                    fresh = next(tree)[1][: max(64, len(old) // 5)]
                    content[place] = (name, old[:at] + fresh + old[at + len(fresh) :])
                    changed += len(fresh)
                else:
                    content[place] = (name, next(tree)[1][: max(512, len(old))])
                    changed += len(content[place][1])
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, data in content:
                info = tarfile.TarInfo(f"usr/lib/app/{name}")
                info.size, info.mtime = len(data), stamp
                tar.addfile(info, io.BytesIO(data))
        data = buffer.getvalue()
        yield zlib.compress(data, 6, wbits=31) if packed else data


# -- logs --------------------------------------------------------------------------------------------------------------


@cache
def _package_log() -> bytes:
    """What dpkg and apt wrote on this machine; where there are none, what the import system writes."""
    names = ("dpkg.log", "apt/term.log", "apt/history.log", "alternatives.log")
    found = [Path("/var/log", name) for name in names]
    data = b"".join(path.read_bytes() for path in found if path.is_file())
    return data if len(data) > 100_000 else _import_log()


@cache
def _import_log() -> bytes:
    """Python's own trace of importing its standard library."""
    modules = "asyncio,email.message,http.server,sqlite3,unittest.mock,xml.dom.minidom,concurrent.futures,numpy,pyarrow"
    done = subprocess.run([sys.executable, "-v", "-c", f"import {modules}"], capture_output=True, check=False)
    return done.stderr


@cache
def _access_log() -> bytes:
    """The access log of a real HTTP server on loopback under real requests."""
    lines: list[str] = []
    paths = [f"/{path.name}" for path in corpus.files("source")[:300]]

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, template: str, *values: object) -> None:
            lines.append(f"{self.client_address[0]} - - [{self.log_date_time_string()}] {template % values}\n")

    with tempfile.TemporaryDirectory() as folder:
        for path in paths[::2]:
            Path(folder, path[1:]).write_bytes(b"x")
        handler = lambda *args: Handler(*args, directory=folder)  # noqa: E731
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        rng = random.Random(7)  # noqa: S311
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for number in range(2_500):
            target = f"http://127.0.0.1:{server.server_address[1]}{rng.choice(paths)}?session={number:x}"
            try:
                opener.open(target, timeout=5).read()
            except urllib.error.HTTPError as error:
                error.close()
        server.shutdown()
        thread.join()
        server.server_close()
    return "".join(lines).encode()


def _application_log(size: int, rng: random.Random) -> bytes:
    """What ``logging`` writes for an application on a database, every statement traced."""
    stream = io.StringIO()
    logger = logging.Logger(f"app.{rng.randrange(100)}")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s [%(threadName)s] %(name)s: %(message)s"))
    logger.addHandler(handler)
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("CREATE TABLE sessions (token TEXT PRIMARY KEY, hits INTEGER, spent REAL)")
    connection.set_trace_callback(logger.debug)
    try:
        while stream.tell() < size:
            token = rng.randbytes(8).hex()
            connection.execute(
                "INSERT OR REPLACE INTO sessions VALUES (?, ?, ?)", (token, rng.randrange(99), rng.random())
            )
            spent = rng.expovariate(0.2)
            logger.info("GET /api/v1/sessions/%s took %.3f ms", token, spent)
            if spent > 20:
                logger.warning("slow request: session %s waited %.1f ms for a connection", token, spent * 0.7)
    finally:
        connection.close()
    return stream.getvalue().encode()


def _log_text(size: int, rng: random.Random) -> bytes:
    source = rng.randrange(4)
    if source == 0 or size > 2 << 20:
        return _application_log(size, rng)
    text = (_package_log, _import_log, _access_log)[source - 1]()
    start = rng.randrange(len(text))
    return (text[start:] + text * (1 + size // len(text)))[:size]


def _growing_log(spec: Spec) -> Iterator[bytes]:
    """Appended to: version v is version v - 1 and more."""
    growth = min(spec.dirty, 0.25)
    sizes = [int(spec.size * (1 + growth) ** (v - spec.versions / 2)) + 200 for v in range(spec.versions)]
    text = _log_text(sizes[-1], spec.rng())
    yield from (text[:size] for size in sizes)


def _rotated_log(spec: Spec) -> Iterator[bytes]:
    """A window that moves on: the oldest lines go as new ones come."""
    step = max(64, int(spec.size * spec.dirty))
    text = _log_text(spec.size + step * spec.versions, spec.rng())
    yield from (text[step * v : step * v + spec.size] for v in range(spec.versions))


# -- media -------------------------------------------------------------------------------------------------------------


def _picture(width: int, rng: random.Random, texture: float) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A rendered scene: gradients, shapes and film grain, uint8 of shape (height, width, 3)."""
    noise = np.random.default_rng(rng.randrange(2**32))
    height = max(8, width * 3 // 4)
    y, x = np.mgrid[0:height, 0:width] / width
    layers = [np.sin(x * rng.uniform(2, 30) + rng.random() * 6) * np.cos(y * rng.uniform(2, 30)) for _ in range(3)]
    image = np.stack(layers, axis=2) * 60 + 128 + noise.normal(size=(height, width, 3)) * texture
    return np.clip(image, 0, 255).astype(np.uint8)


def _image(spec: Spec) -> Iterator[bytes]:
    """A PNG or JPEG that is drawn on and saved again: nearly all its bytes change."""
    from PIL import Image, ImageDraw

    rng = spec.rng()
    photo = rng.random() < 0.6
    texture = rng.uniform(2, 20) if photo else rng.uniform(0, 2)
    image = Image.fromarray(_picture(max(24, int(math.sqrt(spec.size * (2.0 if photo else 0.9)))), rng, texture))
    for _ in range(spec.versions):
        buffer = io.BytesIO()
        if photo:
            image.save(buffer, "JPEG", quality=88)
        else:
            image.save(buffer, "PNG", compress_level=3)
        yield buffer.getvalue()
        draw = ImageDraw.Draw(image)
        side = max(2, int(image.width * math.sqrt(spec.dirty) / 2))
        for _ in range(3):
            at = rng.randrange(image.width), rng.randrange(image.height)
            draw.rectangle((*at, at[0] + side, at[1] + side), fill=tuple(rng.randrange(256) for _ in range(3)))


def _sound(spec: Spec) -> Iterator[bytes]:
    """16-bit PCM in a WAV file; a version overdubs a stretch of it."""
    rng = spec.rng()
    noise = np.random.default_rng(rng.randrange(2**32))
    count = max(100, spec.size // 2)
    clock = np.arange(count) / 44_100
    hiss = 10 ** rng.uniform(0, 3)
    wave = sum(np.sin(2 * np.pi * rng.uniform(80, 2_000) * clock) * rng.uniform(500, 4_000) for _ in range(5))
    wave = np.asarray(wave + noise.normal(size=count) * hiss)
    for _ in range(spec.versions):
        pcm = np.clip(wave, -32_768, 32_767).astype("<i2").tobytes()
        yield (
            b"RIFF"
            + struct.pack(
                "<I4s4sIHHIIHH4sI", 36 + len(pcm), b"WAVE", b"fmt ", 16, 1, 1, 44_100, 88_200, 2, 16, b"data", len(pcm)
            )
            + pcm
        )
        run = max(1, int(count * spec.dirty))
        at = rng.randrange(max(1, count - run))
        wave[at : at + run] += np.sin(2 * np.pi * rng.uniform(80, 2_000) * clock[at : at + run]) * 3_000


def _album(spec: Spec) -> Iterator[bytes]:
    """Media files of this machine one after another; a version replaces some of them."""
    rng = spec.rng()
    source = corpus.pieces("media", rng)
    files: list[bytes] = []
    while sum(map(len, files)) < spec.size:
        files.append(next(source)[1][: max(2_048, spec.size // 6)])
    for _ in range(spec.versions):
        yield b"".join(files)
        changed, goal = 0, spec.size * spec.dirty
        while changed < goal:
            place = rng.randrange(len(files))
            files[place] = next(source)[1][: max(2_048, spec.size // 6)]
            changed += max(1, len(files[place]))


# -- metadata and small messages ---------------------------------------------------------------------------------------


def _message(spec: Spec) -> Iterator[bytes]:
    """JSON state of a service whose counters and times move on."""
    rng = spec.rng()
    words = [w for w in corpus.take("text", 20_000, rng).decode("latin-1").split() if w.isalpha()] or ["item"]
    entries: list[dict[str, object]] = []

    def entry() -> dict[str, object]:
        return {
            "id": rng.randbytes(6).hex(),
            "name": f"{rng.choice(words)}-{rng.choice(words)}",
            "state": rng.choice(["running", "paused", "migrating"]),
            "cpu": round(rng.random(), 4),
            "updated_at": 1_700_000_000 + rng.randrange(10**6),
        }

    filled = 0
    while filled < spec.size:
        entries.append(entry())
        filled += len(json.dumps(entries[-1], separators=(",", ":"))) + 1
    for _ in range(spec.versions):
        yield json.dumps({"serial": rng.randrange(10**6), "items": entries}, separators=(",", ":")).encode()
        for _ in range(max(1, int(len(entries) * spec.dirty))):
            target = entries[rng.randrange(len(entries))]
            target.update(cpu=round(rng.random(), 4), updated_at=1_700_000_000 + rng.randrange(10**6))


def _binary_message(spec: Spec) -> Iterator[bytes]:
    """Tag, length and value, as protocol buffers write it: numbers, times and short names."""
    rng = spec.rng()
    records: list[bytes] = []

    def record() -> bytes:
        name = f"node-{rng.randrange(200)}".encode()
        return (
            struct.pack("<BQBfBB", 8, 1_700_000_000_000 + rng.randrange(10**8), 21, rng.random(), 26, len(name)) + name
        )

    while sum(map(len, records)) < spec.size:
        records.append(record())
    for _ in range(spec.versions):
        yield b"".join(records)
        for _ in range(max(1, int(len(records) * spec.dirty))):
            records[rng.randrange(len(records))] = record()


def _package_metadata(spec: Spec) -> Iterator[bytes]:
    """Package descriptions, some of them replaced by the next."""
    rng = spec.rng()
    part = max(100, spec.size // 8)
    source = corpus.pieces("package", rng)
    parts = [next(source)[1][:part] for _ in range(8)]
    for _ in range(spec.versions):
        yield b"".join(parts)[: spec.size]
        for _ in range(max(1, round(8 * spec.dirty))):
            parts[rng.randrange(8)] = next(source)[1][:part]


# -- other -------------------------------------------------------------------------------------------------------------


def _weights(spec: Spec) -> Iterator[bytes]:
    """Weights of a network in float32; a training step moves a share of its rows."""
    rng = spec.rng()
    noise = np.random.default_rng(rng.randrange(2**32))
    rows = max(4, spec.size // 256)
    weights = (noise.normal(size=(rows, 64)) * 0.05).astype(np.float32)
    for _ in range(spec.versions):
        yield weights.tobytes()
        touched = noise.choice(rows, max(1, int(rows * spec.dirty)), replace=False)
        weights[touched] -= (noise.normal(size=(len(touched), 64)) * 0.001).astype(np.float32)


def _program(spec: Spec) -> Iterator[bytes]:
    """Machine code; a new build changes some of it and moves the rest by a few bytes."""
    rng = spec.rng()
    data = corpus.take("binary", spec.size, rng)
    fresh = corpus.take("binary", max(4_096, spec.size), rng)
    for _ in range(spec.versions):
        yield data
        run = max(16, int(len(data) * spec.dirty / 3))
        for _ in range(3):
            at, source = rng.randrange(len(data)), rng.randrange(len(fresh))
            patch = fresh[source : source + run]
            data = data[:at] + patch + data[at + max(0, len(patch) - rng.randrange(-32, 33)) :]


def _backup(spec: Spec) -> Iterator[bytes]:
    """A compressed (half of them: also enciphered, so like noise) archive that is made anew each time."""
    rng = spec.rng()
    secret = rng.random() < 0.5
    parts = [corpus.take("source", max(256, spec.size // 2), rng) for _ in range(8)]
    for _ in range(spec.versions):
        parts[rng.randrange(8)] = corpus.take("source", max(256, spec.size // 2), rng)
        yield rng.randbytes(spec.size) if secret else zlib.compress(b"".join(parts), 6)[: spec.size]


Maker = Callable[[Spec], Iterator[bytes]]
MAKERS: dict[str, dict[str, Maker]] = {
    "vm_memory": dict.fromkeys(memory.KINDS, _process),
    "vm_disk": dict.fromkeys(_TREES, _disk),
    "database": dict.fromkeys(("orders", "documents", "sessions", "readings", "blobs"), _database),
    "container": dict.fromkeys(_TREES, _layers),
    "logs": {"growing": _growing_log, "rotated": _rotated_log},
    "media": {"image": _image, "sound": _sound, "album": _album},
    "metadata": {"json": _message, "binary": _binary_message, "package": _package_metadata},
    "other": {"weights": _weights, "program": _program, "backup": _backup},
}
"""How objects of each data type are made, by kind."""
