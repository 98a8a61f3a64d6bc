"""A Go node on what the pipeline really writes: its key, its signed channel document, its bundles."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dwcp.contract import FEATURES
from dwcp.export.forms import GO, ONNX
from dwcp.export.runtime import OnnxModel
from dwcp.fleet.known import rollout_bucket
from dwcp.release.channel import Channel
from dwcp.release.registry import RegionState
from dwcp.release.signing import load_signer, sign_document
from dwcp.settings import Settings
from go_module import run_go_test
from releases import bundle_of

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def tell(settings: Settings, serial: int, state: RegionState, *, issued_at: datetime | None = None) -> bytes:
    """Publish ``state`` for us-east, and every version's bundle that it names; the document's bytes."""
    versions = [version for version in (state.champion, state.challenger) if version]
    bundles = {version: bundle_of(settings, version).digest for version in versions}
    channel = Channel(serial, issued_at or datetime.now(UTC), {"us-east": state, "eu-west": RegionState(None)}, bundles)
    data = sign_document(load_signer(settings), channel.to_document())
    settings.channel_path.parent.mkdir(parents=True, exist_ok=True)
    settings.channel_path.write_bytes(data)
    return data


def ask_node(settings: Settings, state: Path) -> dict[str, Any]:
    """What a node says that starts with ``state``, polls once and decides once."""
    printed = run_go_test("TestPipelineChannel", DWCP_TEST_HOME=settings.home, DWCP_TEST_STATE=state)
    (line,) = [line for line in printed.splitlines() if line.startswith("{")]
    said: dict[str, Any] = json.loads(line)
    return said


def test_a_node_serves_what_the_pipeline_published(settings: Settings, tmp_path: Path):
    tell(settings, 1, RegionState("v1"))
    said = ask_node(settings, tmp_path / "state")
    assert said["status"]["last_error"] == ""
    assert (said["version"], said["arm"], said["status"]["serial"]) == ("v1", "champion", 1)
    assert said["bucket"] == rollout_bucket("node-1", "object-1")
    # The very model: what it said is what the ONNX form says of the same features.
    model = OnnxModel((settings.bundle_dir / "v1" / ONNX).read_bytes())
    features = np.array(said["features"], np.float32)
    assert len(features) == len(FEATURES)
    decided = model.decide(features)
    assert said["argmax"] == model.classes[decided.label]
    assert abs(said["sure"] - decided.confidence) <= 1e-5


@pytest.mark.parametrize(
    ("state", "version", "arm"),
    [
        (RegionState(None), "", "rules"),
        (RegionState(None, "v2", 0), "v2", "shadow"),
        (RegionState("v1", "v2", 10_000), "v2", "canary"),
        (RegionState("v1", "v2", 0), "v1", "champion"),
        (RegionState("v1", "v2", rollout_bucket("node-1", "object-1")), "v1", "champion"),
        (RegionState("v1", "v2", rollout_bucket("node-1", "object-1") + 1), "v2", "canary"),
    ],
)
def test_arms_follow_the_document(settings: Settings, tmp_path: Path, state: RegionState, version: str, arm: str):
    tell(settings, 1, state)
    said = ask_node(settings, tmp_path / "state")
    assert (said["version"], said["arm"], said["status"]["last_error"]) == (version, arm, "")
    if arm in ("rules", "shadow"):
        assert said["reason"] == "rules"


def test_a_rollback_is_followed_and_a_replay_refused_after_a_restart(settings: Settings, tmp_path: Path):
    old = tell(settings, 1, RegionState("v1"))
    tell(settings, 2, RegionState("v2"))
    assert ask_node(settings, tmp_path / "state")["version"] == "v2"
    settings.channel_path.write_bytes(old)
    said = ask_node(settings, tmp_path / "state")
    assert said["version"] == "v2"
    assert "an older channel document was replayed" in said["status"]["last_error"]
    tell(settings, 3, RegionState("v1"))
    assert ask_node(settings, tmp_path / "state")["version"] == "v1"


def test_without_its_pipeline_a_node_starts_with_what_it_had(settings: Settings, tmp_path: Path):
    tell(settings, 1, RegionState("v1"))
    ask_node(settings, tmp_path / "state")
    shutil.rmtree(settings.bundle_dir)
    settings.channel_path.unlink()
    said = ask_node(settings, tmp_path / "state")
    assert (said["version"], said["status"]["failed"]) == ("v1", 1)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip, cut, Path.unlink])
@pytest.mark.parametrize("name", [GO, "manifest.json", "manifest.sig"])
def test_a_damaged_bundle_leaves_the_old_one_serving(settings: Settings, tmp_path: Path, name: str, damage: Any):
    tell(settings, 1, RegionState("v1"))
    ask_node(settings, tmp_path / "state")
    tell(settings, 2, RegionState("v2"))
    damage(settings.bundle_dir / "v2" / name)
    said = ask_node(settings, tmp_path / "state")
    assert said["version"] == "v1"
    assert said["status"]["serial"] == 2
    assert said["status"]["last_error"] != ""
    assert said["status"]["refused"] + said["status"]["failed"] == 1


def test_the_key_of_another_pipeline_is_not_trusted(settings: Settings, tmp_path: Path):
    stranger = Settings(home=tmp_path / "stranger")
    settings.channel_path.parent.mkdir(parents=True)
    load_signer(settings)
    tell(stranger, 9, RegionState("v1"))
    shutil.copytree(stranger.bundle_dir, settings.bundle_dir)
    shutil.copy(stranger.channel_path, settings.channel_path)
    said = ask_node(settings, tmp_path / "state")
    assert (said["version"], said["reason"], said["status"]["refused"]) == ("", "model_invalid", 1)
    assert "not signed by the trusted key" in said["status"]["last_error"]
    assert said["status"]["serial"] == 0


def test_a_release_of_last_year_is_too_old(settings: Settings, tmp_path: Path):
    tell(settings, 1, RegionState("v1"), issued_at=datetime.now(UTC) - timedelta(days=365))
    said = ask_node(settings, tmp_path / "state")
    assert (said["version"], said["reason"]) == ("", "model_stale")
