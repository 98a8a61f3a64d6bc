"""The fleet follows what its regions were told, as a Go node routes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from dwcp.contract import ALGORITHMS
from dwcp.export.runtime import ModelError
from dwcp.features.recompute import recompute_features, served_features
from dwcp.fleet.channel import ChannelPolicy
from dwcp.fleet.library import RECORDED, Profiles, load_library
from dwcp.fleet.mix import load_mix
from dwcp.fleet.serve import BundlePolicy
from dwcp.fleet.simulate import simulate
from dwcp.release.registry import RegionState
from dwcp.rules import choose_by_rules
from releases import tiny_onnx

TOLD = {
    "us-east": RegionState("v1", "v2", 2_500),
    "eu-west": RegionState(None, "v2", 2_500),
    "ap-south": RegionState(None),
    "us-west": RegionState("v1", "v2", 0),
}


@pytest.fixture(scope="module")
def profiles() -> Profiles:
    """The recorded library: the tests' own has objects for a few buckets only."""
    return load_library(RECORDED)[0]


@pytest.fixture
def bundles(tmp_path: Path) -> Path:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "model.onnx").write_bytes(tiny_onnx(version))
        (tmp_path / version / "manifest.json").write_text(json.dumps({"version": version}))
    return tmp_path


def test_each_row_is_decided_by_what_its_region_was_told(bundles: Path, profiles: Profiles) -> None:
    (table,) = simulate(
        profiles,
        load_mix(),
        seed=1,
        first_week=1,
        weeks=1,
        transfers_per_week=[500, 3_000],
        policy=ChannelPolicy(TOLD, bundles),
        defects=False,
    )
    assert table.num_rows == 3_000
    features, bucket = served_features(table), table["rollout_bucket"].to_numpy()
    for region, within, version, arm in (
        ("us-east", True, "v2", "canary"),
        ("us-east", False, "v1", "champion"),
        ("eu-west", True, "v2", "canary"),
        ("eu-west", False, "v2", "shadow"),
        ("us-west", False, "v1", "champion"),
        ("ap-south", False, None, "rules"),
        ("eu-central", False, None, "rules"),
    ):
        here = np.asarray(pc.equal(table["region"], region))
        split = TOLD[region].share_buckets if region in TOLD else 0
        rows = here & ((bucket < split) == within)
        found = table.filter(pa.array(rows))
        assert found.num_rows > 20
        assert set(found["rollout_arm"].to_pylist()) == {arm}
        assert set(found["model_version"].to_pylist()) == {version}
        expected = choose_by_rules(features[rows])
        if arm in ("canary", "champion"):
            expected = BundlePolicy(bundles / version).choose(features[rows], bucket[rows]).executed
        assert found["current_compression"].to_pylist() == np.array(ALGORITHMS)[expected].tolist()


def test_what_is_served_is_what_is_recomputed(bundles: Path, profiles: Profiles) -> None:
    policy = ChannelPolicy(TOLD, bundles)
    tables = simulate(profiles, load_mix(), seed=1, weeks=2, transfers_per_week=800, policy=policy, defects=False)
    log = pa.concat_tables(tables)
    np.testing.assert_array_equal(served_features(log), recompute_features(log))


def test_a_version_without_a_bundle_is_refused(bundles: Path) -> None:
    with pytest.raises(ModelError, match="no bundle"):
        ChannelPolicy({"us-east": RegionState("v9")}, bundles)
