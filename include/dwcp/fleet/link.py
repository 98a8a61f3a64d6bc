"""A link of a given rate and delay between two processes, emulated in user space.

Two ways, the better one that the machine allows:

- ``namespaces``: each process lives in a network namespace of its own, and this process carries the IP packets between
  their TUN devices, at the link's rate and no earlier than its delay. TCP is the kernel's, end to end, and feels rate,
  delay and a full queue as on a real path. Needs Linux, ``/dev/net/tun`` and the right to unshare, as root has; no
  ``ip`` or ``tc``. Segments cross in batches as on a card with offload, so 1 Gbit/s costs few calls; headers of every
  segment count against the rate.
- ``relay``: a TCP relay on loopback that reads, waits and passes on. It works everywhere, but TCP ends at the relay:
  slow start and losses stay on loopback, and of a path's behaviour only rate and delay are left.

Neither is a network card: at fractions of a millisecond the scheduler adds to the delay. Measure what the link gives.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import multiprocessing as mp
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

NAMESPACES, RELAY = "namespaces", "relay"
WAYS = (NAMESPACES, RELAY)

_CLONE_NEWNET = 0x4000_0000
_PR_SET_PDEATHSIG = 1
_TUNSETIFF, _TUNSETOFFLOAD = 0x4004_54CA, 0x4004_54D0
_IFF_TUN_WITH_HEADER = 0x0001 | 0x1000 | 0x4000
_OFFLOAD_CHECKSUM_TCP4 = 0x01 | 0x02
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_IFF_UP_RUNNING = 0x41
_HEADER = struct.Struct("<BBHHHH")
"""virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
_PACKET_BYTES, _STREAM_BYTES = 1 << 17, 1 << 14
_DEVICE = b"dwcp0"
_SEND_ADDRESS, _RECEIVE_ADDRESS, _PORT = "10.83.0.1", "10.83.0.2", 4_700
_LEAST_QUEUE_BYTES = 1 << 20
_NAP_S = 0.05

Work = Callable[..., Any]


class LinkError(RuntimeError):
    """The machine cannot emulate a link in the way asked for, or a process at its end died."""


@dataclass(frozen=True, slots=True)
class Link:
    """``rtt_ms`` is there and back; half of it each way. Both directions have the rate."""

    name: str
    rate_mbps: float
    rtt_ms: float


@dataclass
class _Wire:
    """One direction: what entered, in order, with the time at which it comes out and where."""

    bytes_per_s: float
    delay_s: float
    free_at: float = 0.0
    queued_bytes: int = 0
    flying: deque[tuple[float, int, bytes, Any]] = field(default_factory=deque)

    @classmethod
    def of(cls, link: Link) -> _Wire:
        return cls(link.rate_mbps * 125_000, link.rtt_ms / 2_000)

    @property
    def full(self) -> bool:
        """Whether more waits than a router would keep: twice what is under way at full rate, at least 1 MiB."""
        return self.queued_bytes >= max(_LEAST_QUEUE_BYTES, 4 * self.bytes_per_s * self.delay_s)

    def put(self, data: bytes, wire_bytes: int, to: Any, now: float) -> None:
        self.free_at = max(now, self.free_at) + wire_bytes / self.bytes_per_s
        self.queued_bytes += wire_bytes
        self.flying.append((self.free_at + self.delay_s, wire_bytes, data, to))

    def due(self, now: float) -> Iterator[tuple[bytes, Any]]:
        while self.flying and self.flying[0][0] <= now:
            _, wire_bytes, data, to = self.flying.popleft()
            self.queued_bytes -= wire_bytes
            yield data, to

    def wait_s(self, now: float) -> float:
        return max(0.0, self.flying[0][0] - now) if self.flying else _NAP_S


