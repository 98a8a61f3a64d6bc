"""The oracle's cost formula against real transfers, and AMST's makespan against real threads.

Every payload goes by every algorithm from one process to another over an emulated link (``dwcp.fleet.link``): compress,
send over TCP, decompress, one after the other as the formula adds them; AMST on as many threads and TCP connections as
its plan has streams. The time from the first to the last is measured; each result is compared with the payload. The
prediction is seed §3.1 with sizes and CPU times measured beforehand as the library's are, and the bandwidth and loss
that a bulk transfer finds on the link. Round trips, slow start, wake-ups and what two processes cost one another are in
the measurement and not in the formula; what that does to the choice is what this module tells.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import statistics
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import ALGORITHMS
from dwcp.fleet import engines
from dwcp.fleet.engines import STREAM_COUNTS, Base
from dwcp.fleet.link import NAMESPACES, WAYS, Link, best_way, run_over
from dwcp.fleet.mix import Mix
from dwcp.fleet.payloads import PayloadObject, made_objects
from dwcp.fleet.timing import time_amst, time_hde, time_zstd
from dwcp.oracle import best_choice, cost_ms

log = logging.getLogger(__name__)

LINKS = (Link("dc", 1_000, 0.2), Link("metro", 200, 5), Link("wan", 50, 40))
VERSIONS = 2
SMALL_BYTES = 64 * 1024
_BULK_S, _MOST_BULK_BYTES = 1.0, 64 << 20
_PINGS = 30
_HEADER = struct.Struct("<BBiiQ")
"""Algorithm, streams, payload's number, base's number or -1, bytes of this stream's part."""
_BULK = 255
_REPLY = struct.Struct("<QQI")
"""When decompression began and ended (CLOCK_MONOTONIC, one for all processes of a machine), the payload's CRC-32."""
STAGES = ("compression", "transfer", "decompression")

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sent:
    """One payload to send, and what was measured of it beforehand; times in ms, by algorithm."""

    object_id: str
    payload: bytes
    base: int
    streams: int
    compressed_bytes: dict[str, int]
    compression_ms: dict[str, float]
    decompression_ms: dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one link gave.

    ``stage_ms`` has shape (payloads, algorithms, repeats, stages), in the orders of ``ALGORITHMS`` and ``STAGES``; the
    transfer ends when its last byte was read.
    """

    link: Link
    bandwidth_mbps: float
    rtt_ms: float
    loss: float
    congestion: str
    stage_ms: Floats

    @property
    def total_ms(self) -> Floats:
        """From before compression to after decompression, shape (payloads, algorithms, repeats)."""
        return np.asarray(self.stage_ms.sum(axis=3))

    @property
    def best_stage_ms(self) -> Floats:
        """The stages of each transfer's fastest repeat, shape (payloads, algorithms, stages)."""
        fastest = self.total_ms.argmin(axis=2)[:, :, None, None]
        return np.asarray(np.take_along_axis(self.stage_ms, fastest, axis=2)[:, :, 0])


@dataclass(frozen=True, slots=True)
class Plan:
    """AMST on real threads: measured over predicted makespan of each payload, compression and decompression."""

    streams: int
    compression: Floats
    decompression: Floats


@dataclass(frozen=True, slots=True)
class Reality:
    """Everything that was found. ``way`` says how links were emulated."""

    way: str
    cores: int
    fresh: bool
    sent: tuple[Sent, ...]
    links: tuple[Measured, ...]
    plans: tuple[Plan, ...]


# -- payloads and what is known of them --------------------------------------------------------------------------------


