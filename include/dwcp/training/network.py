"""The seed's neural network (§4.1.2) in Keras; what leaves this module is numpy.

Its learning rate, dropout and batch are settings, the seed's by default; its shape is the seed's.
"""

from __future__ import annotations

import logging
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES
from dwcp.settings import Settings
from dwcp.training.dataset import TRAIN, VALIDATION, Dataset
from dwcp.training.ensemble import BATCH_NORM_EPSILON, Network, log_inputs
from dwcp.training.weights import row_weights

if TYPE_CHECKING:
    import keras

log = logging.getLogger(__name__)

PATIENCE = 8
"""Epochs without a lower validation loss after which training stops; the best epoch's weights are kept."""
HIDDEN_UNITS = (128, 64, 32)
NORMALISED_LAYERS = (0, 1)
"""Hidden layers that batch normalisation and dropout follow."""
_EPOCHS_A_LINE = 5
_STEPS_A_CALL = 64
"""Steps that TensorFlow runs before it returns to Python: the same arithmetic, at 0.4 times the time of one a call."""


def train_network(dataset: Dataset, settings: Settings) -> bytes:
    """Train on the training split, stop early on the validation split, and return ``Network.to_bytes()``.

    The standardiser is fitted on the training split alone and is part of the network. Classes weigh the same in
    training; the validation loss is unweighted. Same dataset, settings and CPU class, same bytes: seeds are fixed,
    TensorFlow runs deterministic kernels on ``training_threads`` threads. Sets TensorFlow's global seed and threads.
    Raises ``DatasetError`` if a class never occurs in training.
    """
    train, validation = dataset.only(TRAIN), dataset.only(VALIDATION)
    weights = row_weights(train.labels)
    mean, scale = standardiser(train.features)
    framework = _deterministic_keras(settings)
    model = _model(framework, len(dataset.feature_names), settings.network_dropout)
    model.compile(
        optimizer=framework.optimizers.Adam(settings.network_learning_rate),
        loss="sparse_categorical_crossentropy",
        steps_per_execution=_STEPS_A_CALL,
    )
    stop = framework.callbacks.EarlyStopping(monitor="val_loss", patience=PATIENCE, restore_best_weights=True)
    epochs = settings.network_epochs
    log.info("network: %d rows, %d features, at most %d epochs", train.rows, train.features.shape[1], epochs)
    model.fit(
        (log_inputs(train.features) - mean) / scale,
        train.labels,
        sample_weight=weights,
        validation_data=((log_inputs(validation.features) - mean) / scale, validation.labels),
        batch_size=settings.network_batch_rows,
        epochs=epochs,
        callbacks=[stop, framework.callbacks.LambdaCallback(on_epoch_end=_report)],
        verbose=0,
    )
    log.info("network: best epoch %d, validation loss %.4f", stop.best_epoch + 1, stop.best)
    return Network(dataset.feature_names, mean, scale, _weights(model)).to_bytes()


def standardiser(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of the logged inputs, shape (features,); 1 for an input that never varies."""
    logged = log_inputs(features).astype(np.float64)
    mean, scale = logged.mean(axis=0), logged.std(axis=0)
    return mean.astype(np.float32), np.where(scale > 1e-6, scale, 1.0).astype(np.float32)


def _deterministic_keras(settings: Settings) -> ModuleType:
    import keras
    import tensorflow as tf

    threads = settings.training_threads
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        # TensorFlow refuses (RuntimeError) once it has run: a process trains with one number of threads.
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings.seed % 2**32)
    framework: ModuleType = keras
    return framework


def _model(framework: ModuleType, inputs: int, dropout: float) -> keras.Model:
    layers = framework.layers
    stack = [framework.Input((inputs,))]
    for number, units in enumerate(HIDDEN_UNITS):
        stack.append(layers.Dense(units, activation="relu", name=f"dense_{number}"))
        if number in NORMALISED_LAYERS:
            stack.append(layers.BatchNormalization(epsilon=BATCH_NORM_EPSILON, name=f"norm_{number}"))
            stack.append(layers.Dropout(dropout))
    stack.append(layers.Dense(len(CANDIDATES), activation="softmax", name=f"dense_{len(HIDDEN_UNITS)}"))
    model: keras.Model = framework.Sequential(stack)
    return model


def _weights(model: keras.Model) -> dict[str, NDArray[np.float32]]:
    names = {"moving_mean": "mean", "moving_variance": "variance"}
    return {
        f"{layer.name}/{names.get(weight.name, weight.name)}": np.asarray(weight, np.float32)
        for layer in model.layers
        if layer.name.startswith(("dense_", "norm_"))
        for weight in layer.weights
    }


def _report(epoch: int, logs: dict[str, float]) -> None:
    if (epoch + 1) % _EPOCHS_A_LINE == 0:
        log.info("network: epoch %d, loss %.4f, validation loss %.4f", epoch + 1, logs["loss"], logs["val_loss"])
