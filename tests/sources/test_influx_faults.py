"""What a network and a busy server do to a read: a small proxy before the real InfluxDB misbehaves on purpose."""

from __future__ import annotations

import http.client
import json
import re
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from dwcp import contract
from dwcp.settings import Settings
from dwcp.sources import SourceError, influx
from dwcp.sources.influx import InfluxSource, write_points
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window
from fixtures_influx import InfluxBucket
from transfers import make_transfers

DAY = Window.parse("2026-08-03", "2026-08-04")
Answer = Callable[["Handler", str], bool]
"""Answers a request for itself and says True, or says False to let it be forwarded. The text is the query."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def do_GET(self) -> None:
        self._handle(b"")

    def do_POST(self) -> None:
        self._handle(self.rfile.read(int(self.headers["Content-Length"])))

    def _handle(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query).get("q", [self.path])[0]
        self.server.queries.append(query)
        if self.server.answer(self, query):
            return
        self.reply(*self.forward(body))

    def forward(self, body: bytes = b"") -> tuple[int, bytes, str]:
        assert self.server.upstream, "nothing behind this proxy"
        connection = http.client.HTTPConnection(self.server.upstream)
        headers = {
            name: self.headers[name] for name in ("Authorization", "Accept", "Content-Type") if self.headers[name]
        }
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        return answer.status, data, answer.headers["Content-Type"] or "text/plain"

    def reply(self, status: int, data: bytes, kind: str = "application/json", **headers: str) -> bool:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
        return True

    def log_message(self, *arguments: object) -> None:
        """Silence."""


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.upstream = upstream
        self.queries: list[str] = []
        self.answer: Answer = lambda handler, query: False

    def of_kind(self, prefix: str) -> int:
        return sum(query.startswith(prefix) for query in self.queries)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def quick_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influx, "BACKOFF_S", 0.001)


def settings_for(proxy: Proxy, base: Settings | None = None, **changes: object) -> Settings:
    port = proxy.server_address[1]
    if base is not None:
        proxy.upstream = urlsplit(base.influx_url).netloc
    known = base.model_dump() if base else {}
    return Settings(**(known | {"influx_url": f"http://127.0.0.1:{port}", "influx_retries": 3} | changes))


def read(settings: Settings, window: Window = DAY, regions: Sequence[str] | None = None) -> pa.Table:
    return pa.Table.from_batches(InfluxSource(settings).read(window, regions), LOGGED_SCHEMA)


def is_rows(query: str) -> bool:
    return query.startswith('SELECT "')


def first(times: int, act: Callable[[Handler], bool], of: Callable[[str], bool] = lambda query: True) -> Answer:
    """Act on the first ``times`` matching requests and forward the rest."""
    left = [times]
    lock = threading.Lock()

    def answer(handler: Handler, query: str) -> bool:
        with lock:
            if not of(query) or left[0] == 0:
                return False
            left[0] -= 1
        return act(handler)

    return answer


@pytest.mark.influxdb
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again(proxy: Proxy, influx_bucket: InfluxBucket, status: int) -> None:
    settings = settings_for(proxy, influx_bucket.settings)
    proxy.answer = first(2, lambda h: h.reply(status, b'{"message":"busy"}', Retry_After="0"))
    assert write_points(settings, make_transfers(20)) == 20
    proxy.answer = first(2, lambda h: h.reply(status, b'{"message":"busy"}', Retry_After="0"), is_rows)
    assert read(settings).num_rows == 20
    assert proxy.of_kind('SELECT "') == 3


def test_a_server_that_stays_busy_is_given_up_with_its_words(proxy: Proxy) -> None:
    proxy.answer = lambda h, query: h.reply(503, b'{"message":"compacting all day"}')
    settings = settings_for(proxy)
    with pytest.raises(SourceError, match="answered 503: compacting all day"):
        read(settings)
    assert len(proxy.queries) == 1 + settings.influx_retries
    with pytest.raises(SourceError, match="503"):
        write_points(settings, make_transfers(1))


def break_off(handler: Handler, *, chunked: bool, cut: float, length: bool = True) -> bool:
    status, data, kind = handler.forward()
    part = data[: int(len(data) * cut)]
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    handler.send_header("Connection", "close")
    if chunked:
        handler.send_header("Transfer-Encoding", "chunked")
        part = b"%x\r\n%s\r\n" % (len(part), part)
    elif length:
        handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(part)
    handler.close_connection = True
    return True


@pytest.mark.influxdb
@pytest.mark.parametrize("cut", [0.001, 0.3, 0.9])
@pytest.mark.parametrize(("chunked", "length"), [(True, False), (False, True), (False, False)])
def test_a_truncated_answer_is_read_again(
    proxy: Proxy, influx_bucket: InfluxBucket, chunked: bool, length: bool, cut: float
) -> None:
    settings = settings_for(proxy, influx_bucket.settings)
    rows = make_transfers(300)
    write_points(settings, rows)
    proxy.answer = first(2, lambda h: break_off(h, chunked=chunked, cut=cut, length=length), is_rows)
    assert sorted(read(settings)["transfer_id"].to_pylist()) == sorted(rows["transfer_id"].to_pylist())
    assert proxy.of_kind('SELECT "') == 3


@pytest.mark.influxdb
def test_an_answer_that_always_breaks_off_fails_with_the_reason(proxy: Proxy, influx_bucket: InfluxBucket) -> None:
    settings = settings_for(proxy, influx_bucket.settings)
    write_points(settings, make_transfers(300))
    proxy.answer = lambda h, query: is_rows(query) and break_off(h, chunked=True, cut=0.5)
    with pytest.raises(SourceError, match=r"broke off its answer for 2026-08-03.* 4 times"):
        read(settings)


def drop_last_rows(handler: Handler) -> bool:
    """What InfluxDB does when it fails in mid-answer and CSV was asked for: it ends early and says nothing."""
    status, data, kind = handler.forward()
    return handler.reply(status, b"".join(data.splitlines(keepends=True)[:-3]), kind)


@pytest.mark.influxdb
def test_rows_missing_from_a_clean_answer_are_noticed(proxy: Proxy, influx_bucket: InfluxBucket) -> None:
    settings = settings_for(proxy, influx_bucket.settings)
    write_points(settings, make_transfers(50))
    proxy.answer = first(1, drop_last_rows, is_rows)
    assert read(settings).num_rows == 50
    proxy.answer = lambda h, query: is_rows(query) and drop_last_rows(h)
    reading = InfluxSource(settings).read(DAY)
    with pytest.raises(SourceError, match=r"read twice: it counts 50 values of .* and answered 47; .*cut short"):
        next(reading)  # nothing is handed on before the counts agree


@pytest.mark.influxdb
def test_points_that_arrive_during_the_read_are_read_once_more(proxy: Proxy, influx_bucket: InfluxBucket) -> None:
    settings = settings_for(proxy, influx_bucket.settings)
    rows = make_transfers(120)
    write_points(settings, rows.slice(0, 100))
    arrived = [100]

    def arrive(handler: Handler) -> bool:
        handler.reply(*handler.forward())
        write_points(influx_bucket.settings, rows.slice(arrived[0], 10))
        arrived[0] += 10
        return True

    proxy.answer = first(1, arrive, is_rows)
    assert read(settings).num_rows == 110
    proxy.answer = lambda h, query: is_rows(query) and arrived[0] < 120 and arrive(h)
    arrived[0] = 110
    assert read(settings).num_rows == 120


@pytest.mark.influxdb
def test_points_that_keep_arriving_fail_with_the_reason(proxy: Proxy, influx_bucket: InfluxBucket) -> None:
    settings = settings_for(proxy, influx_bucket.settings)
    rows = make_transfers(120)
    write_points(settings, rows.slice(0, 100))
    arrived = [100]

    def arrive(handler: Handler, query: str) -> bool:
        if not query.startswith("SELECT count"):
            return False
        write_points(influx_bucket.settings, rows.slice(arrived[0], 10))
        arrived[0] += 10
        return False

    proxy.answer = arrive
    with pytest.raises(SourceError, match=r"read twice: it counts 120 .* answered 110; points are still arriving"):
        next(InfluxSource(settings).read(DAY))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error":"database not found: x"}', "database not found: x; is DWCP_INFLUX_BUCKET right"),
        (b'{"results":[{"statement_id":0,"error":"shard is damaged"}]}', "shard is damaged"),
        (b"<html>a proxy's login page</html>", "unreadable answer"),
        (b"", "unreadable answer"),
    ],
)
def test_an_error_inside_a_200_is_an_error(proxy: Proxy, body: bytes, message: str) -> None:
    proxy.answer = lambda h, query: h.reply(200, body)
    with pytest.raises(SourceError, match=message):
        read(settings_for(proxy))


FIELD_KEYS = [[column.name, str(column.kind)] for column in contract.FIELDS]


class FakeInflux:
    """Answers like an InfluxDB that holds ``rows`` equal points; its CSV may be spoilt."""

    def __init__(self, rows: int, spoil: Callable[[bytes], bytes] = lambda block: block, block_rows: int = 500) -> None:
        self.rows, self.spoil, self.block_rows = rows, spoil, block_rows
        point = make_transfers(1, fully_measured=1.0).to_pylist()[0]
        names = [name for name in LOGGED_SCHEMA.names if name != "timestamp_ns"]
        self.header = ("name,tags,time," + ",".join(names) + "\n").encode()
        cells = (f'"{value}"' if "," in str(value) else str(value) for value in (point[name] for name in names))
        self.line = (f"{contract.MEASUREMENT},,{point['timestamp_ns']}," + ",".join(cells) + "\n").encode()

    def __call__(self, handler: Handler, query: str) -> bool:
        if query.startswith("SHOW FIELD"):
            return handler.reply(200, self._json(FIELD_KEYS))
        if query.startswith("SHOW TAG"):
            return handler.reply(200, self._json([[column.name] for column in contract.TAGS]))
        if query.startswith("SELECT count"):
            return handler.reply(200, self._json([[0, *[self.rows] * query.count("count(")]]))
        handler.send_response(200)
        handler.send_header("Content-Type", "text/csv")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for start in range(0, self.rows, self.block_rows):
            block = self.line * min(self.block_rows, self.rows - start)
            block = self.spoil(block if start else self.header + block)
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(block), block))
        handler.wfile.write(b"0\r\n\r\n")
        return True

    @staticmethod
    def _json(values: list[list[object]] | list[list[str]]) -> bytes:
        return json.dumps({"results": [{"series": [{"values": values}]}]}).encode()


def test_headers_repeated_between_chunks_are_no_rows(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeInflux(2_000, block_rows=7)
    fake.spoil = lambda block: block if block.startswith(fake.header) else b"\n" + fake.header + block
    proxy.answer = fake
    monkeypatch.setattr(influx, "BLOCK_BYTES", 10_000)  # so that headers fall across blocks, too
    monkeypatch.setattr(influx, "PEEK_BYTES", 4_096)
    got = read(settings_for(proxy))
    assert got.num_rows == 2_000
    assert got["node_id"].null_count == 0


@pytest.mark.parametrize("block_bytes", [1_500, 1_501, 2_048, 5_000])
def test_line_breaks_and_quotes_within_text_end_no_row(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    fake = FakeInflux(200, block_rows=9)
    fake.line, changed = re.subn(rb",object-\d+,", b',"a\n""b"",\n\n""",', fake.line)
    assert changed == 1
    proxy.answer = fake
    monkeypatch.setattr(influx, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(influx, "PEEK_BYTES", 1_000)
    assert read(settings_for(proxy))["object_id"].to_pylist() == ['a\n"b",\n\n"'] * 200


def test_an_error_in_place_of_rows_is_an_error(proxy: Proxy) -> None:
    fake = FakeInflux(10)
    for body, message in ((b"error\nquery timeout\n", "query timeout"), (b'{"error":"gone: x"}\n', "gone: x")):
        fake.spoil = lambda block, body=body: body
        proxy.answer = fake
        with pytest.raises(SourceError, match=f"answered with an error: {message}"):
            read(settings_for(proxy))


@pytest.mark.parametrize("spoil", ["ragged", "text", "columns"])
def test_csv_that_makes_no_sense_is_an_error(proxy: Proxy, spoil: str) -> None:
    fake = FakeInflux(10)
    change = {
        "ragged": lambda block: block + b"one,two\n",
        "text": lambda block: block.replace(b",us-", b",us-").replace(fake.line.split(b",")[2], b"yesterday"),
        "columns": lambda block: block.replace(b"rtt_ms", b"latency"),
    }[spoil]
    fake.spoil = change
    proxy.answer = fake
    with pytest.raises(SourceError, match="broke off its answer"):
        read(settings_for(proxy))


@pytest.mark.parametrize("url", ["", "127.0.0.1:8086", "http://", "http://[::1", "postgresql://x:secret@y/z"])
def test_what_is_no_url_is_refused_without_showing_it(url: str) -> None:
    settings = Settings(influx_url=url)
    for act in (lambda: InfluxSource(settings), lambda: write_points(settings, make_transfers(1))):
        with pytest.raises(SourceError, match="DWCP_INFLUX_URL is no URL") as caught:
            act()
        assert "secret" not in str(caught.value)


def test_a_silent_server_times_out(proxy: Proxy) -> None:
    waiting = threading.Event()
    proxy.answer = lambda h, query: waiting.wait(30)
    with pytest.raises(SourceError, match="cannot be reached"):
        read(settings_for(proxy, influx_timeout_s=0.2, influx_retries=1))
    waiting.set()


def test_a_full_disk_says_so(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    class FullDisk:
        closed = False

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *error: object) -> None: ...

        def seek(self, *position: int) -> int:
            return 0

        def truncate(self) -> None: ...

        def write(self, data: bytes) -> int:
            raise OSError(28, "No space left on device")

    proxy.answer = FakeInflux(10)
    monkeypatch.setattr(influx.tempfile, "TemporaryFile", lambda **options: FullDisk())
    with pytest.raises(SourceError, match=r"cannot spool .*No space left on device"):
        read(settings_for(proxy))


POOLS: list[pa.MemoryPool] = []
"""Kept to the end: Arrow crashes if a buffer outlives its pool."""


def peak_bytes(proxy: Proxy, rows: int) -> tuple[int, int]:
    """Peaks of Arrow's memory and of Python's heap over reading ``rows`` rows of one day."""
    proxy.answer = FakeInflux(rows)
    old, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    POOLS.append(counted)
    pa.set_memory_pool(counted)
    tracemalloc.start()
    try:
        assert sum(batch.num_rows for batch in InfluxSource(settings_for(proxy)).read(DAY)) == rows
        return counted.max_memory(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(old)


def test_memory_does_not_grow_with_the_window(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influx, "BLOCK_BYTES", 1 << 20)  # many blocks, few seconds
    few, many = peak_bytes(proxy, 20_000), peak_bytes(proxy, 100_000)
    assert many[0] < few[0] * 1.5
    assert many[1] < few[1] * 1.5
