"""The selectors of a split, each trained as the product trains, and what each says and runs on the test rows."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES, FEATURES
from dwcp.decision import ZSTD, decide, fit_rule
from dwcp.release.baselines import inputs_of
from dwcp.release.ladder import found
from dwcp.release.ladder.groups import SEED, steps
from dwcp.release.ladder.regress import (
    PREDICTED_RATIOS,
    Regressors,
    importance_order,
    labels_of,
    predict_out_of_fold,
    predicted_costs_ms,
    train_regressors,
    with_predicted_ratios,
)
from dwcp.release.ladder.rows import Rows, column_of
from dwcp.release.metrics import Ints
from dwcp.rules import choose_by_rules
from dwcp.settings import Settings
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, Dataset
from dwcp.training.ensemble import Ensemble, assemble, booster_proba
from dwcp.training.network import train_network
from dwcp.training.tune import tuned_settings
from dwcp.training.xgb import train_xgboost

log = logging.getLogger(__name__)

SMALL_INPUTS = 18
"""As many as the seed had."""
NETWORK = "network alone"
SEED_ENSEMBLE = "seed's 18, ensemble"
REGRESSORS = "regressors, argmin, no classifier"
STACKED = "ensemble of 15 features and 3 predicted ratios"
SMALL = "ensemble of the 18 best features"
TUNED = "ensemble, settings that dwcp tune found"
SEED_FALLBACK = "ensemble, zstd where unsure (seed §7.2)"

_OWN_PAST = 2
"""``history_source`` where the object's own past is known."""
_ALL = tuple(feature.name for feature in FEATURES)


@dataclass(frozen=True, slots=True)
class Selector:
    """``said`` indexes CANDIDATES (zstd alone says a fourth, which is never right), ``runs`` ALGORITHMS; (rows,).

    ``looks`` says whether it looks at the payload first, at each or at those of some rows.
    """

    name: str
    kind: str
    said: Ints
    runs: Ints
    inputs: int | None = None
    looks: bool | NDArray[np.bool_] = True


@dataclass(frozen=True, slots=True)
class Models:
    """What was trained on one split. ``stacked_dataset`` has the predicted ratios behind the features.

    ``tuned`` is None where no search was run.
    """

    booster: bytes
    ensemble: Ensemble
    small: Ensemble
    stacked: Ensemble
    regressors: Regressors
    tuned: Ensemble | None
    stacked_dataset: Dataset


def train_models(rows: Rows, booster: bytes, settings: Settings) -> Models:
    """Everything that takes more than XGBoost on a step's features. ``booster`` takes every feature."""
    dataset = rows.dataset
    log.info("  the ensemble's network")
    ensemble = _ensemble(dataset, settings, booster)
    best = importance_order(booster, dataset.feature_names)
    log.info("  the ensemble of the %d best features", SMALL_INPUTS)
    small = _ensemble(dataset.select(tuple(best[:SMALL_INPUTS])), settings)
    log.info("  regressors of sizes and times, out of fold")
    regressors = train_regressors(rows, settings)
    predicted = predicted_costs_ms(dataset, predict_out_of_fold(rows, regressors, settings), settings.oracle)
    stacked_dataset = with_predicted_ratios(dataset, predicted)
    log.info("  the ensemble that takes what they predict")
    inputs = (*best[: SMALL_INPUTS - len(PREDICTED_RATIOS)], *PREDICTED_RATIOS)
    stacked = _ensemble(stacked_dataset.select(inputs), settings)
    searched = tuned_settings(settings)
    if searched:
        log.info("  the ensemble by the settings of dwcp tune")
    tuned = _ensemble(dataset, searched) if searched else None
    return Models(booster, ensemble, small, stacked, regressors, tuned, stacked_dataset)


def _ensemble(dataset: Dataset, settings: Settings, booster: bytes | None = None) -> Ensemble:
    booster = train_xgboost(dataset, settings) if booster is None else booster
    return assemble(booster, train_network(dataset, settings), xgboost_weight=settings.xgboost_weight)


def without_model(rows: Rows) -> list[Selector]:
    """Choices that cost no training."""
    dataset = rows.dataset
    test = dataset.only(TEST)
    majority = int(np.bincount(dataset.only(TRAIN).labels, minlength=len(CANDIDATES)).argmax())
    always = {"majority class": majority, **{f"always {name}": column_of(name) for name in (*CANDIDATES, "zstd")}}
    selectors = [_same(name, np.full(test.rows, choice, np.int64), looks=False) for name, choice in always.items()]
    by_rules = choose_by_rules(inputs_of(test, _ALL))
    by_history = _argmin(test, "hde_cost_ratio", "amst_cost_ratio")
    by_probe = _argmin(test, "probe_hde_cost_ratio", "probe_amst_cost_ratio")
    is_new = inputs_of(test, ("history_source",))[:, 0] < _OWN_PAST
    return [
        *selectors,
        _same("rules", by_rules),
        _same("cost structure by history, argmin", by_history, looks=False),
        _same("cost structure by probe, argmin", by_probe),
        _same("cost structure, probe if no history", np.where(is_new, by_probe, by_history), looks=is_new),
    ]


