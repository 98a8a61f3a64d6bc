"""From library to archive, InfluxDB and back, and a bundle that decides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from dwcp.contract import ALGORITHMS, CANDIDATES
from dwcp.decision import decide
from dwcp.export.runtime import ModelError, OnnxModel
from dwcp.features.recompute import recompute_features, served_features
from dwcp.fleet.cli import app
from dwcp.fleet.known import rollout_bucket
from dwcp.fleet.run import FleetRun, run_fleet
from dwcp.quality.check import check_batch
from dwcp.settings import Settings
from dwcp.sources.archive import ArchiveSource
from dwcp.window import Window
from fixtures_influx import InfluxBucket
from releases import RULE, tiny_onnx

SMALL = {"weeks": 1, "transfers_per_week": 1_500, "seed": 1}


def read(settings: Settings, done: FleetRun) -> pa.Table:
    batches = list(ArchiveSource(settings.archive_dir).read(Window(done.start, done.end)))
    return pa.Table.from_batches(batches).sort_by("timestamp_ns").combine_chunks()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(tiny_onnx("v7"))
    (folder / "manifest.json").write_text(json.dumps({"version": "v7"}))
    return folder


def test_the_archive_holds_every_row_and_a_second_run_changes_nothing(tmp_path: Path, library_directory: Path) -> None:
    settings = Settings(home=tmp_path)
    done = run_fleet(settings, library=library_directory, **SMALL)
    first = read(settings, done)
    assert done.rows == first.num_rows >= 1_500
    run_fleet(settings, library=library_directory, **SMALL)
    assert read(settings, done).equals(first)


def test_a_bundle_decides_and_everything_about_it_is_logged(
    tmp_path: Path, library_directory: Path, bundle: Path
) -> None:
    settings = Settings(home=tmp_path)
    options = SMALL | {"defects": False, "library": library_directory, "first_week": 1}
    log = read(settings, run_fleet(settings, serve=bundle, **options))
    probabilities, labels = OnnxModel(tiny_onnx("v7")).predict(served_features(log))
    np.testing.assert_array_equal(np.array(CANDIDATES)[labels], log["predicted_compression"].to_pylist())
    np.testing.assert_allclose(probabilities.max(axis=1), log["confidence"].to_numpy(), rtol=1e-6)
    assert pc.unique(log["model_version"]).to_pylist() == ["v7"]
    assert pc.unique(log["rollout_arm"]).to_pylist() == ["champion"]
    decided = decide(served_features(log), probabilities, labels, RULE)
    assert np.array(ALGORITHMS)[decided.executed].tolist() == log["current_compression"].to_pylist()
    assert decided.reason.tolist() == log["reason_code"].to_pylist()
    assert {"model", "not_worth_it"} <= set(decided.reason)
    for batch in log.to_batches():
        window = Window.parse("2026-08-10", "2026-08-17")
        assert check_batch(batch, window=window, now_ns=2**62, max_clock_ahead_ns=0).bad.num_rows == 0


def test_served_history_is_causal_while_the_model_decides(
    tmp_path: Path, library_directory: Path, bundle: Path
) -> None:
    settings = Settings(home=tmp_path)
    options = SMALL | {"defects": False, "library": library_directory}
    log = read(settings, run_fleet(settings, serve=bundle, **options))
    np.testing.assert_array_equal(served_features(log), recompute_features(log))


def test_a_share_splits_by_bucket_into_canary_and_shadow(tmp_path: Path, library_directory: Path, bundle: Path) -> None:
    settings = Settings(home=tmp_path)
    log = read(settings, run_fleet(settings, library=library_directory, serve=bundle, share=0.5, **SMALL))
    canary = np.asarray(pc.equal(log["rollout_arm"], "canary"))
    assert (log["rollout_bucket"].to_numpy()[canary] < 5_000).all()
    assert (log["rollout_bucket"].to_numpy()[~canary] >= 5_000).all()
    assert set(log.filter(pa.array(~canary))["rollout_arm"].to_pylist()) == {"shadow"}
    assert set(log.filter(pa.array(~canary))["reason_code"].to_pylist()) == {"rules"}
    assert log["predicted_compression"].null_count == 0


def test_buckets_are_stable_and_even() -> None:
    assert rollout_bucket("node-1", "object-1") == rollout_bucket("node-1", "object-1")
    buckets = [rollout_bucket(f"node-{n}", "object") for n in range(2_000)]
    assert min(buckets) >= 0
    assert max(buckets) < 10_000
    assert np.mean(np.array(buckets) < 500) == pytest.approx(0.05, abs=0.02)


def test_what_is_no_bundle_is_refused(tmp_path: Path, library_directory: Path, bundle: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(ModelError, match="no bundle"):
        run_fleet(settings, library=library_directory, serve=tmp_path / "nothing", **SMALL)
    (bundle / "model.onnx").write_bytes(tiny_onnx("v7", metadata={"feature_set_digest": "another"}))
    with pytest.raises(ModelError, match="feature set"):
        run_fleet(settings, library=library_directory, serve=bundle, **SMALL)
    (bundle / "model.onnx").write_bytes(b"damaged")
    with pytest.raises(ModelError):
        run_fleet(settings, library=library_directory, serve=bundle, **SMALL)


@pytest.mark.influxdb
def test_influxdb_counts_what_was_written(influx_bucket: InfluxBucket, library_directory: Path) -> None:
    from dwcp.sources.influx import InfluxSource

    done = run_fleet(influx_bucket.settings, library=library_directory, to="influxdb", defects=False, **SMALL)
    assert InfluxSource(influx_bucket.settings).count(Window(done.start, done.end)) == done.rows == 1_500


def test_the_command_line_says_what_it_did_and_what_was_wrong(
    tmp_path: Path, library_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DWCP_HOME", str(tmp_path))
    command = ["run", "--weeks", "1", "--per-week", "500", "--library", str(library_directory)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "2026-08-03 to 2026-08-10" in done.output
    wrong = CliRunner().invoke(app, ["run", "--weeks", "99", "--library", str(library_directory)])
    assert wrong.exit_code == 2
    assert "weeks" in wrong.output
    empty = CliRunner().invoke(app, ["measure", str(tmp_path / "out"), "--payloads", str(tmp_path / "none")])
    assert empty.exit_code == 2
    assert "directory" in empty.output
