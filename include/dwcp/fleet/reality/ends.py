"""The two ends of a link: one compresses and sends, the other joins, decompresses and answers."""

from __future__ import annotations

import os
import socket
import statistics
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dwcp.contract import ALGORITHMS
from dwcp.fleet import engines
from dwcp.fleet.engines import STREAM_COUNTS, Base
from dwcp.fleet.link import Link
from dwcp.fleet.reality.found import STAGES, Measured, Sent

_BULK_S, _MOST_BULK_BYTES = 1.0, 64 << 20
_PINGS = 30
_HEADER = struct.Struct("<BBiiQ")
"""Algorithm, streams, payload's number, base's number or -1, bytes of this stream's part."""
_BULK = 255
_REPLY = struct.Struct("<QQI")
"""When decompression began and ended (CLOCK_MONOTONIC, one for all processes of a machine), the payload's CRC-32."""


class _Connections:
    """TCP connections to the other end, opened as streams need them."""

    def __init__(self, connect: Callable[[], socket.socket], congestion: str) -> None:
        self._connect, self._congestion = connect, congestion
        self.open: list[socket.socket] = []

    def first(self, count: int) -> list[socket.socket]:
        while len(self.open) < count:
            self.open.append(_tuned(self._connect(), self._congestion))
        return self.open[:count]

    def close(self) -> None:
        for one in self.open:
            one.close()
        self.open = []


def _tuned(connection: socket.socket, congestion: str) -> socket.socket:
    connection.settimeout(120)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
    return connection


def send_all(
    connect: Callable[[], socket.socket], link: Link, sent: Sequence[Sent], repeats: int, fresh: bool, congestion: str
) -> Measured:
    """The sending end: what the link gives, then every payload by every algorithm, ``repeats`` times each."""
    connections = _Connections(connect, congestion)
    (control,) = connections.first(1)
    rtt_ms = _round_trip_ms(control)
    bandwidth_mbps, loss = _bulk(control, link)
    bases = {one.base: Base.of(sent[one.base].payload) for one in sent if one.base >= 0}
    for known in bases.values():
        _ = known.positions
    stage_ms = np.zeros((len(sent), len(ALGORITHMS), repeats, len(STAGES)))
    with ThreadPoolExecutor(max(STREAM_COUNTS)) as pool:
        for number, one in enumerate(sent):
            base = bases.get(one.base)
            for repeat in range(repeats):
                for place, algorithm in enumerate(ALGORITHMS):
                    if fresh:
                        connections.close()
                    stage_ms[number, place, repeat] = _transfer(connections, pool, algorithm, number, one, base)
    connections.close()
    return Measured(link, bandwidth_mbps, rtt_ms, loss, congestion, stage_ms)


def _transfer(
    connections: _Connections, pool: ThreadPoolExecutor, algorithm: str, number: int, one: Sent, base: Base | None
) -> tuple[float, float, float]:
    """Milliseconds of each stage, from before compression here to after decompression there.

    Raises ``EngineError`` if anything else came out.
    """
    streams = one.streams if algorithm == "amst" else 1
    began_ns = time.monotonic_ns()
    data = _compress(algorithm, one.payload, base, streams)
    compressed_ns = time.monotonic_ns()
    parts = _cut(data, streams)
    ends = connections.first(streams)

    def push(stream: int) -> None:
        part = parts[stream]
        header = _HEADER.pack(ALGORITHMS.index(algorithm), streams, number, one.base, len(part))
        ends[stream].sendall(b"".join((header, part)))

    list(pool.map(push, range(streams))) if streams > 1 else push(0)
    there_ns, ended_ns, checksum = _REPLY.unpack(_receive_exactly(ends[0], _REPLY.size))
    if checksum != zlib.crc32(one.payload):
        raise engines.EngineError(f"{algorithm} brought {one.object_id} over the link damaged")
    return (compressed_ns - began_ns) / 1e6, (there_ns - compressed_ns) / 1e6, (ended_ns - there_ns) / 1e6


def _compress(algorithm: str, payload: bytes, base: Base | None, streams: int) -> bytes:
    if algorithm == "hde":
        return engines.hde_compress(payload, base).data
    if algorithm == "amst":
        return engines.amst_compress(payload, streams).data
    return engines.zstd_compress(payload) if algorithm == "zstd" else payload


