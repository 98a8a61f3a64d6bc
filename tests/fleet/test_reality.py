"""Real transfers between two processes, held against the oracle's cost."""

from __future__ import annotations

import dataclasses
import os
import random
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from typer.testing import CliRunner

from dwcp.contract import ALGORITHMS
from dwcp.fleet import reality
from dwcp.fleet.cli import app
from dwcp.fleet.engines import CHUNK_BYTES, EngineError
from dwcp.fleet.link import RELAY, Link
from dwcp.fleet.mix import load_mix
from dwcp.fleet.payloads import PayloadObject
from dwcp.fleet.reality import check, check_reality, ends, prepare, render, small_objects
from dwcp.fleet.reality.found import Measured, Plan, predicted_ms
from dwcp.fleet.reality.threads import thread_plans

FAST = Link("fast", 400, 2)


def objects(sizes=(30_000, 3 * CHUNK_BYTES)):
    """Text-like bytes, and a second version with a few changed."""

    def versions(size):
        rng = random.Random(size)
        payload = bytearray(rng.choices(b"compression selector ", k=size))
        yield bytes(payload)
        for _ in range(20):
            payload[rng.randrange(size)] = 0
        yield bytes(payload)

    return [
        PayloadObject(f"text-{n}", "logs", "text", lambda size=size: versions(size)) for n, size in enumerate(sizes)
    ]


@pytest.fixture(scope="module")
def found():
    """Two objects over a fast link; AMST planned for two cores whatever the machine has."""
    patch = pytest.MonkeyPatch()
    patch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    yield check_reality(objects(), links=(FAST,), repeats=2, runs=1, way=RELAY)
    patch.undo()


def test_every_payload_goes_by_every_algorithm(found):
    """And comes out as it went in: the ends compare checksums and refuse anything else."""
    (one,) = found.links
    assert one.total_ms.shape == (4, len(ALGORITHMS), 2)
    assert (one.stage_ms >= 0).all()
    assert [sent.base for sent in found.sent] == [-1, 0, -1, 2]
    assert [sent.streams for sent in found.sent] == [1, 1, 2, 2]
    assert found.sent[3].compressed_bytes["hde"] < found.sent[2].compressed_bytes["hde"], "a delta goes over the link"
    # Half a round trip and the bytes themselves at least; no machine is faster.
    for place, algorithm in enumerate(ALGORITHMS):
        bytes_ms = np.array([sent.compressed_bytes[algorithm] for sent in found.sent]) / (FAST.rate_mbps * 125)
        assert (one.total_ms[:, place].min(axis=1) >= FAST.rtt_ms / 2 + bytes_ms).all()


def test_what_the_link_gives_is_measured(found):
    (one,) = found.links
    assert 0 < one.bandwidth_mbps <= FAST.rate_mbps
    assert one.rtt_ms >= FAST.rtt_ms
    assert one.loss >= 0


def test_fresh_connections_carry_everything_too():
    one = check_reality(objects((2 * CHUNK_BYTES,)), links=(FAST,), repeats=1, runs=1, way=RELAY, fresh=True).links[0]
    # A connection is opened first: one more round trip.
    assert one.total_ms.shape == (2, len(ALGORITHMS), 1)
    assert (one.total_ms > 0).all()


def test_a_damaged_transfer_is_refused():
    (first, _) = prepare(objects((1_000,)), runs=1)
    near, far = socket.socketpair()

    class One:
        def first(self, count):
            return [near]

    def answer():
        far.recv(1 << 16)
        far.sendall(ends._REPLY.pack(0, 0, 12345))

    with near, far, ThreadPoolExecutor(1) as pool:
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(EngineError, match="zstd brought text-0 over the link damaged"):
            ends._transfer(One(), pool, "zstd", 0, first, None)
        thread.join()


def test_the_prediction_is_the_seeds_formula():
    (first, second) = prepare(objects((200_000,)), runs=1)
    link = Measured(FAST, 80.0, 2.0, 0.1, "cubic", np.zeros((2, 4, 1, 3)))
    hde = second.compressed_bytes["hde"] / 10_000 + second.compression_ms["hde"] + second.decompression_ms["hde"]
    costs = predicted_ms([first, second], link)
    assert costs[1, ALGORITHMS.index("hde")] == pytest.approx(hde)
    assert costs[1, ALGORITHMS.index("none")] == pytest.approx(20.0)


def test_threads_are_held_against_the_plan(monkeypatch):
    sent = prepare(objects((4 * CHUNK_BYTES, 1_000)), runs=1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    plans = list(thread_plans(sent, runs=2))
    assert [(plan.streams, len(plan.compression)) for plan in plans] == [(1, 2), (2, 2)]
    assert all((plan.compression > 0).all() and (plan.decompression > 0).all() for plan in plans)


def test_the_tables_say_what_was_found(found):
    """Measured twice what was predicted, but for the least predicted, which took ten times: another one is best."""
    (one,) = found.links
    predicted = predicted_ms(found.sent, one)
    measured = 2 * predicted
    measured[0, np.argmin(predicted[0, :3])] *= 5
    # All of it in the transfer, once, and a slower repeat that does not count.
    stages = np.zeros((*measured.shape, 2, 3))
    stages[:, :, 0, 1], stages[:, :, 1, 1] = measured, 2 * measured
    told = dataclasses.replace(
        found,
        links=(dataclasses.replace(one, stage_ms=stages),),
        plans=(Plan(2, np.array([1.5]), np.array([2.5])),),
    )
    text = render(told)
    rows = [line for line in text.splitlines() if line.startswith("| fast")]
    assert len(rows) == len(ALGORITHMS) + 2
    assert all("| 2.00 |" in row for row in rows[1:-1])
    assert "| fast | 75.0% | 75.0% | 100.0% |" in rows[-1]
    compressing = sorted(sent.compression_ms["zstd"] for sent in found.sent)
    assert f"| {-sum(compressing[1:3]) / 2:+.2f} ms |" in rows[1 + ALGORITHMS.index("zstd")]
    assert "| 2 | 1 | 1.50 | 1.50 | 1.50 | 2.50 | 2.50 | 2.50 |" in text
    assert "relay on loopback" in text


def test_objects_are_small_and_of_every_type():
    mix = load_mix()
    made = small_objects(mix, 120, 200_000)
    assert len(made) == 60
    assert {item.data_type for item in made} == set(mix.types)
    with pytest.raises(ValueError, match="allow larger ones"):
        small_objects(mix, 40, 1)


def test_the_command_prints_the_tables(monkeypatch):
    monkeypatch.setattr(reality, "small_objects", lambda mix, payloads, most_bytes: objects((5_000,)))
    monkeypatch.setattr(check, "LINKS", (FAST,))
    done = CliRunner().invoke(app, ["reality", "--way", "relay", "--repeats", "1", "--runs", "1"])
    assert done.exit_code == 0, done.output
    assert "2 payloads of 1 objects" in done.output
    assert done.output.count("| fast |") == len(ALGORITHMS) + 2


def test_an_unknown_way_is_refused():
    done = CliRunner().invoke(app, ["reality", "--way", "pigeon"])
    assert done.exit_code == 2
    assert "pigeon" in done.output
