"""The emulated link is never faster than its rate nor earlier than its delay, and carries real TCP."""

from __future__ import annotations

import os
import socket
import struct
import time

import pytest

from dwcp.fleet.link import NAMESPACES, RELAY, Link, LinkError, _Wire, _wire_bytes, best_way, run_over

SIZE = 400_000
LINK = Link("test", 20, 30)


@pytest.fixture(scope="module")
def machine_way() -> str:
    return best_way()


@pytest.fixture(params=[NAMESPACES, RELAY])
def way(request, machine_way):
    if request.param == NAMESPACES and machine_way != NAMESPACES:
        pytest.skip("this process may not unshare its network or has no /dev/net/tun")
    return request.param


def send(connect, size):
    """Seconds of an empty exchange and of ``size`` bytes, and the interfaces that this process sees."""
    with connect() as connection:
        times = []
        for count in (0, size):
            began = time.monotonic()
            connection.sendall(struct.pack("<Q", count) + bytes(count))
            assert connection.recv(1) == b"!"
            times.append(time.monotonic() - began)
    return times, [name for _, name in socket.if_nameindex()]


def receive(listener):
    connection, _ = listener.accept()
    while header := connection.recv(8):
        (left,) = struct.unpack("<Q", header)
        while left:
            left -= len(connection.recv(left))
        connection.sendall(b"!")


def fail(connect, how):
    if how == "dies":
        os._exit(3)
    raise ValueError("no such payload")


def test_rate_and_delay_hold(way):
    (empty_s, full_s), interfaces = run_over(LINK, way, send, receive, (SIZE,))
    assert empty_s >= LINK.rtt_ms / 1e3
    assert full_s >= LINK.rtt_ms / 1e3 + SIZE * 8 / (LINK.rate_mbps * 1e6)
    assert ("dwcp0" in interfaces) == (way == NAMESPACES)
    assert "dwcp0" not in [name for _, name in socket.if_nameindex()], "nothing is left on this machine"


def test_connections_share_the_rate(way):
    elapsed = run_over(LINK, way, send_two, receive_two, (SIZE,))
    assert elapsed >= 2 * SIZE * 8 / (LINK.rate_mbps * 1e6)


def send_two(connect, size):
    with connect() as one, connect() as two:
        began = time.monotonic()
        one.sendall(bytes(size))
        two.sendall(bytes(size))
        for connection in (one, two):
            connection.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b"!"
        return time.monotonic() - began


def receive_two(listener):
    connections = [listener.accept()[0] for _ in range(2)]
    for connection in connections:
        while connection.recv(1 << 16):
            pass
    connections[0].sendall(b"!")
    connections[0].recv(1)


@pytest.mark.parametrize(("how", "says"), [("dies", "died without a word"), ("raises", "ValueError: no such payload")])
def test_an_end_that_fails_is_told(how, says):
    with pytest.raises(LinkError, match=says):
        run_over(LINK, RELAY, fail, receive, (how,))


def test_bytes_wait_for_those_before_them():
    wire = _Wire.of(Link("test", 8, 10))  # 1 MB/s, 5 ms each way
    wire.put(b"a", 1_000, "there", now=0.0)
    wire.put(b"b", 2_000, "there", now=0.0)
    assert list(wire.due(0.0059)) == []
    assert list(wire.due(0.006)) == [(b"a", "there")]
    assert wire.wait_s(0.006) == pytest.approx(0.002)
    assert list(wire.due(0.0081)) == [(b"b", "there")]
    assert wire.queued_bytes == 0


def test_a_queue_is_full_at_last():
    wire = _Wire.of(Link("test", 8, 10))
    while not wire.full:
        wire.put(b"", 100_000, None, now=0.0)
    assert wire.queued_bytes > 1 << 20


def test_a_batch_counts_the_headers_of_all_its_segments():
    """Three segments of 1,448 bytes with 52 bytes of headers each, handed over as one."""
    header = struct.pack("<BBHHHH", 1, 1, 52, 1_448, 20, 16)
    assert _wire_bytes(header + bytes(52 + 3 * 1_448)) == 3 * 1_500
    assert _wire_bytes(struct.pack("<BBHHHH", 0, 0, 0, 0, 0, 0) + bytes(60)) == 60
