"""Evaluation of what ships: the exported files, on rows that the model was not trained on.

The ONNX file is judged, run by onnxruntime; parity shows that the other forms are the same function. The time split
decides; a random split is reported beside it, to show what a shuffle would have promised. Every figure with an interval
comes from one bootstrap over objects, so figures on the same rows are paired.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from dwcp.contract import CANDIDATES, DATA_TYPES, FEATURE_SET_DIGEST, FEATURES, LINK_TYPES
from dwcp.decision import Decisions, Rule, decide
from dwcp.export.footprint import Footprint, measure_footprint
from dwcp.export.forms import ONNX
from dwcp.export.onnx_graph import build_onnx
from dwcp.export.parity import Parity, check_parity
from dwcp.export.runtime import OnnxModel
from dwcp.label_worth import ceiling_of
from dwcp.release import metrics
from dwcp.release.baselines import BLIND, baseline_choices, inputs_of
from dwcp.release.intervals import LEVEL, Interval, Ratio, bootstrap
from dwcp.release.metrics import Bin, Ints
from dwcp.settings import Settings
from dwcp.store import digest_of
from dwcp.training.dataset import TEST, TRAIN, Dataset
from dwcp.training.ensemble import Ensemble
from dwcp.units import throughput_mbps

log = logging.getLogger(__name__)

IMPORTANCE_ROWS = 5_000
MODEL = "model"
EXECUTED = "model as executed"


@dataclass(frozen=True, slots=True)
class Rung:
    """One selector on a split's test rows. ``accuracy`` and F1 are of its labels, the rest of what it would run.

    Gains charge the look at the payload; ``throughput_mbps`` does not, as the field's realised times do not hold it.
    """

    name: str
    accuracy: Interval
    accuracy_outside_ties: Interval
    macro_f1: float | None
    mean_regret: Interval
    p95_regret: float | None
    throughput_mbps: float | None
    gain_over_zstd: Interval
    gain_over_rules: Interval


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Precision, recall and F1 of the model on one class."""

    name: str
    rows: int
    precision: Interval
    recall: Interval
    f1: Interval


@dataclass(frozen=True, slots=True)
class Slice:
    """The model on the test rows of one kind of link and payload.

    ``gain_over_zstd`` is of what would run, looking paid; its level is corrected for the number of slices (Bonferroni).
    """

    link_type: str
    data_type: str
    rows: int
    accuracy: Interval
    mean_regret: Interval
    gain_over_zstd: Interval

    @property
    def slower_than_zstd(self) -> bool:
        """Whether always-zstd would have been faster beyond chance."""
        return self.gain_over_zstd.upper is not None and self.gain_over_zstd.upper < 0