def best_way() -> str:
    """``NAMESPACES`` where this machine allows them, else ``RELAY``."""
    ours, theirs = mp.Pipe()
    prober = mp.get_context("spawn").Process(target=_probe_namespace, args=(theirs,), daemon=True)
    prober.start()
    theirs.close()
    try:
        return NAMESPACES if ours.recv() else RELAY
    except EOFError:
        return RELAY
    finally:
        prober.join()


def run_over(link: Link, way: str, send: Work, receive: Work, arguments: tuple[Any, ...]) -> Any:
    """Run ``send(connect, *arguments)`` and ``receive(listener)`` at the two ends, in processes of their own.

    ``connect()`` opens one more TCP connection to the other end, whose ``listener`` accepts it. Returns what ``send``
    returned, when it has; the receiver is then ended. Both functions are importable, and what they take and return is
    picklable. Raises ``LinkError`` if an end died or ``way`` cannot be had.
    """
    context = mp.get_context("spawn")
    send_pipe, receive_pipe = context.Pipe(), context.Pipe()
    receiver = context.Process(target=_receive_end, args=(receive_pipe[1], way, receive), daemon=True)
    sender = context.Process(target=_send_end, args=(send_pipe[1], way, send, arguments), daemon=True)
    try:
        receiver.start()
        receive_pipe[1].close()
        sender.start()
        send_pipe[1].close()
        if way == NAMESPACES:
            ends = [_device_of(pipe[0]) for pipe in (send_pipe, receive_pipe)]
            _hear(receive_pipe[0])  # it listens
            send_pipe[0].send(_PORT)
            try:
                _carry_packets(ends, link, until=send_pipe[0])
            finally:
                for device in ends:
                    os.close(device)
        else:
            port = _hear(receive_pipe[0])
            with socket.create_server(("127.0.0.1", 0)) as listener:
                send_pipe[0].send(listener.getsockname()[1])
                _carry_streams(listener, port, link, until=send_pipe[0])
        return _hear(send_pipe[0])
    finally:
        for process in (sender, receiver):
            if process.pid is not None:
                process.kill()
                process.join()


# -- the ends ----------------------------------------------------------------------------------------------------------


def _send_end(pipe: Connection, way: str, send: Work, arguments: tuple[Any, ...]) -> None:
    _die_with_parent()
    try:
        if way == NAMESPACES:
            _enter_namespace(pipe, _SEND_ADDRESS)
        port = pipe.recv()
        address = (_RECEIVE_ADDRESS if way == NAMESPACES else "127.0.0.1", port)
        pipe.send(("result", send(lambda: socket.create_connection(address, timeout=60), *arguments)))
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def _receive_end(pipe: Connection, way: str, receive: Work) -> None:
    _die_with_parent()
    try:
        if way == NAMESPACES:
            _enter_namespace(pipe, _RECEIVE_ADDRESS)
        address = (_RECEIVE_ADDRESS, _PORT) if way == NAMESPACES else ("127.0.0.1", 0)
        with socket.create_server(address, backlog=16) as listener:
            pipe.send(("result", listener.getsockname()[1]))
            receive(listener)
    except Exception as error:
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def _hear(pipe: Connection) -> Any:
    try:
        kind, value = pipe.recv()
    except EOFError:
        raise LinkError("a process at the link's end died without a word: memory, or somebody ended it") from None
    if kind == "error":
        raise LinkError(f"at the link's end: {value}")
    return value


def _device_of(pipe: Connection) -> int:
    _hear(pipe)
    with socket.socket(fileno=os.dup(pipe.fileno())) as channel:
        _, devices, _, _ = socket.recv_fds(channel, 1, 1)
    os.set_blocking(devices[0], False)
    return devices[0]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _probe_namespace(pipe: Connection) -> None:
    try:
        _new_namespace()
        os.close(_open_device(_SEND_ADDRESS))
        pipe.send(True)
    except OSError:
        pipe.send(False)


def _new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "this process may not unshare its network: run as root, or use the relay")


