"""Transfers from and into InfluxDB.

Bulk reads are InfluxQL over the 1.x-compatible ``/query``, answered as CSV: four to six times faster than a Flux pivot,
and understood by InfluxDB 1.x, 2.x and 3.x. CSV has no types, hides errors and can end early without a sign, so each
day is read into a temporary file first, compared with the server's own counts, and only then handed on.
Writes, buckets and health go through ``influxdb-client``.
"""

from __future__ import annotations

import json
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import urllib3
from urllib3.util import Retry, Timeout, parse_url

from dwcp.contract import FIELDS, LOGGED, MEASUREMENT, TAGS, Kind, Role
from dwcp.sources import SourceError
from dwcp.sources.line_protocol import encode
from dwcp.sources.schema import ARROW_TYPES, LOGGED_SCHEMA
from dwcp.window import Window

if TYPE_CHECKING:
    from dwcp.settings import Settings

log = logging.getLogger(__name__)

CHUNK_ROWS = 20_000
BLOCK_BYTES = 8 << 20
PEEK_BYTES = 64 << 10
WRITE_ROWS = 5_000
COUNTED = tuple(column.name for column in FIELDS if column.kind is Kind.INTEGER and not column.nullable)
"""What counts are compared of: every sound point has them. Counting all fields takes as long as reading them."""
RETRIED_STATUS = (429, 500, 502, 503, 504)
BACKOFF_S = 0.2
RETRY_AFTER_MAX_S = 60
CONNECT_TIMEOUT_S = 10.0
_TIME = "time"


class _BrokenAnswerError(Exception):
    """An answer broke off after it had begun; it may be asked for again."""