def by_steps(rows: Rows, settings: Settings) -> tuple[list[Selector], dict[str, bytes]]:
    """XGBoost on each step's features, and the boosters by step."""
    test = rows.dataset.only(TEST)
    selectors, boosters = [], {}
    for name, inputs in steps().items():
        log.info("  XGBoost on %s: %d features", name, len(inputs))
        boosters[name] = train_xgboost(rows.dataset.select(inputs), settings)
        said = booster_proba(boosters[name], test.select(inputs).features).argmax(axis=1)
        selectors.append(_same(name, said, kind=found.STEPS, inputs=len(inputs)))
    return selectors, boosters


def seed_ensemble(rows: Rows, booster: bytes, settings: Settings) -> Selector:
    """The seed's ensemble on the seed's 18 features."""
    log.info("  the network on the seed's 18")
    inputs = steps()[SEED]
    said = _ensemble(rows.dataset.select(inputs), settings, booster).predict_proba(
        rows.dataset.only(TEST).select(inputs).features
    )
    return _same(SEED_ENSEMBLE, said.argmax(axis=1), kind=found.MODELS, inputs=len(inputs))


def by_models(rows: Rows, models: Models, settings: Settings) -> tuple[list[Selector], NDArray[np.float32]]:
    """The trained models and what runs of them; and the ensemble's probabilities on the test rows."""
    test, before = rows.dataset.only(TEST), rows.dataset.only(TRAIN, VALIDATION)
    probabilities = models.ensemble.predict_proba(test.features)
    said = probabilities.argmax(axis=1)
    rule = fit_rule(inputs_of(before, _ALL), before.costs_ms, fallback_confidence=settings.fallback_confidence)
    seed_fallback = np.where(probabilities.max(axis=1) < settings.fallback_confidence, ZSTD, said)
    product = decide(inputs_of(test, _ALL), probabilities, said, rule).executed
    predicted = predicted_costs_ms(test, models.regressors.predict(test), settings.oracle)
    stacked = _said(models.stacked, models.stacked_dataset.only(TEST))
    inputs = len(test.feature_names)
    selectors = [
        _same(NETWORK, models.ensemble.network_proba(test.features).argmax(axis=1), kind=found.MODELS, inputs=inputs),
        _same(found.ENSEMBLE, said, kind=found.MODELS, inputs=inputs),
        _same(SMALL, _said(models.small, test), kind=found.MODELS, inputs=SMALL_INPUTS),
        _same(REGRESSORS, labels_of(predicted), kind=found.MODELS, inputs=inputs),
        _same(STACKED, stacked, kind=found.MODELS, inputs=SMALL_INPUTS),
        Selector(SEED_FALLBACK, found.EXECUTED, said, seed_fallback, inputs),
        Selector(found.PRODUCT, found.EXECUTED, said, product, inputs),
    ]
    if models.tuned:
        selectors.append(_same(TUNED, _said(models.tuned, test), kind=found.MODELS, inputs=inputs))
    return selectors, probabilities


def _said(ensemble: Ensemble, dataset: Dataset) -> Ints:
    said: Ints = ensemble.predict_proba(dataset.select(ensemble.feature_names).features).argmax(axis=1)
    return said


def _same(
    name: str,
    choice: Ints,
    *,
    kind: str = found.WITHOUT_MODEL,
    inputs: int | None = None,
    looks: bool | NDArray[np.bool_] = True,
) -> Selector:
    """A selector that runs what it says."""
    return Selector(name, kind, choice, choice, inputs, looks)


def _argmin(test: Dataset, hde: str, amst: str) -> Ints:
    """The cheapest candidate by the cost structure, whose unit is the cost of sending uncompressed."""
    ratios = inputs_of(test, (hde, amst))
    choice: Ints = np.column_stack([ratios, np.ones(test.rows, np.float32)]).argmin(axis=1)
    return choice


def shuffled(dataset: Dataset, settings: Settings) -> Ints:
    """What XGBoost says on the test rows if the labels it learned from were dealt out by chance."""
    labels = dataset.labels.copy()
    learn = dataset.split != TEST
    labels[learn] = np.random.default_rng(settings.seed).permutation(labels[learn])
    booster = train_xgboost(dataclasses.replace(dataset, labels=labels), settings)
    said: Ints = booster_proba(booster, dataset.only(TEST).features).argmax(axis=1)
    return said
