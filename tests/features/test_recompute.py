from __future__ import annotations

import numpy as np

from dwcp.contract import FEATURES
from dwcp.features.recompute import recompute_features, served_features
from transfers import make_transfers

AT = {feature.name: position for position, feature in enumerate(FEATURES)}


def test_everything_but_history_equals_what_the_log_served():
    log = make_transfers(500)
    served, recomputed = served_features(log), recompute_features(log)
    assert recomputed.dtype == np.float32
    raw = [AT[f.name] for f in FEATURES[:15]]
    np.testing.assert_array_equal(recomputed[:, raw], served[:, raw])


def test_features_are_finite_and_within_the_contract():
    features = recompute_features(make_transfers(2_000))
    assert np.isfinite(features).all()
    for position, feature in enumerate(FEATURES):
        assert features[:, position].min() >= np.float32(feature.minimum), feature.name
        assert features[:, position].max() <= np.float32(feature.maximum), feature.name


def test_seed_bins_follow_the_raw_values():
    log = make_transfers(500)
    features = recompute_features(log)
    rtt = log["rtt_ms"].to_numpy()
    np.testing.assert_array_equal(features[:, AT["rtt_bin"]], 1 + (rtt >= 1) + (rtt > 10))
    size = log["data_size_bytes"].to_numpy()
    np.testing.assert_array_equal(features[:, AT["size_category"]], 1 + (size >= 1_024) + (size > 1_048_576))


def test_warm_up_rows_get_no_features():
    log = make_transfers(300)
    cut = log["timestamp_ns"][120].as_py()
    np.testing.assert_array_equal(recompute_features(log, cut), recompute_features(log)[120:])