def _enter_namespace(pipe: Connection, address: str) -> None:
    """Leave the machine's network; hand the other side of the only device to the process that carries its packets."""
    _new_namespace()
    device = _open_device(address)
    pipe.send(("result", None))
    with socket.socket(fileno=os.dup(pipe.fileno())) as channel:
        socket.send_fds(channel, [b"\0"], [device])
    os.close(device)


def _open_device(address: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", _DEVICE, _IFF_TUN_WITH_HEADER))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOAD_CHECKSUM_TCP4)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, "255.255.255.0")):
            place = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s8x", _DEVICE, place))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", _DEVICE, _IFF_UP_RUNNING))
    return device


# -- what lies between them --------------------------------------------------------------------------------------------


def _carry_packets(ends: list[int], link: Link, until: Connection) -> None:
    """Pass packets between two TUN devices until ``until`` has something to say. A full queue drops, as routers do."""
    there, back = _Wire.of(link), _Wire.of(link)
    path = {ends[0]: (there, ends[1]), ends[1]: (back, ends[0])}
    while True:
        now = time.monotonic()
        readable = _readable([*ends, until], min(there.wait_s(now), back.wait_s(now)))
        if until in readable:
            return
        now = time.monotonic()
        for device in readable:
            wire, other = path[device]
            with suppress(BlockingIOError):
                packet = os.read(device, _PACKET_BYTES)
                if not wire.full:
                    wire.put(packet, _wire_bytes(packet), other, now)
        for wire in (there, back):
            for packet, device in wire.due(now):
                try:
                    os.write(device, packet)
                except OSError as error:  # the kernel refuses a packet, or its queue is full: lost, as on any path
                    if error.errno not in (errno.EAGAIN, errno.EINVAL, errno.EIO, errno.ENOBUFS):
                        raise


def _readable(ends: list[Any], wait_s: float) -> list[Any]:
    return select.select(ends, [], [], wait_s)[0]


def _wire_bytes(packet: bytes) -> int:
    """Bytes on the wire of what crosses as one batch: every segment but the first has headers of its own."""
    kind: int
    header_bytes: int
    segment_bytes: int
    _, kind, header_bytes, segment_bytes, _, _ = _HEADER.unpack_from(packet)
    size = len(packet) - _HEADER.size
    if not kind or not segment_bytes:
        return size
    segments = -(-(size - header_bytes) // segment_bytes)
    return size + (segments - 1) * header_bytes


def _carry_streams(listener: socket.socket, port: int, link: Link, until: Connection) -> None:
    """Relay TCP connections to ``port`` until ``until`` has something to say; they share the link's rate.

    A sender is read from only while the wire has room, so it feels the rate.
    """
    there, back = _Wire.of(link), _Wire.of(link)
    path: dict[socket.socket, tuple[_Wire, socket.socket]] = {}
    try:
        while True:
            now = time.monotonic()
            heard = [end for end, (wire, _) in path.items() if not wire.full]
            readable = _readable([listener, until, *heard], min(there.wait_s(now), back.wait_s(now)))
            if until in readable:
                return
            now = time.monotonic()
            for end in readable:
                if end is listener:
                    near, _ = listener.accept()
                    far = socket.create_connection(("127.0.0.1", port))
                    for one in (near, far):
                        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    path[near], path[far] = (there, far), (back, near)
                    continue
                wire, other = path[end]
                data = _receive_some(end)
                wire.put(data, len(data), other, now)
                if not data:  # the end of the stream travels behind its bytes
                    del path[end]
            for wire in (there, back):
                for data, end in wire.due(now):
                    _pass_on(end, data)
    finally:
        for end in path:
            end.close()


def _receive_some(end: socket.socket) -> bytes:
    try:
        return end.recv(_STREAM_BYTES)
    except ConnectionError:
        return b""


def _pass_on(end: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # whoever listened there has gone
        if data:
            end.sendall(data)
        else:
            end.shutdown(socket.SHUT_WR)
