"""XGBoost; the seed's hyperparameters (§4.1.1) are the settings' defaults."""

from __future__ import annotations

import logging

from dwcp.contract import CANDIDATES
from dwcp.settings import Settings
from dwcp.training.dataset import TRAIN, VALIDATION, Dataset
from dwcp.training.weights import row_weights

log = logging.getLogger(__name__)

PATIENCE = 20
"""Rounds without a lower validation loss after which training stops."""
PARAMETERS = {
    "objective": "multi:softprob",
    "num_class": len(CANDIDATES),
    "tree_method": "hist",
    "eval_metric": "mlogloss",
}


def train_xgboost(dataset: Dataset, settings: Settings) -> bytes:
    """Train on the training split, stop early on the validation split, and return XGBoost's JSON.

    The JSON holds the trees up to the best iteration and no more: a raw booster predicts with all its rounds. Classes
    weigh the same in training; the validation loss is unweighted, as the gate counts transfers. Same dataset, settings
    and CPU class, same bytes. Raises ``DatasetError`` if a class never occurs in training.
    """
    import xgboost

    train, validation = dataset.only(TRAIN), dataset.only(VALIDATION)
    threads, rounds = settings.training_threads, settings.xgboost_rounds
    matrix = xgboost.DMatrix(train.features, train.labels, weight=row_weights(train.labels), nthread=threads)
    held_out = xgboost.DMatrix(validation.features, validation.labels, nthread=threads)
    log.info("XGBoost: %d rows, %d features, at most %d rounds", train.rows, train.features.shape[1], rounds)
    booster = xgboost.train(
        PARAMETERS | _hyperparameters(settings) | {"seed": settings.seed, "nthread": threads},
        matrix,
        num_boost_round=rounds,
        evals=[(held_out, "validation")],
        early_stopping_rounds=PATIENCE,
        verbose_eval=False,
        # To the log, not to standard output: a command may be printing its result there.
        callbacks=[xgboost.callback.EvaluationMonitor(period=25, logger=lambda line: log.info("%s", line.strip()))],
    )
    best = booster[: booster.best_iteration + 1]
    log.info("XGBoost: best round %d, validation loss %.4f", booster.best_iteration + 1, booster.best_score)
    return bytes(best.save_raw("json"))


def _hyperparameters(settings: Settings) -> dict[str, float]:
    return {
        "max_depth": settings.xgboost_max_depth,
        "learning_rate": settings.xgboost_learning_rate,
        "subsample": settings.xgboost_subsample,
        "colsample_bytree": settings.xgboost_colsample,
        "min_child_weight": settings.xgboost_min_child_weight,
        "lambda": settings.xgboost_lambda,
    }