class InfluxSource:
    """Transfers of one bucket (in 1.x terms: database)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._place = _place(settings)
        self._pool = urllib3.PoolManager(
            timeout=Timeout(connect=min(CONNECT_TIMEOUT_S, settings.influx_timeout_s), read=settings.influx_timeout_s),
            retries=_retry(settings),
        )

    def read(self, window: Window, regions: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Yield the window's points in ``LOGGED_SCHEMA``, oldest first; a field or tag that a point lacks is null.

        Every UTC day is spooled to disk and handed on when its count agrees with the server's, taken after the read.
        Raises ``SourceError`` if InfluxDB is unreachable or refuses, a field's type contradicts the contract, or the
        counts still disagree after a second read.
        """
        if regions is not None and not regions:
            return
        stored = self._stored_fields()
        if not stored:
            return
        for part in _by_day(window):
            with tempfile.TemporaryFile(prefix="dwcp-influx-") as spool:
                self._spool(stored, part, regions, spool)
                spool.seek(0)
                with pa.ipc.open_stream(spool) as batches:
                    yield from batches

    def count(self, window: Window, regions: Sequence[str] | None = None) -> int:
        """Points of the window: the largest count of any of ``COUNTED``, as InfluxDB counts values and not points.

        A point that lacks the field is left out here, never by ``read``.
        """
        if regions is not None and not regions:
            return 0
        stored = self._stored_fields()
        return max(self._count_values(stored, window, regions).values(), default=0) if stored else 0

    def _spool(self, stored: Sequence[str], part: Window, regions: Sequence[str] | None, spool: IO[bytes]) -> None:
        """Write one part of the window as an Arrow stream. What broke off, or changed meanwhile, is read again."""
        breaks = 0
        differences: list[tuple[str, dict[str, int]]] = []
        while True:
            spool.seek(0)
            spool.truncate()
            try:
                parsed = self._fetch(stored, part, regions, spool)
            except OSError as error:
                raise SourceError(f"cannot spool {_span(part)} to {tempfile.gettempdir()}: {error}") from error
            except _BrokenAnswerError as error:
                breaks += 1
                if breaks > self._settings.influx_retries:
                    raise SourceError(
                        f"{self._place} broke off its answer for {_span(part)} {breaks} times: {error}"
                    ) from error
                log.warning("%s broke off its answer for %s, asking again: %s", self._place, _span(part), error)
                time.sleep(BACKOFF_S * 2 ** (breaks - 1))
                continue
            counted = self._count_values(stored, part, regions)
            difference = _difference(parsed, counted)
            if difference is None:
                log.info("%s: %d rows of %s, counts agree", self._place, parsed[_TIME], _span(part))
                return
            differences.append((difference, counted))
            if len(differences) == 2:
                moved = differences[0][1] != counted
                reason = (
                    "points are still arriving: run again when the window is closed"
                    if moved
                    else "its answers are cut short or its shards disagree on a field's type: look at the server's log"
                )
                raise SourceError(f"{self._place}, {_span(part)}, read twice: {difference}; {reason}")
            log.warning("%s, %s: %s; reading once more", self._place, _span(part), difference)

    def _fetch(
        self, stored: Sequence[str], part: Window, regions: Sequence[str] | None, spool: IO[bytes]
    ) -> dict[str, int]:
        """Stream one answer to ``spool``; how many rows and how many values of the ``COUNTED`` fields it held."""
        # Fields that the contract does not know are asked for as well, lest a point that has no other be passed over.
        names = dict.fromkeys([*(c.name for c in LOGGED if c.role is not Role.TIME), *stored])
        parsed = dict.fromkeys([_TIME, *COUNTED], 0)
        query = f"SELECT {', '.join(map(_identifier, names))} {_from_where(part, regions)}"
        with self._ask(query, "application/csv", chunked="true", chunk_size=str(CHUNK_ROWS)) as response:
            start = _receive(response, PEEK_BYTES)
            if message := _error_in(start):
                raise self._refused(message)
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            with pa.ipc.new_stream(spool, LOGGED_SCHEMA, options=options) as stream:
                for batch in _parse(start, response):
                    stream.write_batch(batch)
                    parsed[_TIME] += batch.num_rows
                    for name in COUNTED:
                        parsed[name] += batch.num_rows - batch[name].null_count
        return parsed

    def _count_values(self, stored: Sequence[str], window: Window, regions: Sequence[str] | None) -> dict[str, int]:
        """The server's counts of values: of the ``COUNTED`` fields that are stored, or of all if none is."""
        names = [name for name in COUNTED if name in stored] or stored
        selected = ", ".join(f"count({_identifier(name)})" for name in names)
        rows = self._ask_json(f"SELECT {selected} {_from_where(window, regions)}")
        return dict(zip(names, rows[0][1:], strict=True)) if rows else dict.fromkeys(names, 0)

    def _stored_fields(self) -> list[str]:
        """Names of the measurement's fields. Raises ``SourceError`` where a type or role contradicts the contract."""
        types: dict[str, set[str]] = {}
        for name, kind in self._ask_json(f"SHOW FIELD KEYS FROM {_identifier(MEASUREMENT)}"):
            types.setdefault(name, set()).add(kind)
        tags = {name for (name,) in self._ask_json(f"SHOW TAG KEYS FROM {_identifier(MEASUREMENT)}")}
        wrong = [
            f"field {column.name} is {' and '.join(sorted(types[column.name]))}, not {column.kind}"
            for column in FIELDS
            if types.get(column.name, {str(column.kind)}) != {str(column.kind)}
        ]
        wrong += [f"{column.name} is a tag, not a field" for column in FIELDS if column.name in tags]
        wrong += [f"{column.name} is a field, not a tag" for column in TAGS if column.name in types]
        if wrong:
            raise SourceError(
                f"{self._place}, measurement {MEASUREMENT}, contradicts the contract: {'; '.join(wrong)}. "
                "Correct the writer and rewrite or delete these points: InfluxDB drops values of the other type unseen"
            )
        return list(types)

    def _ask_json(self, query: str) -> list[list[Any]]:
        """The rows of a small query's only series."""
        with self._ask(query, "application/json", whole=True) as response:
            try:
                answer = json.loads(response.data)
            except ValueError as error:
                raise SourceError(f"{self._place} gave an unreadable answer to {query[:80]!r}: {error}") from error
        result = (answer.get("results") or [{}])[0]
        if message := answer.get("error") or result.get("error"):
            raise self._refused(message)
        series = result.get("series")
        rows: list[list[Any]] = series[0]["values"] if series else []
        return rows

    @contextmanager
    def _ask(
        self, query: str, accept: str, *, whole: bool = False, **parameters: str
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        settings = self._settings
        try:
            response = self._pool.request(
                "GET",
                settings.influx_url.rstrip("/") + "/query",
                fields={"db": settings.influx_bucket, "epoch": "ns", "q": query, **parameters},
                headers={"Accept": accept, "Authorization": f"Token {settings.influx_token.get_secret_value()}"},
                preload_content=whole,
            )
        except urllib3.exceptions.HTTPError as error:
            raise _unreachable(self._place, error) from error
        try:
            if response.status in (401, 403):
                raise SourceError(
                    f"{self._place} refused the token ({response.status}): "
                    "set DWCP_INFLUX_TOKEN to one that may read this bucket"
                )
            if response.status != 200:
                raise SourceError(f"{self._place} answered {response.status}: {_message(response)}")
            yield response
        finally:
            response.close()  # a body that was not read to its end must not go back to the pool
            response.release_conn()

    def _refused(self, message: str) -> SourceError:
        """For an error that came inside a 200."""
        hint = "; is DWCP_INFLUX_BUCKET right?" if "database not found" in message else ""
        return SourceError(f"{self._place} answered with an error: {message}{hint}")


def _error_in(start: bytes) -> str | None:
    """The error that stands where rows should be, as JSON even though CSV was asked for; None if there is none."""
    if start.startswith(b"{"):
        try:
            return str(json.loads(start)["error"])
        except (ValueError, KeyError):
            return start[:500].decode(errors="replace")
    heading, _, message = start.partition(b"\n")
    return message.decode(errors="replace").strip() if heading == b"error" else None


def _parse(start: bytes, response: urllib3.BaseHTTPResponse) -> Iterator[pa.RecordBatch]:
    """Batches in ``LOGGED_SCHEMA`` of a CSV answer, a block at a time; no rows if it is empty.

    Arrow's own streaming reader would read 32 blocks ahead. Headers may come again between chunks and are left out.
    Raises ``_BrokenAnswerError`` if the answer breaks off or is no CSV.
    """
    names = {column.name: _TIME if column.role is Role.TIME else column.name for column in LOGGED}
    convert = pa.csv.ConvertOptions(
        include_columns=list(names.values()),
        column_types={names[column.name]: ARROW_TYPES[column.kind] for column in LOGGED},
        null_values=[""],
        strings_can_be_null=True,
    )
    header = b""
    for block in _blocks(start, response):
        header = header or block[: block.index(b"\n") + 1]
        rows = (b"\n" + block).replace(b"\n" + header, b"\n").lstrip(b"\n")
        if not rows:
            continue
        try:
            table = pa.csv.read_csv(
                pa.BufferReader(header + rows),
                read_options=pa.csv.ReadOptions(block_size=len(header) + len(rows)),
                parse_options=pa.csv.ParseOptions(newlines_in_values=True),
                convert_options=convert,
            )
        except pa.ArrowException as error:
            raise _BrokenAnswerError(str(error)) from error
        for batch in table.to_batches():
            yield pa.RecordBatch.from_arrays(batch.columns, schema=LOGGED_SCHEMA)


def _blocks(start: bytes, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Whole lines, about ``BLOCK_BYTES`` of them at a time. Raises ``_BrokenAnswerError`` if the last one is none."""
    rest = start
    while more := _receive(response, BLOCK_BYTES):
        rest += more
        end = _end_of_lines(rest)
        if end:
            yield rest[:end]
            rest = rest[end:]
        elif len(rest) > 2 * BLOCK_BYTES:
            raise _BrokenAnswerError(f"a line is longer than {2 * BLOCK_BYTES} bytes")
    end = _end_of_lines(rest)
    if end:
        yield rest[:end]
    if end < len(rest):
        raise _BrokenAnswerError("the answer ends within a line")


def _end_of_lines(block: bytes) -> int:
    """Where the last whole line ends. A line break between quotes ends no line; CSV doubles quotes within quotes."""
    end = block.rfind(b"\n") + 1
    while end and block.count(b'"', 0, end) % 2:
        end = block.rfind(b"\n", 0, end - 1) + 1
    return end


def _receive(response: urllib3.BaseHTTPResponse, size: int) -> bytes:
    try:
        return response.read(size)
    except urllib3.exceptions.HTTPError as error:
        raise _BrokenAnswerError(str(error)) from error


def _difference(parsed: Mapping[str, int], counted: Mapping[str, int]) -> str | None:
    """How what was parsed differs from the server's counts of values; None if they agree."""
    for name, expected in counted.items():
        if name in parsed and parsed[name] != expected:
            return f"it counts {expected} values of {name} and answered {parsed[name]}"
        if parsed[_TIME] < expected:
            return f"it counts {expected} values of {name} and answered {parsed[_TIME]} rows"
    return None


def write_points(settings: Settings, rows: pa.Table | pa.RecordBatch | Iterable[pa.RecordBatch]) -> int:
    """Write rows in ``LOGGED_SCHEMA`` as points of the bucket; how many were written. Writing again changes nothing.

    Raises ``ValueError`` on rows that InfluxDB cannot hold (see ``line_protocol.encode``) and ``SourceError`` if
    InfluxDB is unreachable or refuses.
    """
    from influxdb_client.client.write_api import SYNCHRONOUS

    if isinstance(rows, pa.RecordBatch):
        rows = pa.Table.from_batches([rows])
    batches = rows.to_batches() if isinstance(rows, pa.Table) else rows
    written = 0
    with _client(settings) as client, client.write_api(write_options=SYNCHRONOUS) as api:
        for batch in batches:
            for start in range(0, batch.num_rows, WRITE_ROWS):
                lines = encode(batch.slice(start, WRITE_ROWS))
                api.write(bucket=settings.influx_bucket, record="\n".join(lines).encode())
                written += len(lines)
    return written


def ensure_bucket(settings: Settings) -> None:
    """Create the bucket, without a limit on retention, unless it is there; two may do so at once."""
    with _client(settings) as client:
        buckets = client.buckets_api()
        if buckets.find_bucket_by_name(settings.influx_bucket) is None:
            try:
                buckets.create_bucket(bucket_name=settings.influx_bucket, org=settings.influx_org)
            except Exception:
                if buckets.find_bucket_by_name(settings.influx_bucket) is None:
                    raise


def health(settings: Settings) -> str:
    """The version of a server that is ready. Raises ``SourceError`` if it is not."""
    with _client(settings) as client:
        state = client.health()
    if state.status != "pass":
        raise SourceError(
            f"{_place(settings)} is not ready ({state.message}): is it running, and is DWCP_INFLUX_URL right?"
        )
    return str(state.version)


@contextmanager
def _client(settings: Settings) -> Iterator[Any]:
    """An ``influxdb_client.InfluxDBClient`` whose failures are ``SourceError``."""
    from influxdb_client import InfluxDBClient
    from influxdb_client.rest import ApiException

    place = _place(settings)
    try:
        with InfluxDBClient(
            url=settings.influx_url,
            token=settings.influx_token.get_secret_value(),
            org=settings.influx_org,
            timeout=int(settings.influx_timeout_s * 1_000),
            retries=_retry(settings, methods=None),
        ) as client:
            yield client
    except ApiException as error:
        hint = {401: "; set DWCP_INFLUX_TOKEN", 404: "; are DWCP_INFLUX_BUCKET and DWCP_INFLUX_ORG right?"}
        raise SourceError(f"{place} answered {error.status}: {error.message}{hint.get(error.status, '')}") from error
    except urllib3.exceptions.HTTPError as error:
        raise _unreachable(place, error) from error


def _retry(settings: Settings, methods: frozenset[str] | None = Retry.DEFAULT_ALLOWED_METHODS) -> Retry:
    """Back-off on 429, 5xx and broken connections; the last bad answer is returned, not raised.

    ``methods`` None also repeats writes, which is harmless: the same point written twice is one point.
    """
    return Retry(
        total=settings.influx_retries,
        status_forcelist=RETRIED_STATUS,
        allowed_methods=methods,
        backoff_factor=BACKOFF_S,
        retry_after_max=RETRY_AFTER_MAX_S,
        raise_on_status=False,
    )


def _unreachable(place: str, error: urllib3.exceptions.HTTPError) -> SourceError:
    reason = getattr(error, "reason", None) or error
    return SourceError(f"{place} cannot be reached ({reason}): is it running, and is DWCP_INFLUX_URL right?")


def _place(settings: Settings) -> str:
    """How messages name the bucket; without what secrets the URL may hold. Raises ``SourceError`` if it is no URL."""
    try:
        url = parse_url(settings.influx_url)
    except urllib3.exceptions.LocationParseError:
        url = parse_url("")
    if url.scheme not in ("http", "https") or not url.host:
        raise SourceError("DWCP_INFLUX_URL is no URL: write it like http://127.0.0.1:8086")
    return f"InfluxDB bucket {settings.influx_bucket} at {url._replace(auth=None, query=None).url}"


def _message(response: urllib3.BaseHTTPResponse) -> str:
    """What an answer that is not 200 says, as InfluxDB's JSON or as text."""
    try:
        body = response.data
    except urllib3.exceptions.HTTPError as error:
        return str(error)
    try:
        answer = json.loads(body)
        return str(answer.get("message") or answer.get("error") or answer)
    except (ValueError, AttributeError):
        return body[:500].decode(errors="replace").strip()


def _by_day(window: Window) -> Iterator[Window]:
    for day in map(Window.of_day, window.days()):
        yield Window(max(day.start, window.start), min(day.end, window.end))


def _span(window: Window) -> str:
    return f"{window.start.isoformat()} to {window.end.isoformat()}"


def _from_where(window: Window, regions: Sequence[str] | None) -> str:
    where = f"time >= {window.start_ns} AND time < {window.end_ns}"
    if regions is not None:
        where += f" AND ({' OR '.join(f'region = {_text(region)}' for region in regions)})"
    return f"FROM {_identifier(MEASUREMENT)} WHERE {where}"


def _identifier(name: str) -> str:
    """An InfluxQL identifier, quoted as InfluxDB's own ``influxql.QuoteIdent`` does."""
    return '"' + name.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"') + '"'


def _text(value: str) -> str:
    """An InfluxQL string, quoted as InfluxDB's own ``influxql.QuoteString`` does."""
    return "'" + value.replace("\\", "\\\\").replace("\n", "\\n").replace("'", "\\'") + "'"
