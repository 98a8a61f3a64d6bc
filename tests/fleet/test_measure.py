"""The recording: watched, resumable, checked when read."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from dwcp.fleet import measure as module
from dwcp.fleet import quiet
from dwcp.fleet.engines import Base
from dwcp.fleet.library import Profiles, load_library
from dwcp.fleet.measure import BusyMachineError, measure
from dwcp.fleet.payloads import PayloadObject, directory_objects
from dwcp.fleet.quiet import CoreWatch
from dwcp.fleet.timing import Timed, time_amst, time_hde, time_zstd


def noise_objects(count: int) -> list[PayloadObject]:
    def chain(seed: int) -> Iterator[bytes]:
        rng = random.Random(seed)
        for _ in range(2):
            yield rng.randbytes(5_000)

    return [PayloadObject(f"other-{n}", "other", "noise", partial(chain, n)) for n in range(count)]


def test_every_payload_has_two_measurements_and_exact_sizes(profiles: Profiles) -> None:
    assert profiles.table.num_rows == 16 * 4
    for name in ("hde_ms", "amst_1_ms", "amst_8_back_ms", "zstd_back_ms"):
        one, other = profiles.column(f"{name}_a"), profiles.column(f"{name}_b")
        assert (one > 0).all()
        assert (other > 0).all()
        assert (one != other).any()
    assert (profiles.column("amst_8_ms_a") <= profiles.column("amst_1_ms_a") + 1e-9).all()
    assert (profiles.column("amst_1_ms_a") <= profiles.column("amst_cpu_ms_a") + 1e-9).all()
    assert (profiles.column("amst1_bytes") < profiles.column("size_bytes") + 100).all()
    assert (profiles.column("amst1_1_ms") > 0).all()
    assert (profiles.column("hash_ms") > 0).all()
    assert (profiles.column("probe_zstd_share") <= 1).all()
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


def test_two_recordings_at_once_are_refused(tmp_path: Path) -> None:
    def meanwhile() -> Iterator[bytes]:
        with pytest.raises(BusyMachineError, match="under way"):
            measure(tmp_path / "library", noise_objects(1), runs=1, allow_busy=True)
        yield b"payload"

    item = replace(noise_objects(1)[0], versions=meanwhile)
    assert measure(tmp_path / "library", [item], runs=1, allow_busy=True)["payloads"] == 1


def test_a_killed_recording_goes_on(tmp_path: Path) -> None:
    """SIGKILL leaves whole objects or nothing of them, and the next start finishes the library."""
    payloads, library = tmp_path / "payloads", tmp_path / "library"
    for item in noise_objects(24):
        folder = payloads / item.data_type / item.object_id
        folder.mkdir(parents=True)
        for version, payload in enumerate(item.versions()):
            (folder / f"{version}.bin").write_bytes(payload * 20)
    script = (
        "import sys; from pathlib import Path; from dwcp.fleet import measure as m, payloads as p\n"
        "m.WARM_UP_S = m.PATIENCE_S = 0.0\n"
        "m.measure(Path(sys.argv[2]), p.directory_objects(Path(sys.argv[1])), runs=3, allow_busy=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(payloads), str(library)]) as process:
        while not list(tmp_path.glob("library.parts-*/*.parquet")):
            assert process.poll() is None, "the recording ended before it could be killed"
        process.kill()
    manifest = measure(library, directory_objects(payloads), runs=3, allow_busy=True)
    assert 1 <= manifest["resumed_objects"] < 24
    assert manifest["payloads"] == load_library(library)[0].table.num_rows == 24 * 2


def test_a_busy_core_is_refused_or_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = dict.fromkeys(os.sched_getaffinity(0), 0.9)
    monkeypatch.setattr(module, "busy_shares", lambda: shares)
    with pytest.raises(BusyMachineError, match="allow-busy"):
        measure(tmp_path / "library", noise_objects(1), runs=1)
    assert not (tmp_path / "library").exists()
    monkeypatch.setattr(quiet, "BUSY_SHARE", -1.0)
    assert measure(tmp_path / "library", noise_objects(1), runs=1, allow_busy=True)["quiet"]["noisy"] is True


def test_a_recording_runs_on_the_quietest_core_and_leaves_the_process_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.sched_getaffinity(0)
    shares = dict.fromkeys(before, 0.9) | {max(before): 0.01}
    monkeypatch.setattr(module, "busy_shares", lambda: shares)
    seen = []

    def versions() -> Iterator[bytes]:
        seen.append(os.sched_getaffinity(0))
        yield b"payload"

    item = replace(noise_objects(1)[0], versions=versions)
    manifest = measure(tmp_path / "library", [item], runs=1)
    assert manifest["quiet"]["core"] == max(before)
    assert "core alone" in manifest["quiet"]["watched"]
    assert seen == [{max(before)}, {max(before)}]  # the recording, and the sample repeated at its end
    assert os.sched_getaffinity(0) == before
    with pytest.raises(ValueError, match="core 4711 cannot be used"):
        measure(tmp_path / "library", [item], runs=1, core=4711)


def test_bad_objects_are_refused(tmp_path: Path) -> None:
    one = noise_objects(1)[0]
    for objects, match in (
        ([], "at least one"),
        ([one, one], "one name"),
        ([replace(one, versions=lambda: iter([b"x", b""]))], "version 1 of other-0 is empty"),
        ([replace(one, versions=lambda: iter([]))], "no versions"),
    ):
        with pytest.raises(ValueError, match=match):
            measure(tmp_path / "library", objects, runs=1, allow_busy=True)


def test_the_second_set_begins_when_the_first_is_done_for_all_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []

    def watched(work: module._Step) -> module._Step:
        def timed(payload: bytes, base: Base | None, runs: int) -> Timed:
            order.append(payload[:1])
            return work(payload, base, runs)

        return timed

    monkeypatch.setattr(module, "_ENGINES", (watched(time_zstd), time_hde, time_amst))
    monkeypatch.setattr(CoreWatch, "is_slow", lambda *_: False)
    item = replace(noise_objects(1)[0], versions=lambda: iter([b"0" * 50, b"1" * 50, b"2" * 50]))
    module._measure_object(item, 1, CoreWatch(0))
    assert b"".join(order) == b"012012"


def test_a_slow_measurement_gets_one_more_pass_and_the_faster_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a of version 1 and set b of version 0 were slow; the first stays so, the second does not."""
    references = iter([1.0, 1.5, 1.5, 1.0, 1.6, 1.0])
    asked = []

    def moment(work: Callable[[], Timed], *_: object) -> module._Measured:
        asked.append(work)
        return module._Measured(work(), next(references))

    monkeypatch.setattr(module, "_in_a_fast_moment", moment)
    watch = CoreWatch(0, best_ms=1.0)
    monkeypatch.setattr(watch, "spin", lambda: None)
    item = replace(noise_objects(1)[0], versions=lambda: iter([b"0" * 50, b"1" * 50]))
    table = module._measure_object(item, 1, watch)
    assert len(asked) == 6
    assert table["reference_ratio"].to_pylist() == [1.0, 1.5]


