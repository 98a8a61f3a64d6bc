"""What must hold between the columns of one row, whatever each cell says alone.

Every truth names its column, value and limit, and where a unit is the likely culprit, the unit suspected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dwcp.contract import (
    ALGORITHMS,
    BY_NAME,
    FEATURE_SET_DIGEST,
    FEATURES,
    OUTCOMES,
    PLAUSIBLE_BANDWIDTH_MBPS,
    Feature,
)
from dwcp.quality.rows import Finding, Mask, Rows, as_mask
from dwcp.units import throughput_mbps, transfer_time_ms
from dwcp.window import Window

RATIO_TOLERANCE = 0.01
"""Relative error allowed between size, compressed size and ratio: nodes may round the ratio they log."""
SERVED_TOLERANCE = 1e-6
"""Relative error allowed between a feature as served, a float32, and its raw column."""
WIRE_FASTER = 4.0
"""How much faster than its stated bandwidth a link may have been: bursts and stale estimates, but no factor of 8."""
WIRE_SLOWER = 100.0
"""How much slower than its stated bandwidth a link may have been, beside latency: congestion, but no factor of 125."""
WIRE_SLACK_MS = 1.0
"""Clock resolution: differences below it say nothing about a rate."""
LATENCY_ROUND_TRIPS = 20.0
"""Round trips that a short transfer may spend in handshakes and slow start before bandwidth matters."""
MEASURABLE_SUBSETS = tuple(
    ",".join(subset) for size in range(1, len(ALGORITHMS) + 1) for subset in combinations(ALGORITHMS, size)
)
"""Every legal value of ``measured_candidates``: not empty, without repetition, in contract order."""
RATIO_COLUMNS = {
    name: name.replace("_compression_ratio", "_compressed_size_bytes")
    for names in OUTCOMES.values()
    for name in names
    if name.endswith("_compression_ratio")
}
"""Each logged ratio and the compressed size that it is the ratio to."""
SIZE_COLUMNS = {
    algorithm: next((name for name in names if name.endswith("_compressed_size_bytes")), "data_size_bytes")
    for algorithm, names in OUTCOMES.items()
}
"""Where the bytes are that an algorithm puts on the wire; no compression sends the payload itself."""
SERVED_FROM = {
    feature.name: column
    for feature in FEATURES
    if (
        column := {
            "bandwidth_mbps": "available_bandwidth_mbps",
            "size_bytes": "data_size_bytes",
            "memory_available": "memory_available_mb",
            "time_of_day": "timestamp_ns",
            "known_share": "hde_delta_hit_rate",
        }.get(feature.name, feature.name)
    )
    in BY_NAME
}
"""Served features that are one raw column's quantity, and that column."""
NS_PER_HOUR = 3_600_000_000_000
_SUSPECTS = {
    1e-3: "Gbit/s",
    1 / 8: "Mbyte/s",
    125.0: "kbyte/s",
    1e3: "kbit/s",
    1.25e5: "byte/s",
    1e6: "bit/s",
}
"""Units that a bandwidth column is wrongly logged in, by the factor that they add to its value in Mbit/s."""


def truths(rows: Rows, window: Window, now_ns: int, max_clock_ahead_ns: int) -> Iterator[Finding]:
    """Every broken truth of a batch whose columns were checked one by one before."""
    checks = (
        _time(rows, window, now_ns, max_clock_ahead_ns),
        _measurements(rows),
        _ratios(rows),
        _bandwidth(rows),
        _throughput(rows),
        _decision(rows),
        _served(rows),
    )
    for check in checks:
        yield from (finding for finding in check if finding.broken.any())


def suspected_unit(stated_mbps: float, likely_mbps: float) -> str:
    """A remark on the unit that explains why ``stated_mbps`` is not ``likely_mbps``, or an empty text.

    A unit is named if its factor explains the difference to within a factor of 2.
    """
    factor = stated_mbps / likely_mbps
    nearest = min(_SUSPECTS, key=lambda known: abs(math.log(factor / known)))
    return f", which looks like {_SUSPECTS[nearest]}" if 0.5 < factor / nearest < 2.0 else ""


