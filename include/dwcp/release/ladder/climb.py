"""Climb the ladder: train what each rung needs, judge all on the same rows, collect the proof."""

from __future__ import annotations

import logging
import multiprocessing
import os
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dwcp.contract import CANDIDATES
from dwcp.oracle import DEFINITIONS
from dwcp.release import metrics
from dwcp.release.ladder import found, score, selectors
from dwcp.release.ladder.calibrate import calibrate
from dwcp.release.ladder.found import Ceiling, Definition, Ladder, Mistake, MistakeKind, Point, SplitFound, Worth
from dwcp.release.ladder.groups import SEED
from dwcp.release.ladder.looks import record_look
from dwcp.release.ladder.rows import SPLITS, Rows, label_mix
from dwcp.release.ladder.selectors import Models
from dwcp.release.ladder.sizes import sizes_of
from dwcp.release.ladder.worth import ceilings_in
from dwcp.release.metrics import Ints
from dwcp.settings import Settings
from dwcp.store import digest_of
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, Dataset
from dwcp.training.ensemble import booster_proba
from dwcp.training.xgb import train_xgboost

log = logging.getLogger(__name__)

LEARNING_SHARES = (0.05, 0.1, 0.2, 0.4, 0.7)
"""Shares of the training rows that the learning curve is drawn through; the whole is trained anyway."""
MISTAKES_SHOWN = 25


def climb(rows: Rows, settings: Settings, *, command: str, ceilings: Sequence[Ceiling] = ()) -> Ladder:
    """Judge every selector on ``rows``; the figures, and one more look in the log.

    ``ceilings`` are what is known of the labels' repeatability beside the rows. Raises ``DatasetError`` if a split
    cannot be made of the rows.
    """
    began = time.monotonic()
    digest = digest_of(rows.dataset.to_parquet_bytes())
    looks = record_look(settings, digest, command)
    cut = {name: rows.split(name, settings) for name in SPLITS}
    climbed = dict(zip(SPLITS, _climb_splits(cut, settings), strict=True))
    by_time, (_, models, probabilities) = cut["time"], climbed["time"]
    dataset, test = by_time.dataset, by_time.dataset.only(TEST)
    validation = dataset.only(VALIDATION)
    log.info("sizes of model")
    sizes = sizes_of(models, dataset, settings)
    log.info("learning curve")
    curve = _learning_curve(dataset, models.booster, settings)
    log.info("shuffled labels, other oracles")
    shuffled, _ = score.accuracy_and_regret(selectors.shuffled(dataset, settings), test, settings)
    worth = _worth(rows, by_time, models.booster, ceilings, settings)
    mistakes, kinds = _mistakes(test, probabilities)
    first, last = (
        f"{datetime.fromtimestamp(int(ns) / 1e9, UTC):%Y-%m-%d}" for ns in rows.dataset.timestamp_ns[[0, -1]]
    )
    return Ladder(
        dataset_digest=digest,
        command=command,
        oracle=settings.oracle,
        rows=rows.dataset.rows,
        objects=len(np.unique(rows.dataset.object_id)),
        first_day=first,
        last_day=last,
        looks=looks,
        splits=tuple(split for split, _, _ in climbed.values()),
        calibration=calibrate(
            (models.ensemble.predict_proba(validation.features), validation.labels), probabilities, test.labels
        ),
        sizes=sizes,
        curve=curve,
        mistakes=mistakes,
        mistake_kinds=kinds,
        worth=worth,
        shuffled=shuffled,
        machine=_machine(),
        seconds=time.monotonic() - began,
    )


Climbed = tuple[SplitFound, Models, NDArray[np.float32]]


