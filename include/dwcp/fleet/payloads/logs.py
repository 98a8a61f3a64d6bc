"""Logs that programs wrote: appended to, rotated (a window that moves on), or rotated and compressed."""

from __future__ import annotations

import io
import json
import logging
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from functools import cache, partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from dwcp.fleet import corpus
from dwcp.fleet.payloads.objects import Maker, Spec

Writer = Callable[[int, random.Random], bytes]
"""At least so many bytes of log."""


# -- logs of fixed length: read once, then a stretch of them --


def _packages() -> bytes:
    """What dpkg and apt wrote on this machine."""
    names = ("dpkg.log", "apt/term.log", "apt/history.log", "alternatives.log")
    found = [Path("/var/log", name) for name in names]
    return b"".join(path.read_bytes() for path in found if path.is_file())


def _imports() -> bytes:
    """Python's own trace of importing its standard library."""
    modules = "asyncio,email.message,http.server,sqlite3,unittest.mock,xml.dom.minidom,concurrent.futures,numpy,pyarrow"
    done = subprocess.run([sys.executable, "-v", "-c", f"import {modules}"], capture_output=True, check=False)
    return done.stderr


def _access() -> bytes:
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


def _disassembly() -> bytes:
    """What a compiler says when asked to tell everything: the bytecode of a standard module."""
    done = subprocess.run([sys.executable, "-m", "dis", logging.__file__], capture_output=True, check=False)
    return done.stdout


@cache
def _kept(write: Callable[[], bytes]) -> bytes:
    return write()


def _stretch(size: int, rng: random.Random, write: Callable[[], bytes]) -> bytes:
    """A stretch of a log that is there; beyond its length an application's goes on."""
    text = _kept(write)
    if size >= len(text):
        return text + _application(size - len(text), rng)
    start = rng.randrange(len(text) - size + 1)
    return text[start : start + size]


# -- logs as long as wanted --


def _logger(template: str, stream: io.StringIO, name: str) -> logging.Logger:
    logger = logging.Logger(name)
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(template))
    logger.addHandler(handler)
    return logger


def _application(size: int, rng: random.Random) -> bytes:
    """What ``logging`` writes for an application on a database, every statement traced."""
    stream = io.StringIO()
    template = "%(asctime)s %(levelname)-7s [%(threadName)s] %(name)s: %(message)s"
    logger = _logger(template, stream, f"app.{rng.randrange(100)}")
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


def _structured(size: int, rng: random.Random) -> bytes:
    """A service's log in JSON, one object a line, with a trace id and now and then the words of a real file."""
    text = corpus.take("text", 1 << 17, rng).decode("latin-1")
    began_ns, out, written = time.time_ns(), [], 0
    while written < size:
        began_ns += int(rng.expovariate(1e-7))
        at = rng.randrange(len(text) - 200)
        line: dict[str, object] = {
            "ts": began_ns,
            "level": rng.choices(["info", "debug", "warn", "error"], [70, 20, 8, 2])[0],
            "service": f"svc-{rng.randrange(12)}",
            "trace_id": rng.randbytes(16).hex(),
            "status": rng.choices([200, 204, 304, 404, 500], [80, 5, 8, 5, 2])[0],
            "latency_ms": round(rng.lognormvariate(2, 1), 3),
        }
        if rng.random() < 0.2:
            line["message"] = text[at : at + rng.randrange(20, 200)]
        out.append(json.dumps(line) + "\n")
        written += len(out[-1])
    return "".join(out).encode()


def _calls(size: int, rng: random.Random) -> bytes:
    """A trace of every function call that Python makes while it parses and writes real JSON files."""
    stream = io.StringIO()
    source = corpus.pieces("json", rng)

    def trace(frame: object, event: str, _argument: object) -> None:
        code = frame.f_code  # type: ignore[attr-defined]
        stream.write(f"{time.monotonic():.6f} {event:<8} {code.co_filename}:{frame.f_lineno} {code.co_name}\n")  # type: ignore[attr-defined]

    previous = sys.getprofile()
    while stream.tell() < size:
        text = next(source)[1][:20_000].decode("latin-1")
        sys.setprofile(trace)
        try:
            json.dumps(json.JSONDecoder(strict=False).raw_decode(text)[0], indent=1)
        except ValueError:
            pass
        finally:
            sys.setprofile(previous)
    return stream.getvalue().encode()


def _events(size: int, rng: random.Random) -> bytes:
    """Binary records of fixed length, as a kernel's trace ring or a flow log holds them."""
    import numpy as np

    noise = np.random.default_rng(rng.randrange(2**32))
    count = size // 32 + 1
    records = np.zeros(
        count, [("at", "<u8"), ("kind", "<u2"), ("cpu", "<u2"), ("pid", "<u4"), ("bytes", "<u8"), ("peer", "<u8")]
    )
    records["at"] = 1_700_000_000_000_000_000 + np.cumsum(noise.exponential(20_000, count)).astype(np.uint64)
    records["kind"] = noise.zipf(2.0, count).clip(max=40)
    records["cpu"] = noise.integers(0, 16, count)
    records["pid"] = 1_000 + noise.zipf(1.6, count).clip(max=3_000)
    records["bytes"] = noise.lognormal(6, 2, count).astype(np.uint64)
    records["peer"] = 0x0A000000 + noise.integers(0, 500, count)
    return records.tobytes()


WRITERS: dict[str, Writer] = {
    "packages": partial(_stretch, write=_packages),
    "imports": partial(_stretch, write=_imports),
    "access": partial(_stretch, write=_access),
    "disassembly": partial(_stretch, write=_disassembly),
    "application": _application,
    "structured": _structured,
    "calls": _calls,
    "events": _events,
}


# -- how they become versions --


def _growing(spec: Spec, write: Writer) -> Iterator[bytes]:
    """Appended to: version v is version v - 1 and more."""
    growth = min(spec.dirty, 0.25)
    sizes = [max(40 + 8 * v, int(spec.size * (1 + growth) ** (v - spec.versions / 2))) for v in range(spec.versions)]
    text = write(sizes[-1], spec.rng())
    yield from (text[:size] for size in sizes)


def _rotated(spec: Spec, write: Writer) -> Iterator[bytes]:
    """A window that moves on: the oldest lines go as new ones come."""
    step = max(16, int(spec.size * spec.dirty))
    text = write(spec.size + step * spec.versions, spec.rng())
    yield from (text[step * v : step * v + spec.size] for v in range(spec.versions))


def _compressed(spec: Spec, write: Writer) -> Iterator[bytes]:
    """Rotated and compressed, as logrotate leaves them."""
    larger = Spec(spec.kind, spec.size * 6, spec.dirty, spec.versions, spec.seed)
    yield from (zlib.compress(text, 6, wbits=31) for text in _rotated(larger, write))


KINDS: dict[str, Maker] = {
    **{f"{name}_growing": partial(_growing, write=write) for name, write in WRITERS.items()},
    **{f"{name}_rotated": partial(_rotated, write=write) for name, write in WRITERS.items()},
    **{f"{name}_compressed": partial(_compressed, write=WRITERS[name]) for name in ("application", "structured")},
}