def _time(rows: Rows, window: Window, now_ns: int, max_clock_ahead_ns: int) -> Iterator[Finding]:
    name, time_ns = "timestamp_ns", rows.numbers("timestamp_ns")
    sound = rows.sound(name)
    latest = now_ns + max_clock_ahead_ns
    yield Finding(
        sound & (time_ns > latest),
        lambda row: (
            f"{name} is ahead of the clock: {_utc(time_ns[row])} is {_hours(time_ns[row] - now_ns)} after the read, "
            f"limit {_hours(max_clock_ahead_ns)}"
        ),
    )
    yield Finding(
        sound & ((time_ns < window.start_ns) | (time_ns >= window.end_ns)),
        lambda row: (
            f"{name} is outside the window: {_utc(time_ns[row])}, "
            f"window {window.start.isoformat()} to {window.end.isoformat()}"
        ),
    )


def _measurements(rows: Rows) -> Iterator[Finding]:
    name = "measured_candidates"
    # Few distinct texts: judge each once, then look the verdicts up by row.
    codes = rows.array(name).dictionary_encode()
    of_row = pc.fill_null(codes.indices, len(codes.dictionary)).to_numpy(zero_copy_only=False)
    texts = codes.dictionary.to_pylist()
    formed = np.array([*(text in MEASURABLE_SUBSETS for text in texts), False])[of_row]
    sound = rows.sound(name)
    yield Finding(
        sound & ~formed,
        lambda row: (
            f"{name} is malformed: {rows.show(name, row)}, expected a subset of {','.join(ALGORITHMS)} in that order"
        ),
    )
    for algorithm in ALGORITHMS:
        measured = np.array([*(algorithm in text.split(",") for text in texts), False])[of_row]
        executed = rows.equals("current_compression", algorithm)
        yield Finding(
            sound & formed & executed & ~measured,
            lambda row: (
                f"{name} lacks the executed choice: {rows.show('current_compression', row)} is not in "
                f"{rows.show(name, row)}"
            ),
        )
        for outcome in OUTCOMES[algorithm]:
            yield from _outcome(rows, algorithm, outcome, sound & formed, measured)


def _outcome(rows: Rows, algorithm: str, name: str, judged: Mask, measured: Mask) -> Iterator[Finding]:
    present = rows.present(name)
    yield Finding(
        judged & measured & ~present,
        lambda _: f"{name} is missing: measured_candidates says that {algorithm} was measured",
    )
    yield Finding(
        judged & ~measured & present,
        lambda row: (
            f"{name} is unexpected: {rows.show(name, row)}, but measured_candidates says that {algorithm} was not "
            "measured"
        ),
    )


def _ratios(rows: Rows) -> Iterator[Finding]:
    size = rows.numbers("data_size_bytes").astype(np.float64)
    for ratio_name, compressed_name in RATIO_COLUMNS.items():
        sound = rows.sound("data_size_bytes", ratio_name, compressed_name)
        ratio, compressed = rows.numbers(ratio_name), rows.numbers(compressed_name)
        wrong = sound & (np.abs(ratio * compressed - size) > RATIO_TOLERANCE * size)

        def explain(row: int, ratio_name: str = ratio_name, compressed_name: str = compressed_name) -> str:
            return (
                f"{ratio_name} contradicts the sizes: {rows.show(ratio_name, row)}, but "
                f"{rows.show('data_size_bytes', row)} / {compressed_name} {rows.show(compressed_name, row)} = "
                f"{size[row] / rows.numbers(compressed_name)[row]:.6g}, limit ±{RATIO_TOLERANCE:.0%}"
            )

        yield Finding(wrong, explain)