def _climb_splits(cut: Mapping[str, Rows], settings: Settings) -> list[Climbed]:
    """Each split in a process of its own, as many at once as there are cores for their threads."""
    at_once = max(1, (os.cpu_count() or 1) // settings.training_threads)
    # TensorFlow does not survive a fork; its one number of threads is then each process's own, too.
    context = multiprocessing.get_context("spawn")
    level = logging.getLogger("dwcp").getEffectiveLevel()
    with ProcessPoolExecutor(min(at_once, len(cut)), context, _begin, (level,)) as pool:
        return list(pool.map(_climb_split, cut.keys(), cut.values(), [settings] * len(cut)))


def _begin(level: int) -> None:
    """What a process of the pool does first: log as its parent does, and end with it, however that ends."""
    logging.basicConfig(level=level, format="%(message)s")
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _climb_split(name: str, rows: Rows, settings: Settings) -> Climbed:
    log.info("%s split: %d training rows", name, int((rows.dataset.split == TRAIN).sum()))
    test = rows.only(TEST)
    stepped, boosters = selectors.by_steps(rows, settings)
    models = selectors.train_models(rows, list(boosters.values())[-1], settings)
    modelled, probabilities = selectors.by_models(rows, models, settings)
    every = [
        *selectors.without_model(rows),
        *stepped,
        selectors.seed_ensemble(rows, boosters[SEED], settings),
        *modelled,
    ]
    by_name = {selector.name: selector for selector in every}
    known = set(rows.dataset.only(TRAIN, VALIDATION).object_id.tolist())
    objects = set(test.dataset.object_id.tolist())
    return (
        SplitFound(
            name=name,
            training_rows=int((rows.dataset.split == TRAIN).sum()),
            test_rows=test.dataset.rows,
            test_objects=len(objects),
            new_objects=len(objects - known),
            dropped=rows.dataset.dropped,
            look_share=float(test.dataset.look_ms.sum() / metrics.oracle_cost(test.dataset.costs_ms).sum()),
            rungs=score.rungs(every, test, settings),
            slices=score.slices(by_name[found.ENSEMBLE], by_name[found.PRODUCT], test, known, settings),
        ),
        models,
        probabilities,
    )


def _learning_curve(dataset: Dataset, whole: bytes, settings: Settings) -> tuple[Point, ...]:
    test = dataset.only(TEST)
    drawn = np.random.default_rng(settings.seed).permutation(np.flatnonzero(dataset.split == TRAIN))
    points = []
    for share in (*LEARNING_SHARES, 1.0):
        rows = round(share * len(drawn))
        kept = dataset.split != TRAIN
        kept[drawn[:rows]] = True
        part = dataset.take(kept)
        if len(np.unique(part.only(TRAIN).labels)) < len(CANDIDATES):
            continue
        booster = whole if share == 1.0 else train_xgboost(part, settings)
        said = booster_proba(booster, test.features).argmax(axis=1)
        points.append(Point(rows, *score.accuracy_and_regret(said, test, settings)))
    return tuple(points)


def _worth(rows: Rows, by_time: Rows, booster: bytes, ceilings: Sequence[Ceiling], settings: Settings) -> Worth:
    definitions = []
    for name in dict.fromkeys((settings.oracle, *DEFINITIONS)):
        other = by_time.relabelled(name)
        test = other.dataset.only(TEST)
        if name != settings.oracle:
            booster = train_xgboost(other.dataset, settings)
        said = booster_proba(booster, test.features).argmax(axis=1)
        accuracy, regret = score.accuracy_and_regret(said, test, settings)
        gap = score.gap_to_runner_up(test.costs_ms)
        definitions.append(
            Definition(
                name=name,
                mix=label_mix(test.labels),
                agreement=float((test.labels == by_time.dataset.only(TEST).labels).mean()),
                ties_1=float((gap < 0.01).mean()),
                ties_5=float((gap < 0.05).mean()),
                accuracy=accuracy,
                mean_regret=regret,
                gain_over_zstd=score.gain_over_zstd(said, test, settings),
            )
        )
    runs, counts = np.unique(rows.numbers("measured_runs").astype(np.int64), return_counts=True)
    return Worth(
        tuple(definitions),
        (*ceilings, *ceilings_in(rows, settings.oracle, settings.seed)),
        {str(run): int(count) for run, count in zip(runs, counts, strict=True)},
    )


def _mistakes(test: Dataset, probabilities: NDArray[np.float32]) -> tuple[tuple[Mistake, ...], tuple[MistakeKind, ...]]:
    """The mistakes that cost most time, and all of them by kind."""
    said: Ints = probabilities.argmax(axis=1)
    oracle = metrics.oracle_cost(test.costs_ms)
    lost = metrics.cost_of(test.costs_ms, said) - oracle
    gap = score.gap_to_runner_up(test.costs_ms)
    wrong = np.flatnonzero(said != test.labels)
    shown = tuple(
        Mistake(
            object_id=str(test.object_id[row]),
            version=int(test.object_version[row]),
            data_type=str(test.data_type[row]),
            link_type=str(test.link_type[row]),
            size_bytes=int(test.size_bytes[row]),
            truth=CANDIDATES[test.labels[row]],
            said=CANDIDATES[said[row]],
            confidence=float(probabilities[row].max()),
            oracle_ms=float(oracle[row]),
            lost_ms=float(lost[row]),
            gap=float(gap[row]),
        )
        for row in wrong[np.argsort(-lost[wrong], kind="stable")][:MISTAKES_SHOWN]
    )
    whole = max(float(lost[wrong].sum()), 1e-12)
    kinds = [
        MistakeKind(CANDIDATES[truth], CANDIDATES[claim], str(link), int(here.sum()), float(lost[here].sum()) / whole)
        for truth in range(len(CANDIDATES))
        for claim in range(len(CANDIDATES))
        for link in np.unique(test.link_type)
        if truth != claim and (here := (test.labels == truth) & (said == claim) & (test.link_type == link)).any()
    ]
    return shown, tuple(sorted(kinds, key=lambda kind: -kind.share_of_lost))


def _machine() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{cpu or platform.machine()}, {os.cpu_count()} cores"