def test_each_engine_of_a_large_payload_waits_for_its_own_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def moment(work: Callable[[], Timed], *_: object) -> module._Measured:
        steps.append(work)
        return module._Measured(work(), 1.0)

    monkeypatch.setattr(module, "_in_a_fast_moment", moment)
    item = replace(noise_objects(1)[0], versions=lambda: iter([bytes(module._LARGE_BYTES)]))
    watch = CoreWatch(0, best_ms=1.0)
    monkeypatch.setattr(watch, "spin", lambda: None)
    module._measure_object(item, 1, watch)
    assert len(steps) == len(module._ONCE) + 2 * len(module._ENGINES)


def watch_with(monkeypatch: pytest.MonkeyPatch, looks: list[float]) -> CoreWatch:
    """A watch of best 1 ms whose looks are given."""
    watch, given = CoreWatch(0, best_ms=1.0), iter(looks)
    monkeypatch.setattr(watch, "look", lambda: next(given))
    return watch


def test_a_measurement_waits_for_a_fast_moment_and_is_taken_again_if_it_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 30.0)
    times = iter([3.0, 1.0, 2.0])
    # Slow, then fast; after the first try slow again; then fast, and fast at its end.
    watch = watch_with(monkeypatch, [1.4, 1.0, 1.3, 1.0, 1.05])
    found = module._in_a_fast_moment(lambda: Timed({"zstd_ms": next(times)}, {}), watch, 30.0)
    assert found == module._Measured(Timed({"zstd_ms": 1.0}, {}), 1.05)
    assert next(times) == 2.0, "no third try"


@pytest.mark.parametrize("exhausted", ["object", "recording"])
def test_patience_ends(monkeypatch: pytest.MonkeyPatch, exhausted: str) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", 30.0)
    watch = watch_with(monkeypatch, [1.4, 1.5])
    if exhausted == "recording":
        watch.waited_s = 1_000.0
    found = module._in_a_fast_moment(lambda: Timed({}, {}), watch, 0.0 if exhausted == "object" else 30.0)
    assert found.reference_ms == 1.5


def test_the_ceiling_is_told_for_fewer_runs(tmp_path: Path) -> None:
    manifest = measure(tmp_path / "library", noise_objects(2), runs=3, allow_busy=True)
    ceilings = manifest["repeatability"]["by_runs"]
    assert list(ceilings) == ["1", "3"]
    assert all(0 <= one["label_agreement"] <= 1 for one in ceilings.values())
    assert manifest["repeatability"]["near_ties"].keys() == {"within_1%", "within_5%"}


def test_slow_payloads_are_counted_against_the_best_speed_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object measured before the core first showed its best speed is slow all the same."""
    speeds = {"other-0": 3.0, "other-1": 2.0, "other-2": 2.1}

    def table(item: PayloadObject, runs: int, watch: CoreWatch) -> pa.Table:
        made = real(item, runs, watch)
        place = made.schema.get_field_index("reference_ratio")
        return made.set_column(place, made.schema.field(place), pa.array([speeds[item.object_id]] * 2, pa.float32()))

    real = module._measure_object
    monkeypatch.setattr(module, "_measure_object", table)
    monkeypatch.setattr(CoreWatch, "look", lambda _: 9.0)
    manifest = measure(tmp_path / "library", noise_objects(3), runs=1, allow_busy=True)
    assert manifest["quiet"]["slow_payloads"] == 2
    assert manifest["quiet"]["noisy"] is True
    ratios = load_library(tmp_path / "library")[0].column("reference_ratio")
    assert ratios.tolist() == pytest.approx([1.5, 1.5, 1.0, 1.0, 1.05, 1.05])