def _bandwidth(rows: Rows) -> Iterator[Finding]:
    name = "available_bandwidth_mbps"
    bandwidth = rows.numbers(name)
    # Judged beyond the column's own range too: that is where a wrong unit lands, and only here it is named.
    judged = rows.present(name) & np.isfinite(bandwidth) & (bandwidth > 0) & rows.sound("link_type")
    sent, sent_known = _sent_bytes(rows)
    wire_ms = rows.numbers("actual_transfer_time_ms")
    timed = sent_known & (wire_ms > WIRE_SLACK_MS)
    plausible = np.zeros(len(bandwidth), dtype=np.bool_)
    for link_type, (low, high) in PLAUSIBLE_BANDWIDTH_MBPS.items():
        link = judged & rows.equals("link_type", link_type)
        within = (bandwidth >= low) & (bandwidth <= high)
        plausible |= link & within

        def explain(row: int, link_type: str = link_type, low: float = low, high: float = high) -> str:
            stated = float(bandwidth[row])
            likely = float(throughput_mbps(sent[row], wire_ms[row])) if timed[row] else None
            if likely is not None:
                hint = suspected_unit(stated, likely)
            else:
                hint = suspected_unit(stated, stated / 1e3) if low <= stated / 1e3 <= high else ""
            return (
                f"{name} is implausible: {rows.show(name, row)} on a {link_type} link, "
                f"limits {low:g} to {high:g} Mbit/s{hint}"
            )

        yield Finding(link & ~within, explain)
    yield from _wire(rows, sent, sent_known & plausible)


def _wire(rows: Rows, sent: NDArray[np.float64], judged: Mask) -> Iterator[Finding]:
    """The oracle costs a transfer by size, bandwidth and loss: far from what happened, its label would be noise."""
    name = "actual_transfer_time_ms"
    judged = judged & rows.sound("available_bandwidth_mbps", "packet_loss_rate", "rtt_ms", name)
    wire_ms, rtt_ms = rows.numbers(name), rows.numbers("rtt_ms")
    bandwidth = rows.numbers("available_bandwidth_mbps") * (1 - rows.numbers("packet_loss_rate"))
    expected_ms = transfer_time_ms(sent, np.where(judged, bandwidth, 1.0))
    latency_ms = LATENCY_ROUND_TRIPS * rtt_ms + WIRE_SLACK_MS
    for words, broken, limit in (
        ("is too short", (wire_ms + WIRE_SLACK_MS) * WIRE_FASTER < expected_ms, f"{WIRE_FASTER:g} times faster"),
        ("is too long", wire_ms > expected_ms * WIRE_SLOWER + latency_ms, f"{WIRE_SLOWER:g} times slower"),
    ):

        def explain(row: int, words: str = words, limit: str = limit) -> str:
            seen = max(wire_ms[row], WIRE_SLACK_MS)
            likely = float(throughput_mbps(sent[row], seen))
            return (
                f"{name} {words}: {rows.show(name, row)} for {sent[row]:.0f} byte, where available_bandwidth_mbps "
                f"{rows.show('available_bandwidth_mbps', row)} gives {expected_ms[row]:.6g} ms, limit {limit}"
                f"{suspected_unit(float(bandwidth[row]), likely)}"
            )

        yield Finding(judged & broken, explain)


def _sent_bytes(rows: Rows) -> tuple[NDArray[np.float64], Mask]:
    """Bytes that the executed choice put on the wire, and where they are known together with the time they took."""
    sent = np.zeros(rows.batch.num_rows, dtype=np.float64)
    known = np.zeros(rows.batch.num_rows, dtype=np.bool_)
    for algorithm, name in SIZE_COLUMNS.items():
        executed = rows.equals("current_compression", algorithm) & rows.sound(name)
        sent[executed] = rows.numbers(name)[executed]
        known |= executed & rows.present(name)
    return sent, known & rows.sound("actual_transfer_time_ms")


