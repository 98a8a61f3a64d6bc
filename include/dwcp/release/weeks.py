"""Is retraining worth its while? Consecutive weeks, each judged by a new, a kept and a never-retrained model.

For each of the last weeks of a dataset: the *new* model is trained on everything before the week, the *kept* one is the
new model of the week before, the *first* one was trained before the first of the weeks and never again. All three are
exported and judged on the same rows: the week's, without payloads that were transferred before it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dwcp.decision import fit_rule
from dwcp.export.onnx_graph import build_onnx
from dwcp.export.runtime import OnnxModel
from dwcp.release import metrics
from dwcp.release.intervals import Interval, Ratio, bootstrap
from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, Dataset
from dwcp.training.ensemble import assemble
from dwcp.training.split import divide, parts_before

log = logging.getLogger(__name__)

MODELS = ("new", "kept", "first")
WEEK_NS = 7 * 86_400 * 1_000_000_000


@dataclass(frozen=True, slots=True)
class Week:
    """One week's test rows and, by model, strict accuracy and mean regret of the argmax, with intervals over objects.

    ``retraining`` is the accuracy of the new model less that of the first, paired.
    """

    begin_ns: int
    rows: int
    objects: int
    accuracy: dict[str, Interval]
    mean_regret: dict[str, Interval]
    retraining: Interval


def over_weeks(dataset: Dataset, settings: Settings, *, weeks: int = 4) -> Iterator[Week]:
    """Yield the last ``weeks`` whole weeks of ``dataset``, the oldest first, each as soon as it is judged.

    Weeks count back from the end of the day of the last row. Raises ``DatasetError`` if a week or what lies before it
    has too little to train or to judge.
    """
    day_ns = WEEK_NS // 7
    end_ns = -(-int(dataset.timestamp_ns.max() + 1) // day_ns) * day_ns
    first = kept = None
    for number in range(weeks):
        begin_ns = end_ns - (weeks - number) * WEEK_NS
        divided = divide(dataset, parts_before(dataset, begin_ns, begin_ns + WEEK_NS, settings))
        new = _train(divided, settings, f"week-{number + 1}")
        first, kept = first or new, kept or new
        yield _judge(begin_ns, divided.only(TEST), {"new": new, "kept": kept, "first": first}, settings)
        kept = new


def _train(divided: Dataset, settings: Settings, version: str) -> OnnxModel:
    from dwcp.training import network, xgb

    log.info("%s: training on %d rows", version, divided.rows - divided.only(TEST).rows)
    before = divided.only(TRAIN, VALIDATION)
    ensemble = assemble(
        xgb.train_xgboost(divided, settings),
        network.train_network(divided, settings),
        xgboost_weight=settings.xgboost_weight,
        rule=fit_rule(before.features, before.costs_ms, fallback_confidence=settings.fallback_confidence),
    )
    return OnnxModel(build_onnx(ensemble, version=version))


def _judge(begin_ns: int, test: Dataset, models: dict[str, OnnxModel], settings: Settings) -> Week:
    objects = np.unique(test.object_id, return_inverse=True)[1].astype(np.int64)
    said = {name: models[name].predict(test.features)[1] for name in MODELS}
    ones = np.ones(test.rows)
    right = {name: (labels == test.labels).astype(np.float64) for name, labels in said.items()}
    ratios = {f"{name}/accuracy": Ratio(right[name], ones) for name in MODELS}
    ratios |= {f"{name}/regret": Ratio(metrics.regret(test.costs_ms, said[name]), ones) for name in MODELS}
    ratios["retraining"] = Ratio(right["new"] - right["first"], ones)
    found = bootstrap(ratios, objects, rounds=settings.bootstrap_rounds, seed=settings.seed)
    return Week(
        begin_ns=begin_ns,
        rows=test.rows,
        objects=len(np.unique(objects)),
        accuracy={name: found[f"{name}/accuracy"] for name in MODELS},
        mean_regret={name: found[f"{name}/regret"] for name in MODELS},
        retraining=found["retraining"],
    )