@dataclass(frozen=True, slots=True)
class SplitScores:
    """All that is known of one split's test rows. ``confusion`` counts (truth, prediction) over CANDIDATES.

    ``fallbacks`` counts the rows where zstd ran, by reason; ``label_ceiling`` is what the labels allow, see
    ``dwcp.label_worth``.
    """

    name: str
    rows: int
    objects: int
    ties: int
    label_ceiling: float | None
    fallbacks: dict[str, int]
    ladder: tuple[Rung, ...]
    classes: tuple[ClassScores, ...]
    confusion: tuple[tuple[int, ...], ...]
    calibration: tuple[Bin, ...]
    calibration_error: float | None
    slices: tuple[Slice, ...]

    def rung(self, name: str) -> Rung:
        """The selector called ``name``. Raises ``KeyError``."""
        for rung in self.ladder:
            if rung.name == name:
                return rung
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The model less the champion on the same rows, paired.

    Differences of accuracy and of executed regret; the gain of throughput as executed. Of all slices, the accuracy
    difference whose interval ends lowest; its level is corrected for the number of slices (Bonferroni).
    ``note`` says why there is nothing to compare.
    """

    version: str
    accuracy: Interval
    mean_regret: Interval
    throughput: Interval
    worst_slice: str
    worst_slice_accuracy: Interval
    note: str = ""


@dataclass(frozen=True, slots=True)
class Importance:
    """What is lost when one feature is shuffled among the test rows (permutation importance; Breiman, 2001)."""

    name: str
    accuracy_lost: float
    regret_added: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one exported model.

    ``model_digest`` and ``size_bytes`` are those of the ONNX file, ``sizes_bytes`` those of every form by file name.
    ``measured`` differs from run to run and is left out of digests.
    """

    version: str
    model_digest: str
    size_bytes: int
    feature_set_digest: str
    oracle: str
    rule: Rule
    dropped: dict[str, int]
    time: SplitScores
    random: SplitScores | None
    champion: Comparison | None
    parity: Parity
    importance: tuple[Importance, ...]
    measured: Footprint | None
    sizes_bytes: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> str:
        """Canonical JSON with everything in it."""
        return json.dumps(_ADAPTER.dump_python(self, mode="json"), sort_keys=True, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Evaluation:
        """The inverse of :meth:`to_json`. Raises ``ValueError`` if ``text`` is something else."""
        return _ADAPTER.validate_json(text)

    def figures(self) -> dict[str, float | int | None]:
        """The few figures that the registry keeps: of the time split; regret and throughput as a node would run it."""
        asked, run = self.time.rung(MODEL), self.time.rung(EXECUTED)
        return {
            "accuracy": asked.accuracy.estimate,
            "accuracy_outside_ties": asked.accuracy_outside_ties.estimate,
            "mean_regret": run.mean_regret.estimate,
            "throughput_mbps": run.throughput_mbps,
            "gain_over_zstd": run.gain_over_zstd.estimate,
            "gain_over_rules": run.gain_over_rules.estimate,
            "test_rows": self.time.rows,
        }

    def without_measured(self) -> Evaluation:
        """The same without latency, load time and memory: what a digest may cover."""
        return replace(self, measured=None)


def evaluate(
    forms: Mapping[str, bytes],
    dataset: Dataset,
    ensemble: Ensemble,
    settings: Settings,
    *,
    champion: bytes | None = None,
    random_split: tuple[Dataset, Ensemble] | None = None,
) -> Evaluation:
    """Judge ``forms``, exported from ``ensemble`` (``build_forms``), on the test rows of ``dataset``.

    ``champion`` is the ONNX of the model in the field; ``random_split`` the same rows split at random with an ensemble
    trained on that split. Raises ``ModelError`` if a model cannot be loaded and ``ValueError`` if the dataset lacks a
    feature that a model takes, or was made by another contract.
    """
    model = forms[ONNX]
    loaded = OnnxModel(model)
    if loaded.feature_set_digest != FEATURE_SET_DIGEST:
        raise ValueError("the model follows another definition of the features than this code: export it again")
    test = dataset.only(TEST)
    features = inputs_of(test, loaded.feature_names)
    log.info("evaluating %s on %d test rows", loaded.version, test.rows)
    with ThreadPoolExecutor(1) as beside:  # what follows takes one core, and parity leaves Python to the others
        compared = beside.submit(check_parity, forms, ensemble, features, seed=settings.seed)
        scores, choice = _score("time", loaded, dataset, ensemble, settings)
        by_chance = None
        if random_split is not None:
            other, trained = random_split
            by_chance, _ = _score("random", OnnxModel(build_onnx(trained, version="random")), other, trained, settings)
        against = None if champion is None else _compare(choice, OnnxModel(champion), test, settings)
        importance = _importance(loaded, test, settings.seed)
        log.info("comparing the files with what was trained")
        parity = compared.result()
    log.info("measuring latency and memory in a fresh process")
    footprint = measure_footprint(model, features if test.rows else np.zeros((1, features.shape[1]), np.float32))
    return Evaluation(
        version=loaded.version,
        model_digest=digest_of(model),
        size_bytes=len(model),
        feature_set_digest=loaded.feature_set_digest,
        oracle=settings.oracle,
        rule=loaded.rule,
        dropped=dict(dataset.dropped),
        time=scores,
        random=by_chance,
        champion=against,
        parity=parity,
        importance=importance,
        measured=footprint,
        sizes_bytes={name: len(content) for name, content in forms.items()},
    )


@dataclass(frozen=True, slots=True)
class _Choice:
    """A model's answers on the test rows."""

    labels: Ints
    decisions: Decisions
    probabilities: NDArray[np.float32]

    @property
    def executed(self) -> Ints:
        """What a node runs, as an index into ALGORITHMS."""
        return self.decisions.executed


def _choose(model: OnnxModel, test: Dataset) -> _Choice:
    probabilities, labels = model.predict(inputs_of(test, model.feature_names))
    every = inputs_of(test, tuple(feature.name for feature in FEATURES))
    return _Choice(labels, decide(every, probabilities, labels, model.rule), probabilities)


def _score(
    name: str, model: OnnxModel, dataset: Dataset, ensemble: Ensemble, settings: Settings
) -> tuple[SplitScores, _Choice]:
    test = dataset.only(TEST)
    truth, costs, codes = test.labels, test.costs_ms, _codes(test.object_id)
    choice = _choose(model, test)
    selectors = baseline_choices(test, dataset.only(TRAIN).labels, ensemble)
    rules = selectors["rules"]
    selectors |= {MODEL: choice.labels, EXECUTED: choice.executed}

    ratios: dict[str, Ratio] = {}
    for selector, chosen in selectors.items():
        # The executed choice is judged on what the model said: zstd is never a label.
        said = choice.labels if selector == EXECUTED else chosen
        for metric, ratio in (
            metrics.accuracy_ratios(truth, said, costs)
            | metrics.cost_ratios(costs, chosen, rules, look_ms=test.look_ms, looks=selector not in BLIND)
        ).items():
            ratios[f"{selector}/{metric}"] = ratio
    slices = _slices(test)
    gains: dict[str, Ratio] = {}
    for where, mask in slices.items():
        for metric in ("accuracy", "mean_regret"):
            ratios[f"{where}/{metric}"] = _within(ratios[f"{MODEL}/{metric}"], mask)
        gains[f"{where}/gain"] = _within(ratios[f"{EXECUTED}/gain_over_zstd"], mask)
    found = bootstrap(ratios, codes, rounds=settings.bootstrap_rounds, seed=settings.seed)
    level = 1 - (1 - LEVEL) / max(1, len(slices))
    found |= bootstrap(gains, codes, rounds=settings.bootstrap_rounds, seed=settings.seed, level=level)

    bins, error = metrics.calibration(choice.probabilities, choice.labels, truth)
    scores = SplitScores(
        name=name,
        rows=test.rows,
        objects=len(np.unique(codes)),
        label_ceiling=ceiling_of(test.measured_runs, settings.gate_label_ceilings),
        ties=int(np.count_nonzero(~metrics.outside_ties(costs))),
        fallbacks={
            reason: int(np.count_nonzero(choice.decisions.reason == reason))
            for reason in ("low_confidence", "not_worth_it")
        },
        ladder=tuple(_rung(selector, found, test, chosen) for selector, chosen in selectors.items()),
        classes=tuple(
            ClassScores(
                label,
                int(np.count_nonzero(truth == number)),
                *(found[f"{MODEL}/{metric}_{label}"] for metric in ("precision", "recall", "f1")),
            )
            for number, label in enumerate(CANDIDATES)
        ),
        confusion=tuple(tuple(row) for row in metrics.confusion(truth, choice.labels).tolist()),
        calibration=bins,
        calibration_error=error,
        slices=tuple(
            Slice(
                *where, int(mask.sum()), *(found[f"{where}/{metric}"] for metric in ("accuracy", "mean_regret", "gain"))
            )
            for where, mask in slices.items()
        ),
    )
    return scores, choice


def _within(ratio: Ratio, mask: NDArray[np.bool_]) -> Ratio:
    return Ratio(ratio.numerator * mask, ratio.denominator * mask, ratio.offset)


def _rung(name: str, found: dict[str, Interval], test: Dataset, chosen: Ints) -> Rung:
    spent_ms = float(metrics.cost_of(test.costs_ms, chosen).sum())
    f1 = [found[f"{name}/f1_{label}"].estimate for label in CANDIDATES]
    known = [value for value in f1 if value is not None]
    return Rung(
        name,
        found[f"{name}/accuracy"],
        found[f"{name}/accuracy_outside_ties"],
        sum(known) / len(known) if known else None,
        found[f"{name}/mean_regret"],
        float(np.quantile(metrics.regret(test.costs_ms, chosen), 0.95)) if test.rows else None,
        throughput_mbps(float(test.size_bytes.sum()), spent_ms) if test.rows else None,
        found[f"{name}/gain_over_zstd"],
        found[f"{name}/gain_over_rules"],
    )


def _compare(choice: _Choice, champion: OnnxModel, test: Dataset, settings: Settings) -> Comparison:
    log.info("comparing with champion %s on the same rows", champion.version)
    gone = [name for name in champion.feature_names if name not in test.feature_names]
    if gone:
        nothing = Interval(None)
        note = f"the champion takes features that the contract no longer has: {', '.join(gone)}"
        return Comparison(champion.version, nothing, nothing, nothing, "", nothing, note)
    truth, costs, codes = test.labels, test.costs_ms, _codes(test.object_id)
    other = _choose(champion, test)
    ones = np.ones(test.rows)
    right = (choice.labels == truth).astype(np.float64) - (other.labels == truth)
    spent, spent_by_other = metrics.cost_of(costs, choice.executed), metrics.cost_of(costs, other.executed)
    found = bootstrap(
        {
            "accuracy": Ratio(right, ones),
            "mean_regret": Ratio((spent - spent_by_other) / metrics.oracle_cost(costs), ones),
            "throughput": Ratio(spent_by_other, spent, offset=-1.0),
        },
        codes,
        rounds=settings.bootstrap_rounds,
        seed=settings.seed,
    )
    slices = _slices(test)
    per_slice = bootstrap(
        {" / ".join(where): Ratio(right * mask, mask.astype(np.float64)) for where, mask in slices.items()},
        codes,
        rounds=settings.bootstrap_rounds,
        seed=settings.seed,
        level=1 - (1 - LEVEL) / max(1, len(slices)),
    )
    judged = {where: interval for where, interval in per_slice.items() if interval.upper is not None}
    worst = min(judged, key=lambda where: judged[where].upper or 0.0, default="")
    return Comparison(
        champion.version,
        found["accuracy"],
        found["mean_regret"],
        found["throughput"],
        worst,
        judged.get(worst, Interval(None)),
    )


def _importance(model: OnnxModel, test: Dataset, seed: int) -> tuple[Importance, ...]:
    """Every feature's importance, largest first; on at most ``IMPORTANCE_ROWS`` rows drawn by chance."""
    if not test.rows:
        return ()
    rng = np.random.default_rng(seed)
    drawn = test.take(np.sort(rng.permutation(test.rows)[:IMPORTANCE_ROWS]))
    features, labels, costs = inputs_of(drawn, model.feature_names), drawn.labels, drawn.costs_ms

    def judge(column: int | None) -> tuple[float, float]:
        inputs = features
        if column is not None:
            inputs = features.copy()
            inputs[:, column] = features[orders[column], column]
        predicted = model.predict(inputs)[1]
        return float((predicted == labels).mean()), float(metrics.regret(costs, predicted).mean())

    orders = [rng.permutation(len(features)) for _ in model.feature_names]
    accuracy, regret = judge(None)
    # ONNX Runtime leaves Python while it computes, so the features are judged side by side.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        without = list(pool.map(judge, range(len(model.feature_names))))
    found = [
        Importance(name, accuracy - accuracy_without, regret_without - regret)
        for name, (accuracy_without, regret_without) in zip(model.feature_names, without, strict=True)
    ]
    return tuple(sorted(found, key=lambda part: (-part.regret_added, part.name)))


def _slices(test: Dataset) -> dict[tuple[str, str], NDArray[np.bool_]]:
    """Masks over the rows of every pair of link and data type that has rows."""
    links, types = test.link_type, test.data_type
    masks = {(link, kind): (links == link) & (types == kind) for link in LINK_TYPES for kind in DATA_TYPES}
    return {where: mask for where, mask in masks.items() if mask.any()}


def _codes(names: NDArray[Any]) -> Ints:
    return np.unique(names, return_inverse=True)[1].astype(np.int64)


_ADAPTER = TypeAdapter(Evaluation)
