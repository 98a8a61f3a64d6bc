"""The library's file and what is computed from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dwcp.fleet.library import (
    LIBRARY_SCHEMA,
    RECORDED,
    RUNS_SCHEMA,
    LibraryError,
    Profiles,
    label_repeatability,
    least_of_runs,
    load_library,
    near_ties,
    repeatability_by_runs,
    table_bytes,
)


@pytest.fixture
def copy(tmp_path: Path, library_directory: Path) -> Path:
    return Path(shutil.copytree(library_directory, tmp_path / "copy"))


def rewrite(copy: Path, **changes: Any) -> None:
    path = copy / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))


def test_a_missing_library_says_how_to_record_one(tmp_path: Path) -> None:
    with pytest.raises(LibraryError, match=r"no library.*dwcp fleet measure"):
        load_library(tmp_path / "nowhere")


def test_other_codecs_are_refused(copy: Path) -> None:
    rewrite(copy, codecs={"libzstd": "1.4.0"})
    with pytest.raises(LibraryError, match=r"1\.4\.0"):
        load_library(copy)


@pytest.mark.parametrize("version", [None, 1, 99])
def test_another_format_is_refused(copy: Path, version: int | None) -> None:
    rewrite(copy, format=version)
    with pytest.raises(LibraryError, match=f"of format {version or 1}, but format 2 is read here: record again"):
        load_library(copy)


def test_changed_bytes_are_refused(copy: Path) -> None:
    data = bytearray((copy / "profiles.parquet").read_bytes())
    data[100] ^= 1
    (copy / "profiles.parquet").write_bytes(data)
    with pytest.raises(LibraryError, match="changed"):
        load_library(copy)


def test_the_recorded_library_is_sound() -> None:
    library, manifest = load_library(RECORDED)
    assert manifest["payloads"] == library.table.num_rows
    assert library.table.schema.equals(LIBRARY_SCHEMA)
    assert (RECORDED / "profiles.parquet").stat().st_size < 10_000_000
    assert len(set(library.table["data_type"].to_pylist())) == 8
    for name in ("hde_ms_a", "amst_8_back_ms_b", "zstd_ms_b", "probe_time_ms", "hash_ms", "amst1_4_ms"):
        assert (library.column(name) > 0).all(), name
    for name in ("zero_share", "entropy", "probe_zstd_share", "delta_potential"):
        assert ((library.column(name) >= 0) & (library.column(name) <= 1)).all(), name


def test_the_table_stays_small(profiles: Profiles) -> None:
    """10 MB for 9,000 payloads is 1.1 kB each; figures that differ in every row compress the least."""
    rng = np.random.default_rng(0)
    rows = 2_000
    columns = [
        pa.array(rng.lognormal(size=rows), pa.float64()).cast(field.type, safe=False)
        if pa.types.is_floating(field.type)
        else pa.array(rng.integers(0, 1 << 26, rows), pa.int64())
        if field.type == pa.int64()
        else pa.array([rng.bytes(16).hex() for _ in range(rows)])
        for field in LIBRARY_SCHEMA
    ]
    assert len(table_bytes(pa.table(columns, schema=LIBRARY_SCHEMA))) / rows < 500


def test_figures_are_kept_in_four_bytes_and_computed_with_in_eight(profiles: Profiles) -> None:
    assert profiles.table["hde_ms_a"].type == pa.float32()
    assert profiles.column("hde_ms_a").dtype == np.float64


def test_repeatability_of_a_library_with_itself_is_perfect(profiles: Profiles) -> None:
    same = label_repeatability(profiles, "a", profiles, "a")
    assert (same["label_agreement"], same["mean_regret"], same["time_ratio_p95_difference"]) == (1, 0, 0)
    assert 0.5 < label_repeatability(profiles, "a", profiles, "b")["label_agreement"] <= 1


def recorded(profiles: Profiles, hde_runs: list[float]) -> pa.Table:
    """The library's rows as if measured in several runs: set a alike in all, set b's HDE so many times longer."""
    columns = []
    for field in RUNS_SCHEMA:
        column = profiles.table[field.name].combine_chunks()
        if pa.types.is_list(field.type):
            factors = hde_runs if field.name == "hde_ms_b" else [1.0] * len(hde_runs)
            times = profiles.column(f"{field.name[:-2]}_a")
            column = pa.array([[time * factor for factor in factors] for time in times], field.type)
        columns.append(column)
    return pa.table(columns, schema=RUNS_SCHEMA)


def test_the_ceiling_rises_with_the_runs_where_the_first_are_disturbed(profiles: Profiles) -> None:
    table = recorded(profiles, [1_000.0, 50.0, 3.0, 1.0, 1.2])
    ceilings = repeatability_by_runs(table, 5)
    assert list(ceilings) == ["1", "3", "5"]
    agreement = [ceilings[count]["label_agreement"] for count in ceilings]
    assert agreement[0] < agreement[1] < agreement[2] == 1
    regret = [ceilings[count]["mean_regret"] for count in ceilings]
    assert regret[0] >= regret[1] > regret[2] == 0
    assert list(repeatability_by_runs(table, 4)) == ["1", "3"], "five runs were not recorded"
    least = least_of_runs(table)
    assert least.schema.equals(LIBRARY_SCHEMA)
    assert least["hde_ms_b"].to_numpy() == pytest.approx(profiles.column("hde_ms_a"), rel=1e-6)


def test_near_ties_are_counted_over_payloads_and_links(profiles: Profiles) -> None:
    found = near_ties(profiles)
    gaps = []
    for mbps in (10_000.0, 1_000.0, 100.0):
        for row in profiles.costs("a", mbps, 4):
            best, second = sorted(row)[:2]
            gaps.append(second / best - 1)
    assert found["within_1%"] == pytest.approx(sum(gap <= 0.01 for gap in gaps) / len(gaps), abs=1e-5)
    assert found["within_1%"] <= found["within_5%"] < 1
