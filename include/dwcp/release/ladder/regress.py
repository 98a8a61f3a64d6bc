"""Sizes and times predicted for each algorithm, and the costs that follow by the oracle's own formula.

For HDE and AMST three regressors each: the size, the compression and the decompression time. Each learns the logarithm
of what was measured over what the cost structure expects (probe for sizes, history for times), so that it learns where
the estimate is wrong and carries over to sizes never seen. Argmin of the predicted costs is a selector without a
classifier; the predicted cost ratios may feed one, out of fold on the rows that it learns from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.features.costs import CALL_BYTES, busiest_bytes, probe_estimates
from dwcp.oracle import cost_ms
from dwcp.release.ladder.rows import Rows
from dwcp.release.metrics import Floats
from dwcp.settings import Settings
from dwcp.training.dataset import TRAIN, VALIDATION, Dataset

ENGINES = ("hde", "amst")
QUANTITIES = ("compressed_size_bytes", "compression_time_ms", "decompression_time_ms")
TARGETS = tuple(f"{engine}_{quantity}" for engine in ENGINES for quantity in QUANTITIES)
PREDICTED_RATIOS = ("predicted_hde_cost_ratio", "predicted_amst_cost_ratio", "predicted_hde_amst_cost_ratio")
FOLDS = 2
PATIENCE = 10
_LEAST_MS = 1e-4
_PARAMETERS = {
    "objective": "reg:squarederror",
    "max_depth": 7,
    "learning_rate": 0.2,
    "subsample": 0.8,
    "colsample_bytree": 0.8,
    "tree_method": "hist",
}


@dataclass(frozen=True, slots=True)
class Regressors:
    """XGBoost's JSON for each of ``TARGETS``; ``rounds`` is the most that one of them has."""

    boosters: Mapping[str, bytes]
    rounds: int

    def predict(self, dataset: Dataset, rounds: int | None = None) -> dict[str, Floats]:
        """Each of ``TARGETS`` for every row, in bytes and milliseconds, by the first ``rounds`` trees of each."""
        import xgboost

        expected = _expected(dataset)
        found = {}
        for target, booster in self.boosters.items():
            model = xgboost.Booster(model_file=bytearray(booster))
            last = 0 if rounds is None else min(rounds, model.num_boosted_rounds())
            error = model.inplace_predict(dataset.features, iteration_range=(0, last)).astype(np.float64)
            found[target] = expected[target] * np.exp(error)
        return found