def _decompress(algorithm: str, data: bytes, base: bytes | None, streams: int) -> bytes:
    if algorithm == "hde":
        return engines.hde_decompress(data, None if base is None else Base(base, []))
    if algorithm == "amst":
        return engines.amst_decompress(data, streams).data
    return engines.zstd_decompress(data) if algorithm == "zstd" else data


def _cut(data: bytes, parts: int) -> list[memoryview]:
    view, step = memoryview(data), -(-len(data) // parts)
    return [view[n * step : (n + 1) * step] for n in range(parts)]


def receive_all(listener: socket.socket) -> None:
    """The receiving end: joins the parts, decompresses, answers. Ends when it is ended."""
    streams: list[socket.socket] = []
    seen: dict[int, bytes] = {}

    def part(stream: int) -> bytes:
        *_, size = _HEADER.unpack(_receive_exactly(streams[stream], _HEADER.size))
        return _receive_exactly(streams[stream], size)

    with ThreadPoolExecutor(max(STREAM_COUNTS)) as pool:
        while True:
            if not streams:
                streams.append(_accept(listener))
            try:
                code, count, number, base, size = _HEADER.unpack(_receive_exactly(streams[0], _HEADER.size))
            except ConnectionError:  # the sender begins anew with fresh connections
                for one in streams:
                    one.close()
                streams = []
                continue
            if code == _BULK:
                _swallow(streams[0], size)
                now_ns = time.monotonic_ns()
                streams[0].sendall(_REPLY.pack(now_ns, now_ns, 0))
                continue
            while len(streams) < count:
                streams.append(_accept(listener))
            others = [pool.submit(part, stream) for stream in range(1, count)]
            data = b"".join([_receive_exactly(streams[0], size), *(other.result() for other in others)])
            there_ns = time.monotonic_ns()
            payload = _decompress(ALGORITHMS[code], data, seen.get(base), count)
            ended_ns = time.monotonic_ns()
            seen[number] = payload
            streams[0].sendall(_REPLY.pack(there_ns, ended_ns, zlib.crc32(payload)))


def _accept(listener: socket.socket) -> socket.socket:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive_exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view = memoryview(data)
    while view:
        count = connection.recv_into(view)
        if not count:
            raise ConnectionError("the other end closed the connection")
        view = view[count:]
    return bytes(data)


def _swallow(connection: socket.socket, size: int) -> None:
    while size:
        count = len(connection.recv(min(size, 1 << 18)))
        if not count:
            raise ConnectionError("the other end closed the connection")
        size -= count


def _round_trip_ms(connection: socket.socket) -> float:
    """Median of some smallest exchanges: the link's delay and both processes' wake-ups."""
    times = []
    for _ in range(_PINGS):
        began_ns = time.monotonic_ns()
        connection.sendall(_HEADER.pack(_BULK, 1, 0, -1, 0))
        _receive_exactly(connection, _REPLY.size)
        times.append(time.monotonic_ns() - began_ns)
    return statistics.median(times) / 1e6


def _bulk(connection: socket.socket, link: Link) -> tuple[float, float]:
    """Goodput in Mbit/s of about a second of bytes on a connection past its slow start, and the share sent again."""
    size = int(min(_MOST_BULK_BYTES, link.rate_mbps * 125_000 * _BULK_S))
    block = os.urandom(1 << 20)
    goodput = 0.0
    before = _segments(connection)
    for _ in range(2):  # the first opens the congestion window
        began_ns = time.monotonic_ns()
        connection.sendall(_HEADER.pack(_BULK, 1, 0, -1, size))
        for at in range(0, size, len(block)):
            connection.sendall(block[: size - at])
        ended_ns, _, _ = _REPLY.unpack(_receive_exactly(connection, _REPLY.size))
        goodput = size * 8e3 / (ended_ns - began_ns)
    again, out = np.subtract(_segments(connection), before)
    return goodput, float(again / max(1, out))


def _segments(connection: socket.socket) -> tuple[int, int]:
    """Segments that this connection sent again, and sent in all (Linux' ``tcp_info``)."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)
    return struct.unpack_from("<I", info, 100)[0], struct.unpack_from("<I", info, 136)[0]