def _throughput(rows: Rows) -> Iterator[Finding]:
    """A transfer takes at least its time on the wire, so its throughput is at most the payload over that time."""
    name = "actual_throughput_mbps"
    wire_ms = rows.numbers("actual_transfer_time_ms")
    judged = rows.sound(name, "actual_transfer_time_ms", "data_size_bytes") & (wire_ms > WIRE_SLACK_MS)
    size = rows.numbers("data_size_bytes").astype(np.float64)
    most = throughput_mbps(size, np.where(judged, wire_ms, 1.0))
    stated = rows.numbers(name)
    yield Finding(
        judged & (stated > most * (1 + RATIO_TOLERANCE)),
        lambda row: (
            f"{name} is impossible: {rows.show(name, row)}, but {rows.show('data_size_bytes', row)} in "
            f"actual_transfer_time_ms {rows.show('actual_transfer_time_ms', row)} give at most {most[row]:.6g} Mbit/s"
            f"{suspected_unit(float(stated[row]), float(most[row]))}"
        ),
    )


def _decision(rows: Rows) -> Iterator[Finding]:
    yield from _together(rows, "confidence", "predicted_compression")
    yield from _together(rows, "model_version", "predicted_compression")
    by_model = rows.equals("reason_code", "model") & rows.sound("current_compression", "predicted_compression")
    agree = as_mask(pc.equal(rows.array("predicted_compression"), rows.array("current_compression")))
    yield Finding(
        by_model & ~agree,
        lambda row: (
            f"reason_code contradicts the choice: 'model', but {rows.show('predicted_compression', row)} was predicted "
            f"and {rows.show('current_compression', row)} executed"
        ),
    )
    yield Finding(
        rows.sound("feature_set_digest") & ~rows.equals("feature_set_digest", FEATURE_SET_DIGEST),
        lambda row: (
            f"feature_set_digest is unknown: {rows.show('feature_set_digest', row)}, expected {FEATURE_SET_DIGEST!r}, "
            "so the served features follow another definition"
        ),
    )


def _together(rows: Rows, name: str, other: str) -> Iterator[Finding]:
    yield Finding(
        rows.present(name) != rows.present(other),
        lambda row: (
            f"{name} contradicts {other}: {rows.show(name, row)} beside {rows.show(other, row)}, "
            "expected both or neither"
        ),
    )


def _served(rows: Rows) -> Iterator[Finding]:
    """A feature as served is its raw column, as float32, or the default that a node serves at cold start."""
    known = rows.equals("feature_set_digest", FEATURE_SET_DIGEST)
    for feature in FEATURES:
        raw_name = SERVED_FROM.get(feature.name)
        if raw_name is None:
            continue
        served = rows.numbers(feature.column)
        expected = _expected(rows, feature, raw_name)
        far = np.abs(served - expected) > SERVED_TOLERANCE * np.maximum(1.0, np.abs(expected))
        judged = known & rows.sound(feature.column, raw_name)

        def explain(
            row: int, feature: Feature = feature, raw_name: str = raw_name, expected: NDArray[np.float64] = expected
        ) -> str:
            return (
                f"{feature.column} contradicts {raw_name}: {rows.show(feature.column, row)} was served, but "
                f"{rows.show(raw_name, row)} means {float(expected[row]):.6g}"
            )

        yield Finding(judged & far & (served != np.float32(feature.default)), explain)


def _expected(rows: Rows, feature: Feature, raw_name: str) -> NDArray[np.float64]:
    if feature.name == "time_of_day":
        return ((rows.numbers(raw_name) // NS_PER_HOUR) % 24).astype(np.float64)
    if feature.codes is not None:
        position = pc.index_in(rows.array(raw_name), value_set=pa.array(feature.codes, pa.string()))
        codes: NDArray[np.float64] = pc.fill_null(position, -1).to_numpy(zero_copy_only=False) + 1.0
        return codes
    return rows.numbers(raw_name).astype(np.float64)


def _utc(time_ns: int) -> str:
    return f"{np.datetime64(int(time_ns), 'ns')}Z"


def _hours(span_ns: int) -> str:
    return f"{float(span_ns) / NS_PER_HOUR:.4g} h"