def train_regressors(rows: Rows, settings: Settings) -> Regressors:
    """Train on the training split; stop early on the validation split."""
    import xgboost

    boosters, most = {}, 0
    parameters = _PARAMETERS | {"seed": settings.seed, "nthread": settings.training_threads}
    targets, split = _targets(rows), rows.dataset.split
    train, held_out = split == TRAIN, split == VALIDATION
    matrices = [
        xgboost.DMatrix(rows.dataset.features[part], nthread=settings.training_threads) for part in (train, held_out)
    ]
    for target, values in targets.items():
        for matrix, part in zip(matrices, (train, held_out), strict=True):
            matrix.set_label(values[part])
        booster = xgboost.train(
            parameters,
            matrices[0],
            num_boost_round=-(-settings.xgboost_rounds // 2),
            evals=[(matrices[1], "validation")],
            early_stopping_rounds=PATIENCE,
            verbose_eval=False,
        )
        best = booster[: booster.best_iteration + 1]
        most = max(most, booster.best_iteration + 1)
        boosters[target] = bytes(best.save_raw("json"))
    return Regressors(boosters, most)


def predict_out_of_fold(rows: Rows, whole: Regressors, settings: Settings) -> dict[str, Floats]:
    """Predictions for all rows: training rows' by models that saw no row of their object, others' by ``whole``."""
    dataset = rows.dataset
    found = whole.predict(dataset)
    _, codes = np.unique(dataset.object_id, return_inverse=True)
    fold_of_object = np.random.default_rng(settings.seed).integers(FOLDS, size=codes.max() + 1)
    fold = np.where(dataset.split == TRAIN, fold_of_object[codes], -1)
    for number in range(FOLDS):
        others = rows.take((dataset.split == VALIDATION) | ((dataset.split == TRAIN) & (fold != number)))
        here = fold == number
        for target, values in train_regressors(others, settings).predict(dataset.take(here)).items():
            found[target][here] = values
    return found


def predicted_costs_ms(dataset: Dataset, predicted: Mapping[str, Floats], definition: str) -> Floats:
    """Predicted cost of each candidate, shape (rows, 3) in ``CANDIDATES`` order."""
    at = _known(dataset)
    nothing, size = np.zeros(dataset.rows), at["size_bytes"]
    sizes, compression, decompression = (
        np.column_stack([*(predicted[f"{engine}_{quantity}"] for engine in ENGINES), alone])
        for quantity, alone in zip(QUANTITIES, (size, nothing, nothing), strict=True)
    )
    one = np.ones(dataset.rows)
    return cost_ms(
        definition,
        compressed_bytes=sizes,
        compression_ms=compression,
        decompression_ms=decompression,
        bandwidth_mbps=at["bandwidth_mbps"],
        packet_loss_rate=at["packet_loss_rate"],
        cpu_usage=at["cpu_usage"],
        rtt_ms=at["rtt_ms"],
        streams=np.column_stack([one, at["amst_streams"], one]),
    )


def with_predicted_ratios(dataset: Dataset, costs_ms: Floats) -> Dataset:
    """``dataset`` with ``PREDICTED_RATIOS`` behind its features."""
    hde, amst, none = costs_ms.T
    ratios = np.column_stack([hde / none, amst / none, hde / amst]).astype(np.float32)
    return dataclasses.replace(
        dataset,
        features=np.hstack([dataset.features, ratios]),
        feature_names=(*dataset.feature_names, *PREDICTED_RATIOS),
    )


def _targets(rows: Rows) -> dict[str, Floats]:
    expected = _expected(rows.dataset)
    return {
        name: np.log(np.maximum(rows.numbers(name), 1.0 if name.endswith("_bytes") else _LEAST_MS) / expected[name])
        for name in TARGETS
    }


def _expected(dataset: Dataset) -> dict[str, Floats]:
    """What the cost structure expects of each of ``TARGETS``; a time's two directions are expected to be alike."""
    at = _known(dataset)
    look, size = probe_estimates(at), at["size_bytes"]
    work = {"hde": size, "amst": busiest_bytes(size, at["amst_streams"])}
    found = {}
    for engine in ENGINES:
        found[f"{engine}_compressed_size_bytes"] = np.maximum(size * look[f"{engine}_size"], 1.0)
        time_ms = at[f"recent_{engine}_ms_per_mb"] * (work[engine] + CALL_BYTES) / 1e6
        found[f"{engine}_compression_time_ms"] = found[f"{engine}_decompression_time_ms"] = time_ms
    return found


def _known(dataset: Dataset) -> dict[str, Floats]:
    return {name: dataset.features[:, n].astype(np.float64) for n, name in enumerate(dataset.feature_names)}


def importance_order(booster: bytes, feature_names: tuple[str, ...]) -> list[str]:
    """The features by the gain that XGBoost found in them while training, largest first."""
    import xgboost

    gains = xgboost.Booster(model_file=bytearray(booster)).get_score(importance_type="total_gain")
    return sorted(feature_names, key=lambda name: -gains.get(f"f{feature_names.index(name)}", 0.0))


def truncated(booster: bytes, rounds: int) -> bytes:
    """The first ``rounds`` rounds of a booster."""
    import xgboost

    model = xgboost.Booster(model_file=bytearray(booster))
    return bytes(model[: min(rounds, model.num_boosted_rounds())].save_raw("json"))


def labels_of(costs_ms: Floats) -> NDArray[np.int64]:
    """Argmin over the predicted costs; predictions do not tie."""
    labels: NDArray[np.int64] = costs_ms.argmin(axis=1)
    return labels
