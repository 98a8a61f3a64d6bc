"""The split of good rows from bad ones: every kind of bad input by name, and properties against a slow reference."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwcp.contract import ALGORITHMS, FEATURE_SET_DIGEST, FEATURES, FULLY_MEASURED, LOGGED, OUTCOMES, Kind
from dwcp.quality.check import QUARANTINE_SCHEMA, Checked, check_batch
from dwcp.quality.truths import suspected_unit
from dwcp.sources.schema import LOGGED_SCHEMA
from dwcp.window import Window
from transfers import START, make_transfers, replace

WINDOW = Window.of_day(START.date())
NS_PER_MINUTE = 60 * 10**9
ROW = 5


def check(table: pa.Table, *, now_ns: int = WINDOW.end_ns, ahead_ns: int = 10 * NS_PER_MINUTE) -> Checked:
    (batch,) = table.combine_chunks().to_batches()
    return check_batch(batch, window=WINDOW, now_ns=now_ns, max_clock_ahead_ns=ahead_ns)


def reason_for(table: pa.Table, **changes: object) -> str:
    """Why row 5 is quarantined after the changes, and that it alone is."""
    for name, value in changes.items():
        table = replace(table, name, ROW, value)
    checked = check(table)
    assert checked.good.num_rows == table.num_rows - 1
    (row,) = checked.bad.to_pylist()
    for name, value in changes.items():
        assert row[name] == value or (value != value and row[name] != row[name])
    reason = row["reason"]
    assert isinstance(reason, str)
    return reason


@pytest.fixture(scope="module")
def full() -> pa.Table:
    """Twenty fully measured transfers of large payloads, all on WAN links."""
    return make_big(20)


def make_big(rows: int) -> pa.Table:
    table = make_transfers(4_000, fully_measured=1.0)
    size = table["data_size_bytes"].to_numpy()
    wan = table["link_type"].to_numpy() == "wan"
    wire = table["actual_transfer_time_ms"].to_numpy()
    table = table.filter(pa.array((size > 1e6) & wan & (wire > 200)))
    assert table.num_rows >= rows
    return table.slice(0, rows)


def test_good_rows_pass_untouched() -> None:
    table = make_transfers(2_000)
    checked = check(table)
    assert checked.bad.num_rows == 0, checked.bad["reason"].to_pylist()[:3]
    assert checked.good.equals(table.combine_chunks().to_batches()[0])
    assert checked.bad.schema.equals(QUARANTINE_SCHEMA)


def test_an_empty_batch_is_split_into_two_empty_ones() -> None:
    empty = pa.RecordBatch.from_pylist([], schema=LOGGED_SCHEMA)
    checked = check_batch(empty, window=WINDOW, now_ns=WINDOW.end_ns, max_clock_ahead_ns=0)
    assert (checked.good.num_rows, checked.bad.num_rows) == (0, 0)
    assert checked.bad.schema.equals(QUARANTINE_SCHEMA)


def test_a_batch_in_another_schema_is_an_error_that_names_the_column() -> None:
    (batch,) = make_transfers(5).drop_columns(["rtt_ms"]).to_batches()
    with pytest.raises(ValueError, match="rtt_ms"):
        check_batch(batch, window=WINDOW, now_ns=WINDOW.end_ns, max_clock_ahead_ns=0)


@pytest.mark.parametrize("column", [c for c in LOGGED if not c.nullable], ids=lambda c: c.name)
def test_every_demanded_column_is_demanded(full: pa.Table, column) -> None:
    assert f"{column.name} is missing: the contract demands a value" in reason_for(full, **{column.name: None})


@pytest.mark.parametrize("column", [c for c in LOGGED if c.kind is Kind.FLOAT], ids=lambda c: c.name)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_float_may_be_nan_or_infinite(full: pa.Table, column, value: float) -> None:
    assert f"{column.name} is not finite: {value}" in reason_for(full, **{column.name: value})


BOUNDED = [c for c in LOGGED if c.minimum is not None and c.maximum is not None]


@pytest.mark.parametrize("column", BOUNDED, ids=lambda c: c.name)
def test_every_range_is_kept_at_both_ends(full: pa.Table, column) -> None:
    whole = column.kind is Kind.INTEGER
    below = int(column.minimum) - 1 if whole else math.nextafter(column.minimum, -math.inf)
    assert f"{column.name} is below the minimum: " in reason_for(full, **{column.name: below})
    if column.maximum < 2**63:
        above = int(column.maximum) + 1 if whole else math.nextafter(column.maximum, math.inf)
        assert f"{column.name} is above the maximum: " in reason_for(full, **{column.name: above})


@pytest.mark.parametrize("column", [c for c in LOGGED if c.values], ids=lambda c: c.name)
def test_unknown_enum_values_name_what_is_known(full: pa.Table, column) -> None:
    reason = reason_for(full, **{column.name: "gz; DROP"})
    assert f"{column.name} is unknown: 'gz, DROP', expected {', '.join(column.values)}" in reason


@pytest.mark.parametrize("column", [c for c in LOGGED if c.kind is Kind.STRING], ids=lambda c: c.name)
def test_texts_have_a_length_and_no_nul(full: pa.Table, column) -> None:
    long = "é" * (column.max_length + 1)
    assert f"{column.name} is too long: {column.max_length + 1} characters" in reason_for(full, **{column.name: long})
    assert f"{column.name} is empty" in reason_for(full, **{column.name: ""})
    assert f"{column.name} holds a NUL" in reason_for(full, **{column.name: "a\0b"})


def test_a_reason_gives_value_unit_and_limit(full: pa.Table) -> None:
    assert "rtt_ms is below the minimum: -3 ms, limit 0 ms" in reason_for(full, rtt_ms=-3.0)


def test_every_reason_is_given(full: pa.Table) -> None:
    reason = reason_for(full, rtt_ms=math.nan, cpu_usage=7.0, link_type="lan", peer_id=None)
    assert [part.split(":")[0] for part in reason.split("; ")] == [
        "link_type is unknown",
        "peer_id is missing",
        "rtt_ms is not finite",
        "cpu_usage is above the maximum",
    ]


def test_times_outside_the_window_and_ahead_of_the_clock() -> None:
    table = make_transfers(10)
    first, last = WINDOW.start_ns, WINDOW.end_ns - 1
    for time_ns, hour in ((first, 0.0), (last, 23.0)):
        inside = replace(replace(table, "timestamp_ns", ROW, time_ns), "served_time_of_day", ROW, hour)
        assert check(inside).bad.num_rows == 0
    for time_ns in (first - 1, last + 1):
        assert "timestamp_ns is outside the window" in reason_for(table, timestamp_ns=time_ns)
    now_ns = table["timestamp_ns"][7].as_py()
    checked = check(table, now_ns=now_ns - 10 * NS_PER_MINUTE)
    assert checked.good.num_rows == 8
    (eighth, ninth) = checked.bad["reason"].to_pylist()
    assert "timestamp_ns is ahead of the clock: 2026-08-03T19:12:00" in eighth
    assert "limit 0.1667 h" in ninth


@pytest.mark.parametrize("text", ["none,hde", "hde,hde", "hde,gzip", "hde, amst", "hde,", ","])
def test_malformed_measured_candidates(full: pa.Table, text: str) -> None:
    assert "measured_candidates is malformed" in reason_for(full, measured_candidates=text)


def test_the_executed_choice_was_measured(full: pa.Table) -> None:
    changes = {"measured_candidates": "amst,none,zstd", "current_compression": "hde"}
    changes |= dict.fromkeys(OUTCOMES["hde"])
    assert "measured_candidates lacks the executed choice: 'hde'" in reason_for(full, **changes)


@pytest.mark.parametrize(("algorithm", "name"), [(a, name) for a in ALGORITHMS for name in OUTCOMES[a]])
def test_outcomes_are_there_if_and_only_if_measured(full: pa.Table, algorithm: str, name: str) -> None:
    assert f"{name} is missing: measured_candidates says that {algorithm} was" in reason_for(full, **{name: None})
    others = ",".join(a for a in ALGORITHMS if a != algorithm)
    executed = next(a for a in ALGORITHMS if a != algorithm)
    unmeasured = {"measured_candidates": others, "current_compression": executed}
    assert f"{name} is unexpected" in reason_for(full, **unmeasured)


def test_a_ratio_that_contradicts_the_sizes(full: pa.Table) -> None:
    ratio = full["hde_compression_ratio"][ROW].as_py()
    assert "hde_compression_ratio contradicts the sizes" in reason_for(full, hde_compression_ratio=ratio * 1.02)
    assert check(replace(full, "hde_compression_ratio", ROW, ratio * 1.005)).bad.num_rows == 0


@pytest.mark.parametrize(
    ("factor", "unit"),
    [(1e3, "kbit/s"), (125.0, "kbyte/s"), (1.25e5, "byte/s"), (1e6, "bit/s"), (1 / 8, "Mbyte/s"), (1e-3, "Gbit/s")],
)
def test_a_bandwidth_in_another_unit_names_the_unit(full: pa.Table, factor: float, unit: str) -> None:
    bandwidth = full["available_bandwidth_mbps"][ROW].as_py() * factor
    served = float(pa.scalar(bandwidth, pa.float32()).as_py())
    near = {"rtt_ms": 1.0, "served_rtt_ms": 1.0}  # latency of a far peer could explain a slow transfer
    reason = reason_for(full, available_bandwidth_mbps=bandwidth, served_bandwidth_mbps=served, **near)
    assert f"which looks like {unit}" in reason, reason


def test_a_bandwidth_beyond_its_link_suspects_kbits_even_without_a_clock_to_compare() -> None:
    table = make_transfers(10)
    table = replace(table, "link_type", ROW, "wan")
    table = replace(table, "served_link_type", ROW, 3.0)
    table = replace(table, "actual_transfer_time_ms", ROW, 0.5)
    reason = reason_for(table, available_bandwidth_mbps=90_000.0, served_bandwidth_mbps=90_000.0)
    assert "90000 Mbit/s on a wan link, limits 0.05 to 40000 Mbit/s, which looks like kbit/s" in reason


def test_a_wire_time_in_seconds_or_microseconds(full: pa.Table) -> None:
    time_ms = full["actual_transfer_time_ms"][ROW].as_py()
    assert "actual_transfer_time_ms is too long" in reason_for(full, actual_transfer_time_ms=time_ms * 1e3)
    assert "actual_transfer_time_ms is too short" in reason_for(full, actual_transfer_time_ms=time_ms / 1e3)


def test_latency_of_a_small_payload_is_no_wrong_unit() -> None:
    table = make_transfers(10)
    for name, value in {"rtt_ms": 60.0, "served_rtt_ms": 60.0, "actual_transfer_time_ms": 300.0}.items():
        table = replace(table, name, ROW, value)
    slow = table["data_size_bytes"][ROW].as_py() / (300.0 * 125)
    assert check(replace(table, "actual_throughput_mbps", ROW, slow)).bad.num_rows == 0


def test_a_throughput_beyond_the_wire_names_the_unit(full: pa.Table) -> None:
    throughput = full["actual_throughput_mbps"][ROW].as_py()
    reason = reason_for(full, actual_throughput_mbps=throughput * 1e3)
    assert "actual_throughput_mbps is impossible" in reason
    assert "looks like kbit/s" in reason


@pytest.mark.parametrize(
    "missing",
    [
        {"confidence": None},
        {"model_version": None},
        {"predicted_compression": None},
        {"confidence": None, "model_version": None},
    ],
)
def test_a_prediction_is_whole_or_absent(full: pa.Table, missing: dict[str, None]) -> None:
    assert "contradicts predicted_compression" in reason_for(full, **missing)


def test_no_prediction_at_all_is_legal(full: pa.Table) -> None:
    for name in ("predicted_compression", "confidence", "model_version"):
        full = replace(full, name, ROW, None)
    assert check(full).bad.num_rows == 0


def test_a_choice_of_the_model_is_its_prediction(full: pa.Table) -> None:
    executed = full["current_compression"][ROW].as_py()
    other = next(a for a in ALGORITHMS[:3] if a != executed)
    reason = reason_for(full, reason_code="model", predicted_compression=other)
    assert f"reason_code contradicts the choice: 'model', but '{other}' was predicted" in reason


def test_features_of_another_definition_are_not_trusted(full: pa.Table) -> None:
    reason = reason_for(full, feature_set_digest="0123456789abcdef")
    assert "feature_set_digest is unknown: '0123456789abcdef'" in reason
    assert FEATURE_SET_DIGEST in reason


@pytest.mark.parametrize("name", ["rtt_ms", "bandwidth_mbps", "link_type", "region", "size_bytes", "time_of_day"])
def test_a_served_feature_is_its_raw_column_or_the_cold_start_default(full: pa.Table, name: str) -> None:
    feature = next(f for f in FEATURES if f.name == name)
    served = full[feature.column][ROW].as_py()
    step = max(1.0, 0.01 * served)
    wrong = served - step if served >= feature.minimum + step else served + step
    assert f"{feature.column} contradicts " in reason_for(full, **{feature.column: wrong})
    assert check(replace(full, feature.column, ROW, feature.default)).bad.num_rows == 0


def test_an_unknown_region_is_served_as_the_unknown_code(full: pa.Table) -> None:
    full = replace(full, "region", ROW, "mars-north")
    assert "served_region contradicts region" in check(full).bad["reason"][0].as_py()
    assert check(replace(full, "served_region", ROW, 0.0)).bad.num_rows == 0


def test_a_unit_is_named_only_if_it_explains_the_difference() -> None:
    assert "kbit/s" in suspected_unit(990.0, 1.0)
    assert suspected_unit(20.0, 1.0) == ""
    assert suspected_unit(1.0, 1.0) == ""


# -- properties --

BASE = make_transfers(12, fully_measured=0.5)
WILD = {
    Kind.FLOAT: st.one_of(st.none(), st.floats(), st.floats(0, 1), st.floats(0, 1e6)),
    Kind.INTEGER: st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1), st.integers(0, 1_000)),
    Kind.STRING: st.one_of(
        st.none(),
        st.text(st.characters(codec="utf-8"), max_size=70),
        st.sampled_from([*ALGORITHMS, "dc", "wan", FULLY_MEASURED, "hde", "amst,none", "model"]),
    ),
}


@st.composite
def mutations(draw: st.DrawFn) -> pa.Table:
    """Valid transfers with up to eight cells replaced by anything that fits the Arrow type."""
    table = BASE
    for _ in range(draw(st.integers(0, 8))):
        column = draw(st.sampled_from(LOGGED))
        table = replace(table, column.name, draw(st.integers(0, table.num_rows - 1)), draw(WILD[column.kind]))
    return table


def legal(row: dict[str, object]) -> bool:
    """A slow reading of the contract, one cell after the other."""
    for column in LOGGED:
        value = row[column.name]
        if value is None:
            if not column.nullable:
                return False
            continue
        if isinstance(value, float) and not math.isfinite(value):
            return False
        if isinstance(value, str):
            if not value or "\0" in value or len(value) > column.max_length:
                return False
            if column.values is not None and value not in column.values:
                return False
        elif not column.minimum <= value <= column.maximum:
            return False
    measured = str(row["measured_candidates"]).split(",")
    if [a for a in ALGORITHMS if a in measured] != measured or row["current_compression"] not in measured:
        return False
    if any((row[name] is not None) != (a in measured) for a in ALGORITHMS for name in OUTCOMES[a]):
        return False
    for prefix in ("hde", "baseline"):
        ratio, size = row[f"{prefix}_compression_ratio"], row[f"{prefix}_compressed_size_bytes"]
        if ratio is not None and abs(ratio * size / row["data_size_bytes"] - 1) > 0.0101:
            return False
    prediction = [row[name] is None for name in ("predicted_compression", "confidence", "model_version")]
    return (
        len(set(prediction)) == 1
        and WINDOW.start_ns <= row["timestamp_ns"] < WINDOW.end_ns
        and row["feature_set_digest"] == FEATURE_SET_DIGEST
    )


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_every_row_is_in_exactly_one_part_and_good_rows_are_legal(table: pa.Table) -> None:
    # The node's own id may be what was replaced: a row is followed by its position.
    table = table.set_column(
        table.schema.get_field_index("rollout_bucket"), LOGGED_SCHEMA.field("rollout_bucket"), [list(range(12))]
    )
    checked = check(table)
    parts = checked.good["rollout_bucket"].to_pylist(), checked.bad["rollout_bucket"].to_pylist()
    assert sorted([*parts[0], *parts[1]]) == list(range(12))
    assert [list(part) for part in parts] == [sorted(part) for part in parts]
    assert all(map(legal, checked.good.to_pylist()))
    before = table.to_pylist()
    for row in checked.bad.to_pylist():
        reason = row.pop("reason")
        assert reason
        assert all(": " in part for part in reason.split("; "))
        assert repr(row) == repr(before[row["rollout_bucket"]])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mutations())
def test_checking_good_rows_again_changes_nothing(table: pa.Table) -> None:
    good = check(table).good
    again = check(pa.Table.from_batches([good])) if good.num_rows else None
    assert again is None or (again.good.equals(good) and again.bad.num_rows == 0)