def small_objects(mix: Mix, payloads: int, most_bytes: int) -> list[PayloadObject]:
    """Objects of the mix with ``VERSIONS`` versions each, ``payloads`` in all, about ``most_bytes`` at most."""
    types = {
        name: {**entry, "max_bytes": min(entry["max_bytes"], most_bytes), "tail_share": 0.0}
        for name, entry in mix.types.items()
    }
    too_large = [name for name, entry in types.items() if entry["min_bytes"] > most_bytes]
    if too_large:
        raise ValueError(f"no object of {', '.join(too_large)} is as small as {most_bytes} bytes: allow larger ones")
    smaller = dataclasses.replace(mix, types=types)
    return made_objects(smaller, -(-payloads // VERSIONS), VERSIONS, mix.library["seed"])


def prepare(objects: Sequence[PayloadObject], runs: int) -> list[Sent]:
    """Make every payload and time the engines on it, as ``dwcp fleet measure`` does: CPU, the least of ``runs``."""
    sent: list[Sent] = []
    for number, item in enumerate(objects):
        base: Base | None = None
        for version, payload in enumerate(item.versions()):
            sent.append(_timed(item.object_id, payload, base, len(sent) - 1 if version else -1, runs))
            base = Base.of(payload)
        if (number + 1) % 10 == 0 or number + 1 == len(objects):
            log.info("timed %d of %d objects", number + 1, len(objects))
    return sent


def _timed(object_id: str, payload: bytes, base: Base | None, base_number: int, runs: int) -> Sent:
    found = [engine(payload, base, runs) for engine in (time_hde, time_amst, time_zstd)]
    facts = {key: value for one in found for key, value in one.facts.items()}
    least = {key: min(times) for one in found for key, times in one.runs.items()}
    streams = planned_streams(len(payload))
    return Sent(
        object_id,
        payload,
        base_number,
        streams,
        {"none": len(payload)} | {name: int(facts[f"{name}_bytes"]) for name in ("hde", "amst", "zstd")},
        {"none": 0.0, "amst": least[f"amst_{streams}_ms"]} | {name: least[f"{name}_ms"] for name in ("hde", "zstd")},
        {"none": 0.0, "amst": least[f"amst_{streams}_back_ms"]}
        | {name: least[f"{name}_back_ms"] for name in ("hde", "zstd")},
    )


def planned_streams(size_bytes: int) -> int:
    """AMST's plan: the largest of ``STREAM_COUNTS`` that this process's cores and the payload's chunks allow."""
    most = min(usable_cores(), max(1, -(-size_bytes // engines.CHUNK_BYTES)))
    return max(count for count in STREAM_COUNTS if count <= most)


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0))


def predicted_ms(sent: Sequence[Sent], measured: Measured) -> Floats:
    """The oracle's costs (§3.1) on this link, shape (payloads, algorithms)."""
    rows = len(sent)
    return cost_ms(
        "seed_3_1",
        compressed_bytes=_table(sent, lambda one, name: one.compressed_bytes[name]),
        compression_ms=_table(sent, lambda one, name: one.compression_ms[name]),
        decompression_ms=_table(sent, lambda one, name: one.decompression_ms[name]),
        # A bulk transfer's goodput already lacks what was sent twice.
        bandwidth_mbps=np.full(rows, measured.bandwidth_mbps / (1 - measured.loss)),
        packet_loss_rate=np.full(rows, measured.loss),
        cpu_usage=np.zeros(rows),
        rtt_ms=np.full(rows, measured.rtt_ms),
        streams=_table(sent, lambda one, name: one.streams if name == "amst" else 1),
    )


def _excess_ms(sent: Sequence[Sent], measured: Measured) -> Floats:
    """How much longer each stage took than predicted, shape (payloads, algorithms, stages)."""
    compression = _table(sent, lambda one, name: one.compression_ms[name])
    decompression = _table(sent, lambda one, name: one.decompression_ms[name])
    transfer = predicted_ms(sent, measured) - compression - decompression
    return measured.best_stage_ms - np.stack([compression, transfer, decompression], axis=2)


def _table(sent: Sequence[Sent], pick: Callable[[Sent, str], float]) -> Floats:
    return np.array([[pick(one, name) for name in ALGORITHMS] for one in sent], dtype=np.float64)


# -- the two ends ------------------------------------------------------------------------------------------------------


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


# -- AMST's thread plan ------------------------------------------------------------------------------------------------


def thread_plans(sent: Sequence[Sent], runs: int) -> Iterator[Plan]:
    """Wall time of AMST on 1, 2, ... real threads over the makespan that chunk times of one thread predict.

    Payloads of at least as many chunks as threads; at most as many threads as this process has cores. The least of
    ``runs`` on both sides.
    """
    for streams in (count for count in STREAM_COUNTS if count <= usable_cores()):
        ratios = []
        for one in sent:
            if len(one.payload) <= (streams - 1) * engines.CHUNK_BYTES or len(one.payload) < engines.CHUNK_BYTES:
                continue
            packed = engines.amst_compress(one.payload)
            back = engines.amst_decompress(packed.data)
            ratios.append(
                [
                    _wall_over_plan(lambda n, p=one.payload: engines.amst_compress(p, n), streams, runs),  # type: ignore[misc]
                    _wall_over_plan(lambda n, d=packed.data: engines.amst_decompress(d, n), streams, runs),  # type: ignore[misc]
                ]
            )
            assert back.data == one.payload  # noqa: S101
        if ratios:
            compression, decompression = np.array(ratios).T
            yield Plan(streams, compression, decompression)


def _wall_over_plan(work: Callable[[int], engines.AmstResult], streams: int, runs: int) -> float:
    chunks = np.array([work(1).chunk_ns for _ in range(runs)], dtype=np.float64)
    walls = []
    for _ in range(runs):
        began_ns = time.perf_counter_ns()
        work(streams)
        walls.append(time.perf_counter_ns() - began_ns)
    return min(walls) / float(engines.makespan(chunks, streams).min())


# -- the whole, and what it says ---------------------------------------------------------------------------------------


def check_reality(
    objects: Sequence[PayloadObject],
    *,
    links: Sequence[Link] | None = None,
    repeats: int = 2,
    runs: int = 5,
    way: str | None = None,
    fresh: bool = False,
    congestion: str = "cubic",
) -> Reality:
    """Transfer every version of ``objects`` over every link. ``fresh`` opens new connections for each transfer.

    ``links`` defaults to ``LINKS``, ``way`` to the better that this machine allows. Raises ``LinkError`` if it cannot
    be had or an end died.
    """
    if way is not None and way not in WAYS:
        raise ValueError(f"no way {way!r} to emulate a link: choose one of {', '.join(WAYS)}")
    sent = prepare(objects, runs)
    log.info("AMST on real threads, %d cores", usable_cores())
    plans = tuple(thread_plans(sent, runs))
    way = way or best_way()
    found = []
    for link in LINKS if links is None else links:
        log.info("%s: %g Mbit/s, %g ms, by %s", link.name, link.rate_mbps, link.rtt_ms, way)
        found.append(run_over(link, way, send_all, receive_all, (link, sent, repeats, fresh, congestion)))
    return Reality(way, usable_cores(), fresh, tuple(sent), tuple(found), plans)


def render(reality: Reality) -> str:
    """The tables, in Markdown."""
    sizes = np.array([len(one.payload) for one in reality.sent])
    how = (
        "network namespaces, a TUN device in each, packets carried in user space; the kernel's TCP end to end"
        if reality.way == NAMESPACES
        else "a TCP relay on loopback (no namespaces here): TCP ends at the relay, so slow start is not on the path"
    )
    kept = "new connections for every transfer" if reality.fresh else "connections kept open"
    lines = [
        f"{len(sizes)} payloads of {len({one.object_id for one in reality.sent})} objects, {sizes.sum() / 1e6:.0f} MB, "
        f"median {np.median(sizes) / 1e3:.0f} kB, largest {sizes.max() / 1e6:.1f} MB; {reality.cores} cores.",
        f"Links: {how}; {kept}; {reality.links[0].congestion}.",
        "",
        "| link | set | goodput | round trip | sent again |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.link.name} | {one.link.rate_mbps:g} Mbit/s, {one.link.rtt_ms:g} ms | {one.bandwidth_mbps:.0f} Mbit/s "
        f"| {one.rtt_ms:.2f} ms | {one.loss:.2%} |"
        for one in reality.links
    ]
    lines += [
        "",
        f"| link | algorithm | measured ÷ predicted p10 | p50 | p90 | p50 under {SMALL_BYTES >> 10} KiB | p50 above | "
        "p50 with half a round trip added | excess, p50: compression | transfer | decompression |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in reality.links:
        measured, predicted = one.total_ms.min(axis=2), predicted_ms(reality.sent, one)
        excess_ms = np.median(_excess_ms(reality.sent, one), axis=0)
        for place, algorithm in enumerate(ALGORITHMS):
            ratio = measured[:, place] / predicted[:, place]
            with_delay = measured[:, place] / (predicted[:, place] + one.rtt_ms / 2)
            cells = [
                *(one.link.name, algorithm, *(f"{value:.2f}" for value in np.quantile(ratio, (0.1, 0.5, 0.9)))),
                *(_median(ratio[sizes < SMALL_BYTES]), _median(ratio[sizes >= SMALL_BYTES]), _median(with_delay)),
                *(f"{value:+.2f} ms" for value in excess_ms[place]),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "| link | predicted optimum is the measured one | outside 1 % ties | two measurements agree | "
        "mean regret of the prediction | p95 | of always zstd | under / above "
        f"{SMALL_BYTES >> 10} KiB agree |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_agreement(reality.sent, one, sizes) for one in reality.links]
    lines += [
        "",
        "| AMST threads | payloads | compression, wall ÷ plan p10 | p50 | p90 | decompression p10 | p50 | p90 |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for plan in reality.plans:
        quantiles = [*np.quantile(plan.compression, (0.1, 0.5, 0.9)), *np.quantile(plan.decompression, (0.1, 0.5, 0.9))]
        cells = [str(plan.streams), str(len(plan.compression)), *(f"{value:.2f}" for value in quantiles)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _agreement(sent: Sequence[Sent], one: Measured, sizes: NDArray[np.int64]) -> str:
    measured, predicted = one.total_ms.min(axis=2), predicted_ms(sent, one)
    rows = np.arange(len(sent))
    choice, _ = best_choice(predicted)
    best, margin_ms = best_choice(measured)
    least = measured[rows, best]
    regret = measured[rows, choice] / least - 1
    right, clear = choice == best, margin_ms > 0.01 * least
    repeats = one.total_ms.shape[2]
    again = "–"
    if repeats > 1:
        first, second = best_choice(one.total_ms[:, :, 0])[0], best_choice(one.total_ms[:, :, 1])[0]
        again = f"{(first == second).mean():.1%}"
    zstd = measured[:, ALGORITHMS.index("zstd")].sum() / measured[rows, choice].sum() - 1
    small = sizes < SMALL_BYTES
    cells = [
        *(one.link.name, f"{right.mean():.1%}", f"{right[clear].mean():.1%}" if clear.any() else "–", again),
        *(f"{regret.mean():.2%}", f"{np.quantile(regret, 0.95):.2%}", f"{zstd:+.1%}"),
        " / ".join(f"{right[part].mean():.1%}" if part.any() else "–" for part in (small, ~small)),
    ]
    return f"| {' | '.join(cells)} |"


def _median(values: Floats) -> str:
    return f"{np.median(values):.2f}" if len(values) else "–"
