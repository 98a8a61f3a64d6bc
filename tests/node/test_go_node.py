"""Two real nodes on loopback on what the pipeline publishes; what they log is held against the contract."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dwcp.contract import CANDIDATES, FULLY_MEASURED, MEASUREMENT
from dwcp.export.forms import GO
from dwcp.quality.check import check_batch
from dwcp.release.channel import Channel
from dwcp.release.registry import RegionState
from dwcp.release.signing import load_signer, sign_document
from dwcp.settings import Settings
from dwcp.sources.influx import InfluxSource
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window
from fixtures_influx import InfluxBucket
from releases import bundle_of

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

NODE_MODULE = Path(__file__).parents[2] / "go" / "node"
DEADLINE_S = 60.0


@pytest.fixture(scope="session")
def dwcpnode(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, built. Skips where it cannot be."""
    for tool in ("go", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: the node cannot be built")
    built = tmp_path_factory.mktemp("go") / "dwcpnode"
    command = ["go", "build", "-o", str(built), "./cmd/dwcpnode"]
    done = subprocess.run(command, cwd=NODE_MODULE, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return built


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A pipeline of its own, with a key."""
    home = Settings(home=tmp_path / "home")
    load_signer(home)
    return home


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """Objects of four types: text and noise, of three versions that differ a little."""
    rng, root = random.Random(5), tmp_path / "objects"
    for number, kind in enumerate(("logs", "database", "media", "vm_memory")):
        size = (3_000, 150_000, 80_000, 700_000)[number]
        text = b" ".join(b"%d" % rng.randrange(300) for _ in range(size))[:size]
        payload = bytearray(rng.randbytes(size) if kind == "media" else text)
        folder = root / kind / f"object{number}"
        folder.mkdir(parents=True)
        for version in range(3):
            (folder / f"{version}.bin").write_bytes(payload)
            at = rng.randrange(size)
            payload[at : at + 200] = rng.randbytes(200)
    return root


class Program:
    """A running node and the lines that it says."""

    def __init__(self, *command: object) -> None:
        self.process = subprocess.Popen(
            [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))  # ends with the program

    @property
    def said(self) -> str:
        return "".join(self.lines)

    def wait_for(self, pattern: str, times: int = 1) -> str:
        """The first group of ``pattern`` where it is said for the last of so many times."""
        until = time.monotonic() + DEADLINE_S
        while time.monotonic() < until:
            found = list(re.finditer(pattern, self.said))
            if len(found) >= times:
                return found[-1][found[-1].re.groups and 1]
            assert self.process.poll() is None or self._reader.is_alive(), f"it ended before {pattern!r}:\n{self.said}"
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} was not said {times} times:\n{self.said}")

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.join()

    def join(self) -> int:
        code = self.process.wait(DEADLINE_S)
        self._reader.join()
        return code


class Node:
    """The receiver and what is needed to send to it."""

    def __init__(self, program: Path, settings: Settings, objects: Path, home: Path) -> None:
        self.program, self.settings, self.objects, self.home = program, settings, objects, home
        self.receiver = self.serve()
        self.started = [self.receiver]

    def serve(self, port: int = 0) -> Program:
        receiver = Program(
            self.program, "serve", "-listen", f"127.0.0.1:{port}", "-store", self.home / "held", "-node-id", "receiver"
        )
        self.port = int(receiver.wait_for(r"listens on 127\.0\.0\.1:(\d+)"))
        return receiver

    def send(self, *flags: object, channel: object = None) -> Program:
        sender = Program(
            *(self.program, "send", "-to", f"127.0.0.1:{self.port}", "-objects", self.objects),
            *("-channel", channel or self.settings.home, "-key", self.settings.home / "keys" / "signing.pub.pem"),
            *("-state", self.home / "state", "-node-id", "sender", "-summary", self.home / "summary.json", *flags),
        )
        self.started.append(sender)
        return sender

    @property
    def summary(self) -> dict[str, Any]:
        read: dict[str, Any] = json.loads((self.home / "summary.json").read_text())
        return read


@pytest.fixture
def node(dwcpnode: Path, settings: Settings, objects: Path, tmp_path: Path) -> Iterator[Node]:
    running = Node(dwcpnode, settings, objects, tmp_path)
    yield running
    for program in running.started:
        program.end(signal.SIGKILL)


def tell(settings: Settings, serial: int, champion: str | None) -> None:
    """Publish ``champion`` for us-east."""
    bundles = {champion: bundle_of(settings, champion).digest} if champion else {}
    channel = Channel(serial, datetime.now(UTC), {"us-east": RegionState(champion)}, bundles)
    tell_document(settings, sign_document(load_signer(settings), channel.to_document()))


def tell_document(settings: Settings, data: bytes) -> None:
    settings.channel_path.parent.mkdir(parents=True, exist_ok=True)
    fresh = settings.channel_path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(settings.channel_path)


_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^,\s]+)')


def rows_of(path: Path) -> pa.RecordBatch:
    """Line protocol of names and texts without commas or spaces, as the nodes here have them, in the logged schema."""
    rows = []
    for line in path.read_text().splitlines():
        keys, fields, stamp = line.split(" ")
        name, *tags = keys.split(",")
        assert name == MEASUREMENT
        row: dict[str, Any] = dict(tag.split("=") for tag in tags)
        for key, value in _FIELD.findall(fields):
            row[key] = value[1:-1] if value[0] == '"' else int(value[:-1]) if value[-1] == "i" else float(value)
        rows.append({"timestamp_ns": int(stamp), **row})
    return pa.RecordBatch.from_pylist(
        [{key: row.get(key) for key in LOGGED_SCHEMA.names} for row in rows], LOGGED_SCHEMA
    )


def today() -> Window:
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(midnight - timedelta(days=1), midnight + timedelta(days=1))


STALL = "actual_transfer_time_ms is too long"
"""A few bytes that a busy machine stopped for milliseconds on their way: the contract is right, the node not wrong."""


def sound_rows(*batches: pa.RecordBatch) -> list[dict[str, Any]]:
    """All rows as they were decided (a fully measured one is logged later); the contract refuses none but stalls."""
    rows: list[dict[str, Any]] = []
    for batch in batches:
        found = check_batch(batch, window=today(), now_ns=time.time_ns(), max_clock_ahead_ns=10**9)
        refused = found.bad["reason"].to_pylist()
        assert [reason for reason in refused if not reason.startswith(STALL)] == []
        assert len(refused) <= 0.2 * batch.num_rows
        rows.extend(batch.to_pylist())
    return sorted(rows, key=lambda row: int(row["timestamp_ns"]))


def test_a_published_model_decides_and_every_row_satisfies_the_contract(node: Node) -> None:
    tell(node.settings, 1, "v1")
    sender = node.send(
        "-measure", "0.5", "-rounds", "2", "-link", "wan", "-mbps", "400", "-rtt", "2ms", "-settle", "5s"
    )
    assert sender.join() == 0, sender.said
    summary = node.summary
    assert (summary["sent"], summary["not_sent"], summary["fallbacks"]) == (24, 0, 0)
    assert summary["by_model"] == {"v1": 24}
    assert set(summary["by_reason"]) <= {"model", "low_confidence", "not_worth_it"}
    assert summary["logger"]["sent"] == summary["logger"]["logged"] == 24
    rows = sound_rows(rows_of(node.home / "state" / "metrics.lp"))
    assert len(rows) == 24
    assert {row["model_version"] for row in rows} == {"v1"}
    assert {row["predicted_compression"] for row in rows} <= set(CANDIDATES)
    # From the second version on the peer holds one.
    assert [row["served_peer_has_version"] for row in rows[:4]] == [0.0] * 4
    known = {row["object_id"]: row["served_known_share"] for row in rows if row["object_version"] == 2}
    assert min(known.values()) == 0 < 0.9 < known["vm_memory-object3"]
    # How many depends on when a core is idle; that every one of them is logged does not.
    assert sum(row["measured_candidates"] == FULLY_MEASURED for row in rows) == summary["fully_measured"]


def test_restarted_nodes_go_on_where_they_were(node: Node) -> None:
    tell(node.settings, 1, "v1")
    assert node.send().join() == 0
    node.receiver.end(signal.SIGKILL)
    node.started.append(node.serve())
    again = node.send("-channel", node.home / "gone")  # the channel is away: the last good release serves
    assert again.join() == 0, again.said
    rows = sound_rows(rows_of(node.home / "state" / "metrics.lp"))
    assert len(rows) == 24
    assert all(row["served_peer_has_version"] == 1.0 for row in rows[12:])
    assert [row["object_version"] for row in rows if row["object_id"] == "logs-object0"] == list(range(6))
    assert node.summary["by_model"] == {"v1": 12}


def test_what_one_side_forgot_is_sent_whole(node: Node) -> None:
    tell(node.settings, 1, "v1")
    assert node.send().join() == 0
    shutil.rmtree(node.home / "held")
    node.receiver.end(signal.SIGKILL)
    node.started.append(node.serve())
    again = node.send()
    assert again.join() == 0, again.said
    assert (node.summary["sent"], node.summary["not_sent"]) == (12, 0)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_corrupted_bundle_is_refused_and_a_rollback_followed_while_serving(node: Node) -> None:
    settings = node.settings
    tell(settings, 1, "v1")
    sender = node.send("-rounds", "0", "-poll", "100ms", "-pause", "2ms")
    sender.wait_for("serial 1, v1 decides")
    transfer = r"(?m)^(?:logs|database|media|vm_memory)-object\d +v\d"
    sender.wait_for(transfer, 10)
    good = bundle_of(settings, "v2")
    tell(settings, 2, "v2")
    sender.wait_for("serial 2, v2 decides")
    count = len(re.findall(transfer, sender.said))
    sender.wait_for(transfer, count + 10)

    bundle_of(settings, "v3")
    for_v3 = Channel(
        3,
        datetime.now(UTC),
        {"us-east": RegionState("v3")},
        {"v3": bundle_of(settings, "v3").digest, "v2": good.digest},
    )
    flip(settings.bundle_dir / "v3" / GO)
    tell_document(settings, sign_document(load_signer(settings), for_v3.to_document()))
    sender.wait_for(r"champion: .*; v2 goes on deciding")
    count = len(re.findall(transfer, sender.said))
    sender.wait_for(transfer, count + 10)

    tell(settings, 4, "v1")  # back
    sender.wait_for("serial 4, v1 decides")
    count = len(re.findall(transfer, sender.said))
    sender.wait_for(transfer, count + 10)
    assert sender.end() == 0, sender.said
    summary = node.summary
    assert set(summary["by_model"]) == {"v1", "v2"}
    assert (summary["fallbacks"], summary["not_sent"]) == (0, 0)
    assert summary["sent"] >= 40
    assert (summary["updates"]["serial"], summary["updates"]["swaps"]) == (4, 3)
    assert summary["updates"]["refused"] >= 1
    assert len(sound_rows(rows_of(node.home / "state" / "metrics.lp"))) == summary["sent"]


def test_a_channel_over_http(node: Node) -> None:
    tell(node.settings, 1, "v1")
    handler = partial(QuietHandler, directory=str(node.settings.home))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        sender = node.send(channel=f"http://127.0.0.1:{server.server_address[1]}/")
        assert sender.join() == 0, sender.said
        server.shutdown()
    assert node.summary["by_model"] == {"v1": 12}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_peer_that_goes_away_is_waited_for(node: Node) -> None:
    tell(node.settings, 1, "v1")
    sender = node.send("-rounds", "0", "-mbps", "20")
    sender.wait_for(r"(?m)^vm_memory-object3 +v0")
    node.receiver.end(signal.SIGKILL)
    time.sleep(0.3)
    node.started.append(node.serve(node.port))
    sender.wait_for(r"\(attempt \d\)")
    assert sender.end() == 0, sender.said
    summary = node.summary
    assert summary["retried"] >= 1
    assert summary["not_sent"] == 0


def test_a_peer_that_is_gone_for_good_is_reported(node: Node) -> None:
    tell(node.settings, 1, "v1")
    sender = node.send("-rounds", "3", "-mbps", "20")
    sender.wait_for(r"(?m)^logs-object0 +v0")
    node.receiver.end(signal.SIGKILL)
    assert sender.join() == 1
    summary = node.summary
    assert summary["not_sent"] == 1
    assert summary["sent"] + summary["not_sent"] + summary["not_tried"] == 36
    assert "NOT SENT after 6 attempts" in sender.said
    assert f"{summary['not_sent'] + summary['not_tried']} transfers were not sent" in sender.said
    # What was sent was logged.
    assert summary["logger"]["sent"] == summary["sent"]


class Relay:
    """Passes bytes on and damages what goes to the peer."""

    def __init__(self, to_port: int, damage: Callable[[bytes], bytes]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._to_port, self._damage = to_port, damage
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to_port))
            threading.Thread(target=self._pass, args=(near, far, self._damage), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, bytes), daemon=True).start()

    @staticmethod
    def _pass(come: socket.socket, go: socket.socket, change: Callable[[bytes], bytes]) -> None:
        try:
            while data := come.recv(65_536):
                go.sendall(change(data))
        except OSError:
            pass
        for end in (come, go):
            end.close()

    def close(self) -> None:
        self._listener.close()


def test_damage_on_the_way_is_found_by_the_digest(node: Node) -> None:
    tell(node.settings, 1, "v1")
    marker = (node.objects / "media" / "object2" / "0.bin").read_bytes()[1_000:1_040]
    hits = []

    def damage(data: bytes) -> bytes:
        place = data.find(marker)
        if place < 0:
            return data
        hits.append(place)
        return data[:place] + b"damaged!" + data[place + 8 :]

    way = Relay(node.port, damage)
    sender = node.send("-to", f"127.0.0.1:{way.port}")
    assert sender.join() == 1
    way.close()
    assert hits
    assert "the peer did not keep media-object2: damaged" in sender.said
    assert node.summary["not_sent"] >= 1
    assert node.summary["sent"] + node.summary["not_sent"] == 12


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-objects", "/nowhere"), "cannot be read"),
        (("-key", "/nowhere/key.pem"), "the public key cannot be read"),
        (("-to", "127.0.0.1:1"), "start one with dwcpnode serve"),
        (("-region", "atlantis"), 'no region "atlantis"'),
        (("-metrics", "/nowhere/metrics.lp"), "metrics cannot be written"),
        (("-measure", "2"), "the share lies between"),
        (("stray",), "takes flags only"),
    ],
)
def test_bad_flags_are_explained(node: Node, flags: tuple[str, ...], said: str) -> None:
    tell(node.settings, 1, "v1")
    sender = node.send(*flags)
    assert sender.join() == 1
    assert said in sender.said
    assert "panic" not in sender.said


@pytest.mark.parametrize("what", ["nothing", "unknown type", "no versions", "empty version", "bad key"])
def test_bad_input_is_explained(node: Node, what: str) -> None:
    tell(node.settings, 1, "v1")
    shutil.rmtree(node.objects)
    node.objects.mkdir()
    expected = "holds no objects"
    if what == "unknown type":
        (node.objects / "recipes" / "cake").mkdir(parents=True)
        expected = "recipes is no data type: use one of vm_memory"
    elif what == "no versions":
        (node.objects / "logs" / "app").mkdir(parents=True)
        expected = "has no versions"
    elif what == "empty version":
        (node.objects / "logs" / "app").mkdir(parents=True)
        (node.objects / "logs" / "app" / "0").touch()
        expected = "is empty"
    elif what == "bad key":
        (node.objects / "logs" / "app").mkdir(parents=True)
        (node.objects / "logs" / "app" / "0").write_bytes(b"x")
        (node.settings.home / "keys" / "signing.pub.pem").write_text("no key")
        expected = "not in PEM form"
    sender = node.send()
    assert sender.join() == 1
    assert expected in sender.said


def test_a_real_influxdb_takes_every_row(
    node: Node, influx_bucket: InfluxBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell(node.settings, 1, "v1")
    monkeypatch.setenv("DWCP_INFLUX_TOKEN", influx_bucket.token)
    sender = node.send("-metrics", influx_bucket.url, "-org", influx_bucket.org, "-bucket", influx_bucket.bucket)
    assert sender.join() == 0, sender.said
    assert node.summary["logger"]["sent"] == 12
    assert len(sound_rows(*InfluxSource(influx_bucket.settings).read(today()))) == 12
    assert os.environ["DWCP_INFLUX_TOKEN"] not in sender.said
