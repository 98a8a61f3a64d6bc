from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import xgboost

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.training import xgb
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, DatasetError
from dwcp.training.ensemble import Ensemble, Network, assemble, booster_proba, log_inputs
from dwcp.training.network import standardiser, train_network
from dwcp.training.xgb import train_xgboost

TRAINERS = pytest.mark.parametrize("train", [train_xgboost, train_network])


def probabilities(train, dataset, settings, features):
    data = train(dataset, settings)
    if train is train_xgboost:
        return booster_proba(data, features)
    return Network.from_bytes(data).predict_proba(features)


def without(dataset, part, label):
    """The dataset with one class gone from one split."""
    return dataset.take(~((dataset.split == part) & (dataset.labels == label)))


def test_the_model_learns(dataset, ensemble):
    test = dataset.only(TEST)
    majority = np.bincount(dataset.only(TRAIN).labels).argmax()
    accuracy = (ensemble.predict_proba(test.features).argmax(axis=1) == test.labels).mean()
    assert accuracy > (test.labels == majority).mean() + 0.1


@TRAINERS
def test_shuffled_labels_teach_nothing(train, dataset, settings):
    """If a model scores on labels that say nothing, something other than features reaches it."""
    shuffled = dataclasses.replace(dataset, labels=np.random.default_rng(0).permutation(dataset.labels))
    test = shuffled.only(TEST)
    chosen = probabilities(train, shuffled, settings, test.features).argmax(axis=1)
    majority = np.bincount(test.labels).max() / test.rows
    # Classes weigh the same, so a model without knowledge guesses evenly and scores at most as the majority class.
    assert (chosen == test.labels).mean() < majority + 3 * np.sqrt(0.25 / test.rows)


@TRAINERS
def test_a_class_missing_in_validation_is_no_obstacle(train, dataset, quick):
    odd = without(dataset, VALIDATION, 0)
    assert 0 not in odd.only(VALIDATION).labels
    chosen = probabilities(train, odd, quick, odd.only(TEST).features)
    assert chosen.shape[1] == len(CANDIDATES)
    assert np.isfinite(chosen).all()


@TRAINERS
@pytest.mark.parametrize("label", range(3))
def test_a_class_missing_in_training_is_refused_by_name(train, dataset, settings, label):
    with pytest.raises(DatasetError, match=f"labelled {CANDIDATES[label]}"):
        train(without(dataset, TRAIN, label), settings)


@TRAINERS
def test_test_rows_do_not_touch_the_model(train, dataset, quick):
    """Early stopping, weights and standardiser see training and validation alone."""
    test = dataset.split == TEST
    nonsense = dataset.features.copy()
    nonsense[test] *= 1_000
    other = dataclasses.replace(dataset, features=nonsense, labels=np.where(test, 0, dataset.labels))
    assert train(other, quick) == train(dataset, quick)


def test_validation_rows_do_not_touch_the_standardiser(dataset, quick):
    network = Network.from_bytes(train_network(dataset, quick))
    mean, scale = standardiser(dataset.only(TRAIN).features)
    np.testing.assert_array_equal(network.mean, mean)
    np.testing.assert_array_equal(network.scale, scale)
    z = (log_inputs(dataset.only(TRAIN).features) - mean) / scale
    assert np.abs(z.mean(axis=0)).max() < 1e-3


def test_an_input_that_never_varies_does_no_harm():
    mean, scale = standardiser(np.full((10, 1), 8_192, np.float32))
    assert scale[0] == 1
    assert mean[0] == pytest.approx(np.log(8_193))


def test_xgboost_json_ends_at_the_best_iteration(dataset, settings, monkeypatch):
    """Labels of noise, so that the validation loss soon rises; a raw booster would predict with every round."""
    monkeypatch.setattr(xgb, "PATIENCE", 5)
    noisy = dataclasses.replace(dataset, labels=np.random.default_rng(1).permutation(dataset.labels))
    model = xgboost.Booster(model_file=bytearray(train_xgboost(noisy, settings)))
    validation = noisy.only(VALIDATION)
    losses = []
    for rounds in range(1, model.num_boosted_rounds() + 1):
        right = model[:rounds].inplace_predict(validation.features)[np.arange(validation.rows), validation.labels]
        losses.append(-np.log(right).mean())
    assert len(losses) < settings.xgboost_rounds
    assert np.argmin(losses) == len(losses) - 1


def test_the_numpy_reference_is_what_keras_computes(dataset, quick, monkeypatch):
    from dwcp.training import network

    seen = {}
    extract = network._weights

    def keep(model):
        seen["model"] = model
        return extract(model)

    monkeypatch.setattr(network, "_weights", keep)
    trained = Network.from_bytes(train_network(dataset, quick))
    z = (log_inputs(dataset.features) - trained.mean) / trained.scale
    expected = seen["model"].predict(z, verbose=0)
    np.testing.assert_allclose(trained.predict_proba(dataset.features), expected, atol=2e-6)


def test_network_has_the_shape_of_the_seed(ensemble):
    assert {name: value.shape for name, value in ensemble.network.items() if "kernel" in name} == {
        "dense_0/kernel": (len(FEATURES), 128),
        "dense_1/kernel": (128, 64),
        "dense_2/kernel": (64, 32),
        "dense_3/kernel": (32, 3),
    }
    assert {name for name in ensemble.network if "gamma" in name} == {"norm_0/gamma", "norm_1/gamma"}


def test_heads_trained_on_a_subset_of_features_fit_together(dataset, quick):
    few = dataset.select(("size_bytes", "bandwidth_mbps", "compressibility_score", "delta_potential"))
    model = assemble(train_xgboost(few, quick), train_network(few, quick), xgboost_weight=0.7)
    assert model.feature_names == few.feature_names
    assert model.predict_proba(few.features[:5]).shape == (5, 3)


def test_another_process_trains_the_same_model(dataset, ensemble, tmp_path):
    """Bit for bit: the digest of canonical weights, on one CPU class and one number of threads."""
    (tmp_path / "dataset.parquet").write_bytes(dataset.to_parquet_bytes())
    program = """
import sys
from pathlib import Path
from dwcp.settings import Settings
from dwcp.training.dataset import Dataset
from dwcp.training.ensemble import assemble
from dwcp.training.network import train_network
from dwcp.training.xgb import train_xgboost

dataset = Dataset.from_parquet_bytes(Path(sys.argv[1]).read_bytes())
settings = Settings(training_threads=1)
network = train_network(dataset, settings)
Path(sys.argv[2]).write_bytes(assemble(train_xgboost(dataset, settings), network, xgboost_weight=0.7).to_bytes())
"""
    written = tmp_path / "model"
    subprocess.run([sys.executable, "-c", program, tmp_path / "dataset.parquet", written], check=True, cwd=tmp_path)
    again = Ensemble.from_bytes(written.read_bytes())
    assert again.digest == ensemble.digest
    np.testing.assert_array_equal(again.predict_proba(dataset.features), ensemble.predict_proba(dataset.features))
