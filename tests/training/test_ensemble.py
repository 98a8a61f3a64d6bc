from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from dwcp.contract import FEATURES
from dwcp.training.ensemble import Ensemble, ModelError, Network, assemble, softmax


def test_bytes_are_canonical_and_round_trip(ensemble, dataset):
    data = ensemble.to_bytes()
    again = Ensemble.from_bytes(data)
    assert again.to_bytes() == data
    assert again.digest == ensemble.digest
    assert again.feature_names == dataset.feature_names
    reordered = dataclasses.replace(ensemble, network=dict(reversed(ensemble.network.items())))
    assert reordered.digest == ensemble.digest


@pytest.mark.parametrize("name", ["dense_0/kernel", "norm_1/variance", "dense_3/bias"])
def test_the_digest_names_every_weight(ensemble, name):
    moved = {key: value.copy() for key, value in ensemble.network.items()}
    moved[name].flat[0] = np.nextafter(moved[name].flat[0], np.float32(9))
    assert dataclasses.replace(ensemble, network=moved).digest != ensemble.digest


def test_the_digest_names_blend_and_standardiser(ensemble):
    assert dataclasses.replace(ensemble, xgboost_weight=0.6).digest != ensemble.digest
    assert dataclasses.replace(ensemble, mean=ensemble.mean + 1).digest != ensemble.digest


def test_probabilities_are_the_blend_of_the_heads(ensemble, dataset):
    features = dataset.features[:200]
    blended = ensemble.predict_proba(features)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended.sum(axis=1), 1, atol=1e-5)
    expected = 0.7 * ensemble.xgboost_proba(features) + 0.3 * ensemble.network_proba(features)
    np.testing.assert_allclose(blended, expected, atol=1e-6)
    only = dataclasses.replace(ensemble, xgboost_weight=1.0)
    np.testing.assert_array_equal(only.predict_proba(features), ensemble.xgboost_proba(features))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_input_that_is_not_finite_is_refused(ensemble, dataset, value):
    features = dataset.features[:3].copy()
    features[1, 4] = value
    with pytest.raises(ValueError, match="NaN or infinite"):
        ensemble.predict_proba(features)


def test_input_of_another_shape_or_precision_is_refused(ensemble, dataset):
    with pytest.raises(ValueError, match="float64"):
        ensemble.predict_proba(dataset.features.astype(np.float64))
    with pytest.raises(ValueError, match=rf"\(rows, {len(FEATURES)}\)"):
        ensemble.predict_proba(dataset.features[:, :18])


def test_softmax_of_large_logits_is_finite():
    np.testing.assert_allclose(softmax(np.float32([[1e4, 0, -1e4]])), [[1, 0, 0]])


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: b"PK", lambda data: data[:-100]])
def test_damaged_bytes_are_refused(ensemble, damage):
    with pytest.raises(ModelError, match="no model"):
        Ensemble.from_bytes(damage(ensemble.to_bytes()))


def test_a_network_is_no_ensemble_and_rubbish_is_no_booster(ensemble):
    network = ensemble.network_part.to_bytes()
    with pytest.raises(ModelError, match="no ensemble"):
        Ensemble.from_bytes(network)
    with pytest.raises(ModelError, match="no XGBoost JSON"):
        assemble(b"{}", network, xgboost_weight=0.7)


def test_heads_of_different_inputs_are_refused(ensemble):
    part = ensemble.network_part
    weights = dict(part.weights) | {"dense_0/kernel": part.weights["dense_0/kernel"][:3]}
    small = Network(part.feature_names[:3], part.mean[:3], part.scale[:3], weights)
    with pytest.raises(ModelError, match=f"{len(FEATURES)} features and the network 3"):
        assemble(ensemble.booster, small.to_bytes(), xgboost_weight=0.7)


def test_weights_that_do_not_fit_are_refused(ensemble):
    part = ensemble.network_part
    with pytest.raises(ModelError, match="expected"):
        Network(part.feature_names, part.mean, part.scale, dict(part.weights) | {"dense_1/bias": np.zeros(3, "f4")})
    with pytest.raises(ModelError, match="standardiser"):
        Network(part.feature_names, part.mean[:3], part.scale, part.weights)
    broken = dict(part.weights) | {"dense_1/bias": np.full(64, np.nan, np.float32)}
    with pytest.raises(ModelError, match="finite float32"):
        Network(part.feature_names, part.mean, part.scale, broken)
