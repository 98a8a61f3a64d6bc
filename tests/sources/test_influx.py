"""Reads and writes against the real InfluxDB."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp.contract import MEASUREMENT
from dwcp.settings import Settings
from dwcp.sources import SourceError, open_source
from dwcp.sources.influx import InfluxSource, ensure_bucket, health, write_points
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window
from fixtures_influx import InfluxBucket
from transfers import make_transfers, replace

pytestmark = pytest.mark.influxdb
DAY = Window.parse("2026-08-03", "2026-08-04")
DAY_NS = DAY.start_ns


def read(settings: Settings, window: Window = DAY, regions: Sequence[str] | None = None) -> pa.Table:
    return pa.Table.from_batches(InfluxSource(settings).read(window, regions), LOGGED_SCHEMA)


def assert_same_rows(got: pa.Table, expected: pa.Table) -> None:
    """Equal cell by cell, in time order; timestamps of test rows are unique."""
    got, expected = got.sort_by("timestamp_ns"), expected.sort_by("timestamp_ns")
    assert got.num_rows == expected.num_rows
    for name in LOGGED_SCHEMA.names:
        assert got[name].combine_chunks().equals(expected[name].combine_chunks()), name


def write_lines(bucket: InfluxBucket, *lines: str) -> None:
    from influxdb_client import InfluxDBClient
    from influxdb_client.client.write_api import SYNCHRONOUS

    with InfluxDBClient(bucket.url, bucket.token, org=bucket.org) as client:
        client.write_api(write_options=SYNCHRONOUS).write(bucket.bucket, record=list(lines))


def test_twenty_thousand_rows_come_back_as_they_were_written(influx_bucket: InfluxBucket) -> None:
    rows = make_transfers(20_000)
    assert write_points(influx_bucket.settings, rows) == 20_000
    assert write_points(influx_bucket.settings, rows.slice(0, 3_000)) == 3_000  # again: changes nothing
    source = open_source(influx_bucket.settings, "influxdb")
    batches = list(source.read(DAY))
    assert all(batch.schema == LOGGED_SCHEMA for batch in batches)
    assert_same_rows(pa.Table.from_batches(batches), rows)
    assert source.count(DAY) == 20_000


def test_a_window_is_half_open_and_may_cut_days(influx_bucket: InfluxBucket) -> None:
    rows = make_transfers(48, seconds=2 * 86_400)
    write_points(influx_bucket.settings, rows)
    window = Window.parse("2026-08-03T12:00:00Z", "2026-08-04T06:00:00Z")
    inside = pc.and_(
        pc.greater_equal(rows["timestamp_ns"], window.start_ns), pc.less(rows["timestamp_ns"], window.end_ns)
    )
    assert_same_rows(read(influx_bucket.settings, window), rows.filter(inside))
    assert InfluxSource(influx_bucket.settings).count(window) == pc.sum(inside).as_py() == 18


def test_regions_are_chosen_by_value_and_cannot_inject(influx_bucket: InfluxBucket) -> None:
    settings = influx_bucket.settings
    odd = "o'dd\" OR = ,"
    rows = replace(replace(make_transfers(60), "region", 5, odd), "region", 6, None)
    write_points(settings, rows)
    source = InfluxSource(settings)
    for regions in (["us-east"], ["us-east", "eu-west"], [odd]):
        expected = rows.filter(pc.is_in(rows["region"], value_set=pa.array(regions)))
        assert expected.num_rows > 0
        assert_same_rows(read(settings, DAY, regions), expected)
        assert source.count(DAY, regions) == expected.num_rows
    assert_same_rows(read(settings, DAY, [""]), rows.slice(6, 1))  # "" names the rows without region
    for hostile in ("x' OR region = 'us-east", "x\\' OR region = 'us-east", "\\", "'; DROP MEASUREMENT x; --", "a\nb"):
        assert read(settings, DAY, [hostile]).num_rows == 0
        assert source.count(DAY, [hostile]) == 0
    assert read(settings, DAY, []).num_rows == source.count(DAY, []) == 0
    assert read(settings).num_rows == 60


def test_text_survives_whatever_it_holds(influx_bucket: InfluxBucket) -> None:
    rows = make_transfers(8)
    texts = ['q"uote', "com,ma", "line\nbreak", "back\\slash", "é日本", "name,tags,time", " space ", "\\"]
    for row, text in enumerate(texts):
        rows = replace(rows, "object_id", row, text)
    rows = replace(rows, "node_id", 0, "a b,c=d é")
    write_points(influx_bucket.settings, rows)
    assert_same_rows(read(influx_bucket.settings), rows)


def test_extreme_numbers_survive(influx_bucket: InfluxBucket) -> None:
    rows = make_transfers(6)
    for row, value in enumerate([1e-300, 1.7976931348623157e308, 0.1 + 0.2, -0.0, 5e-324, 123456789012345680.0]):
        rows = replace(rows, "rtt_ms", row, value)
    for row, value in enumerate([2**63 - 1, -(2**63), 2**53 + 1]):
        rows = replace(rows, "object_version", row, value)
    write_points(influx_bucket.settings, rows)
    assert_same_rows(read(influx_bucket.settings), rows)


def test_a_point_that_lacks_fields_or_tags_arrives_with_nulls(influx_bucket: InfluxBucket) -> None:
    write_points(influx_bucket.settings, make_transfers(10))
    write_lines(
        influx_bucket,
        f"{MEASUREMENT} rtt_ms=1.5 {DAY_NS + 7}",
        f'{MEASUREMENT},region=mars payload_digest="" {DAY_NS + 8}',
        f'{MEASUREMENT},region=moon from_elsewhere="x" {DAY_NS + 9}',  # no field of the contract at all
    )
    got = {row["timestamp_ns"] - DAY_NS: row for row in read(influx_bucket.settings).to_pylist()}
    assert len(got) == 13
    assert got[7]["rtt_ms"] == 1.5
    assert {name for name, value in got[7].items() if value is not None} == {"rtt_ms", "timestamp_ns"}
    assert {name for name, value in got[8].items() if value is not None} == {"region", "timestamp_ns"}
    assert got[9]["region"] == "moon"


def test_points_that_all_lack_what_is_counted_are_still_read(influx_bucket: InfluxBucket) -> None:
    write_lines(influx_bucket, *(f"{MEASUREMENT} odd=1 {DAY_NS + n}" for n in range(3)))
    assert read(influx_bucket.settings).num_rows == 3
    assert InfluxSource(influx_bucket.settings).count(DAY) == 3


def test_an_empty_bucket_or_window_is_no_rows(influx_bucket: InfluxBucket) -> None:
    assert read(influx_bucket.settings).num_rows == 0
    assert InfluxSource(influx_bucket.settings).count(DAY) == 0
    write_points(influx_bucket.settings, make_transfers(5))
    later = Window.parse("2026-09-01", "2026-09-02")
    assert read(influx_bucket.settings, later).num_rows == 0
    assert InfluxSource(influx_bucket.settings).count(later) == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"{MEASUREMENT} data_size_bytes=7.5 {DAY_NS}", "field data_size_bytes is float, not integer"),
        (f"{MEASUREMENT} rtt_ms=7i {DAY_NS}", "field rtt_ms is integer, not float"),
        (f"{MEASUREMENT} object_version=7u {DAY_NS}", "field object_version is unsigned, not integer"),
        (f'{MEASUREMENT} region="us-east",rtt_ms=1 {DAY_NS}', "region is a field, not a tag"),
        (f"{MEASUREMENT},peer_id=a rtt_ms=1 {DAY_NS}", "peer_id is a tag, not a field"),
    ],
)
def test_a_type_against_the_contract_is_refused_before_any_row(
    influx_bucket: InfluxBucket, line: str, message: str
) -> None:
    write_lines(influx_bucket, line)
    with pytest.raises(SourceError, match=message):
        next(InfluxSource(influx_bucket.settings).read(DAY))


def test_two_types_in_two_shards_are_refused(influx_bucket: InfluxBucket) -> None:
    write_lines(influx_bucket, f"{MEASUREMENT} rtt_ms=1.5 {DAY_NS}")
    write_lines(influx_bucket, f"{MEASUREMENT} rtt_ms=1i {DAY_NS + 30 * 86_400 * 10**9}")
    with pytest.raises(SourceError, match="field rtt_ms is float and integer, not float"):
        next(InfluxSource(influx_bucket.settings).read(DAY))


def with_settings(settings: Settings, **changes: object) -> Settings:
    return Settings(**(settings.model_dump() | changes))


def test_a_wrong_token_says_so_and_does_not_show_it(influx_bucket: InfluxBucket) -> None:
    wrong = with_settings(influx_bucket.settings, influx_token="not-the-token")
    for act in (lambda: next(InfluxSource(wrong).read(DAY)), lambda: write_points(wrong, make_transfers(1))):
        with pytest.raises(SourceError, match=r"401.*DWCP_INFLUX_TOKEN") as caught:
            act()
        assert "not-the-token" not in str(caught.value)


def test_an_unknown_bucket_says_so(influx_bucket: InfluxBucket) -> None:
    wrong = with_settings(influx_bucket.settings, influx_bucket="nowhere")
    with pytest.raises(SourceError, match=r"database not found: nowhere.*DWCP_INFLUX_BUCKET"):
        next(InfluxSource(wrong).read(DAY))
    with pytest.raises(SourceError, match=r"404.*nowhere.*DWCP_INFLUX_BUCKET"):
        write_points(wrong, make_transfers(1))


def test_a_read_only_token_is_enough_to_read(influx_bucket: InfluxBucket) -> None:
    write_points(influx_bucket.settings, make_transfers(50))
    server = influx_bucket.server
    made = server.call(
        "POST",
        "/api/v2/authorizations",
        {
            "orgID": server.org_id,
            "permissions": [{"action": "read", "resource": {"type": "buckets", "id": influx_bucket.bucket_id}}],
        },
    )
    reader = with_settings(influx_bucket.settings, influx_token=made["token"])
    assert read(reader).num_rows == 50
    with pytest.raises(SourceError, match="403"):
        write_points(reader, make_transfers(1))


def test_a_server_that_is_down_says_so() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        down = Settings(influx_url=f"http://name:word@127.0.0.1:{probe.getsockname()[1]}", influx_retries=1)
    for act in (
        lambda: next(InfluxSource(down).read(DAY)),
        lambda: InfluxSource(down).count(DAY),
        lambda: write_points(down, make_transfers(1)),
        lambda: ensure_bucket(down),
        lambda: health(down),
    ):
        with pytest.raises(SourceError, match="is it running, and is DWCP_INFLUX_URL right") as caught:
            act()
        assert "word" not in str(caught.value)


def test_a_bucket_is_made_once_and_found_again(influx_bucket: InfluxBucket) -> None:
    settings = with_settings(influx_bucket.settings, influx_bucket=f"{influx_bucket.bucket}_new")
    ensure_bucket(settings)
    ensure_bucket(settings)
    assert write_points(settings, make_transfers(3)) == 3
    assert read(settings).num_rows == 3
    found = influx_bucket.server.call("GET", f"/api/v2/buckets?name={settings.influx_bucket}")["buckets"]
    assert isinstance(found, list)
    assert len(found) == 1
    influx_bucket.server.call("DELETE", f"/api/v2/buckets/{found[0]['id']}")


def test_health_gives_the_version(influx_bucket: InfluxBucket) -> None:
    assert health(influx_bucket.settings)


def test_progress_is_logged_without_the_token(influx_bucket: InfluxBucket, caplog: pytest.LogCaptureFixture) -> None:
    write_points(influx_bucket.settings, make_transfers(5))
    with caplog.at_level(logging.DEBUG):
        read(influx_bucket.settings)
    assert "5 rows of 2026-08-03T00:00:00+00:00" in caplog.text
    assert influx_bucket.token not in caplog.text


def test_rows_written_from_batches(influx_bucket: InfluxBucket) -> None:
    rows = make_transfers(12, start=datetime(2026, 8, 3, tzinfo=UTC))
    assert write_points(influx_bucket.settings, iter(rows.to_batches(max_chunksize=5))) == 12
    assert_same_rows(read(influx_bucket.settings), rows)
