"""Times follow the work, and no engine may lose a byte unseen."""

from __future__ import annotations

import numpy as np
import pytest

from dwcp.fleet import engines
from dwcp.fleet.engines import Base
from dwcp.fleet.library import LIBRARY_SCHEMA, LOOKS, TIMES
from dwcp.fleet.timing import join, look_before, time_amst, time_amst1, time_hde, time_zstd

PAYLOAD = np.random.default_rng(0).integers(0, 20, 400_000, np.uint8).tobytes()


@pytest.mark.parametrize(
    ("engine", "time_it"), [("zstd", time_zstd), ("hde", time_hde), ("amst", time_amst), ("amst1", time_amst1)]
)
def test_an_engine_that_loses_bytes_stops_the_recording(
    engine: str, time_it: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "amst" if engine == "amst1" else engine
    other = engines.AmstResult(b"other", (1, 1)) if name == "amst" else b"other"
    monkeypatch.setattr(engines, f"{name}_decompress", lambda *_, **__: other)
    with pytest.raises(engines.EngineError, match=f"{engine} did not give back"):
        time_it(b"payload" * 100, None, 1)  # type: ignore[operator]


def test_times_follow_the_work() -> None:
    small, large = time_zstd(PAYLOAD[:40_000], None, 3), time_zstd(PAYLOAD, None, 3)
    assert min(large.runs["zstd_ms"]) > 3 * min(small.runs["zstd_ms"])
    same, other = time_hde(PAYLOAD, Base.of(PAYLOAD), 3), time_hde(PAYLOAD, None, 3)
    assert min(same.runs["hde_ms"]) < min(other.runs["hde_ms"]) / 3
    assert same.facts["hde_bytes"] < 100


@pytest.mark.parametrize("size", [100, 5_000, 400_000])
def test_every_run_is_kept_and_every_column_filled(size: int) -> None:
    payload, base = PAYLOAD[:size], Base.of(PAYLOAD[: size // 2])
    timed = join([step(payload, base, 4) for step in (look_before, time_zstd, time_hde, time_amst, time_amst1)])
    assert set(timed.runs) == set(TIMES)
    assert {len(times) for times in timed.runs.values()} == {4}
    assert all(min(times) > 0 for times in timed.runs.values())
    assert set(LOOKS) <= set(timed.facts)
    described = {"object_id", "data_type", "kind", "version", "size_bytes", "payload_digest", "reference_ratio"}
    assert described | set(timed.facts) | {f"{n}_{s}" for n in TIMES for s in "ab"} == set(LIBRARY_SCHEMA.names)


def test_a_look_before_is_exact_about_zeros_and_hashes_everything() -> None:
    payload = bytes(8_192) + PAYLOAD[:24_576]
    facts = look_before(payload, Base.of(payload[8_192:]), 5).facts
    assert facts["zero_share"] == 0.25
    assert facts["delta_potential"] == 0.75
    assert facts["hash_ms"] < look_before(payload * 40, None, 5).facts["hash_ms"] / 10
