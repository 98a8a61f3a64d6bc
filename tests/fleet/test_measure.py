"""The recording: watched, resumable, checked when read."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dwcp.features.probe import probe
from dwcp.fleet import measure as module
from dwcp.fleet.engines import Base
from dwcp.fleet.library import RECORDED, LibraryError, Profiles, label_repeatability, load_library
from dwcp.fleet.measure import BusyMachineError, measure, measure_payload
from dwcp.fleet.payloads import PayloadObject


def noise_objects(count: int) -> list[PayloadObject]:
    def chain(seed: int) -> Iterator[bytes]:
        rng = random.Random(seed)
        for _ in range(2):
            yield rng.randbytes(5_000)

    return [PayloadObject(f"other-{n}", "other", "noise", lambda n=n: chain(n)) for n in range(count)]


def test_every_payload_has_two_measurements_and_exact_sizes(profiles: Profiles) -> None:
    assert profiles.table.num_rows == 16 * 4
    for name in ("hde_ms", "amst_1_ms", "amst_8_back_ms", "zstd_back_ms"):
        one, other = profiles.column(f"{name}_a"), profiles.column(f"{name}_b")
        assert (one > 0).all()
        assert (other > 0).all()
        assert (one != other).any()
    assert (profiles.column("amst_8_ms_a") <= profiles.column("amst_1_ms_a") + 1e-9).all()
    assert (profiles.column("amst_1_ms_a") <= profiles.column("amst_cpu_ms_a") + 1e-9).all()
    first = profiles.column("version") == 0
    assert (profiles.column("hde_hit_rate")[first] == 0).all()
    assert (profiles.column("delta_potential")[first] == 0).all()
    assert profiles.column("hde_hit_rate")[~first].max() > 0.5


def test_an_interrupted_recording_goes_on_where_it_stopped(tmp_path: Path) -> None:
    objects = noise_objects(4)
    asked: list[str] = []

    def watched(item: PayloadObject) -> PayloadObject:
        def versions() -> Iterator[bytes]:
            asked.append(item.object_id)
            yield from item.versions()

        return replace(item, versions=versions)

    def killed() -> Iterator[bytes]:
        yield b"first version"
        raise KeyboardInterrupt

    broken = [watched(objects[0]), watched(objects[1]), replace(objects[2], versions=killed), objects[3]]
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "library", broken, runs=1, allow_busy=True)
    assert asked == ["other-0", "other-1"]
    asked.clear()
    manifest = measure(tmp_path / "library", [watched(item) for item in objects], runs=1, allow_busy=True)
    assert asked[:2] == ["other-2", "other-3"], "finished objects were measured again"
    assert manifest["resumed_objects"] == 2
    library, _ = load_library(tmp_path / "library")
    assert library.table.num_rows == 8
    assert [path.name for path in tmp_path.iterdir()] == ["library"], "parts were left behind"


def test_other_settings_start_anew(tmp_path: Path) -> None:
    def killed() -> Iterator[bytes]:
        raise KeyboardInterrupt
        yield b""

    objects = noise_objects(2)
    with pytest.raises(KeyboardInterrupt):
        measure(tmp_path / "library", [objects[0], replace(objects[1], versions=killed)], runs=1, allow_busy=True)
    assert measure(tmp_path / "library", objects, runs=2, allow_busy=True)["resumed_objects"] == 0


def test_a_busy_machine_is_refused_or_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "others_cpu", lambda: 1.5)
    with pytest.raises(BusyMachineError, match="allow-busy"):
        measure(tmp_path / "library", noise_objects(1), runs=1)
    assert not (tmp_path / "library").exists()
    monkeypatch.setattr(module, "_BUSY_CPUS", -1.0)
    assert measure(tmp_path / "library", noise_objects(1), runs=1, allow_busy=True)["quiet"]["noisy"] is True


def test_two_recordings_at_once_are_refused(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[bytes]:
        with pytest.raises(BusyMachineError, match="under way"):
            measure(tmp_path / "library", noise_objects(1), runs=1, allow_busy=True)
        yield b"payload"

    item = replace(noise_objects(1)[0], versions=meanwhile)
    assert measure(tmp_path / "library", [item], runs=1, allow_busy=True)["payloads"] == 1


def test_an_engine_that_loses_bytes_stops_the_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.engines, "zstd_decompress", lambda data: b"other")
    with pytest.raises(module.engines.EngineError, match="zstd"):
        measure_payload(b"payload" * 100, None, 1)


def test_measured_times_follow_the_work() -> None:
    rng = np.random.default_rng(0)
    payload = rng.integers(0, 20, 400_000, np.uint8).tobytes()
    small, large = measure_payload(payload[:40_000], None, 3), measure_payload(payload, None, 3)
    assert large["zstd_ms"] > 3 * small["zstd_ms"]
    same = measure_payload(payload, Base.of(payload), 3)
    assert same["hde_ms"] < large["hde_ms"] / 3
    assert same["hde_bytes"] < 100


def test_repeatability_of_a_library_with_itself_is_perfect(profiles: Profiles) -> None:
    same = label_repeatability(profiles, "a", profiles, "a")
    assert (same["label_agreement"], same["mean_regret"], same["time_ratio_p95_difference"]) == (1, 0, 0)
    assert 0.5 < label_repeatability(profiles, "a", profiles, "b")["label_agreement"] <= 1


def test_a_changed_or_foreign_library_is_refused(tmp_path: Path, library_directory: Path) -> None:
    with pytest.raises(LibraryError, match="no library"):
        load_library(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(library_directory, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"codecs": {"libzstd": "1.4.0"}}))
    with pytest.raises(LibraryError, match=r"1\.4\.0"):
        load_library(copy)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    data = bytearray((copy / "profiles.parquet").read_bytes())
    data[100] ^= 1
    (copy / "profiles.parquet").write_bytes(data)
    with pytest.raises(LibraryError, match="changed"):
        load_library(copy)


def test_the_recorded_library_is_sound() -> None:
    library, manifest = load_library(RECORDED)
    assert manifest["payloads"] == library.table.num_rows
    assert (RECORDED / "profiles.parquet").stat().st_size < 6_000_000
    assert len(set(library.table["data_type"].to_pylist())) == 8


def test_a_probe_sees_noise_text_and_known_blocks() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes()
    seen = probe(noise, ())
    assert seen.entropy > 0.99
    assert seen.compressibility_score == 0
    assert seen.delta_potential == 0
    base = Base.of(noise[: 1 << 19])
    assert probe(noise, frozenset(base.hashes)).delta_potential == pytest.approx(0.5, abs=0.02)
    zero = probe(bytes(10_000), ())
    assert zero.entropy == 0
    assert zero.compressibility_score > 0.9
    with pytest.raises(ValueError, match="empty"):
        probe(b"", ())


def test_a_measurement_waits_for_a_fast_moment_and_is_taken_again_if_it_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 30.0)
    times = iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(module, "measure_payload", lambda *_: {"zstd_ms": next(times), "zstd_bytes": 7})
    watch = module._Watch()
    # settle: slow, then fast; after the first try slow again; then settle fast, end fast.
    looks = iter([1.4, 1.0, 1.3, 1.0, 1.0])
    monkeypatch.setattr(watch, "look", lambda: next(looks))
    found, speed = module._in_a_fast_moment(b"x", None, 1, watch)
    assert (found, speed) == ({"zstd_ms": 1.0, "zstd_bytes": 7}, 1.0)
    assert next(times) == 2.0, "no third try"


def test_a_machine_that_stays_slow_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = module._Watch()
    monkeypatch.setattr(watch, "look", lambda: 1.4)
    _, speed = module._in_a_fast_moment(b"x" * 100, None, 1, watch)
    watch.payload_ratios.append(speed)
    assert speed == 1.4
    assert watch.report()["noisy"]
    assert watch.report()["slow_share"] == 1.0
