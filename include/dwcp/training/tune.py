"""``dwcp tune``: a search of the hyperparameters and the ensemble's weight (seed §5.2, §10.1). Off by default.

Rows of training and validation only, in time order, in ``folds + 3`` blocks of equal size. Fold f learns from the first
f + 1 blocks, stops early on the next and is scored on the one after: always the future, and never the block that
stopped it. The last block belongs to no fold: seed's and best settings are compared on it once, at the end, because a
winner's score on the blocks that chose it flatters. Test rows are not looked at, so a tuned model's gate is as honest
as any other's.

The study lies in SQLite below ``DWCP_HOME/tuning``; a search that was killed goes on with the trial it was in. The same
rows, settings and budget give the same result, killed or not: each trial's sampler is seeded by the trials finished
before it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dwcp.settings import Settings
from dwcp.store import write_atomically
from dwcp.training.dataset import TEST, TRAIN, VALIDATION, Dataset, DatasetError
from dwcp.training.ensemble import Network, booster_proba
from dwcp.training.network import train_network
from dwcp.training.split import split_by_time
from dwcp.training.xgb import train_xgboost

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

WEIGHTS = np.linspace(0.0, 1.0, 21)
"""Ensemble weights, all scored in every trial: blending costs nothing once both heads are trained."""
SEARCHED = (
    "xgboost_max_depth",
    "xgboost_learning_rate",
    "xgboost_subsample",
    "xgboost_colsample",
    "xgboost_min_child_weight",
    "xgboost_lambda",
    "network_learning_rate",
    "network_dropout",
    "network_batch_rows",
)
SEED_SETTINGS: dict[str, float] = {name: Settings.model_fields[name].default for name in (*SEARCHED, "xgboost_weight")}
_BEFORE_PRUNING = 4
_RANDOM_TRIALS = 8


class TuningError(RuntimeError):
    """Another process works on the same study."""


@dataclass(frozen=True, slots=True)
class Score:
    """Strict accuracy, and mean regret as a share of the oracle's cost, of the ensemble's argmax."""

    accuracy: float
    regret: float

    def __str__(self) -> str:
        return f"accuracy {self.accuracy:.2%}, regret {self.regret:.3%}"


@dataclass(frozen=True, slots=True)
class Tuned:
    """The best settings found, by their names in ``Settings``, and what they brought against the seed's.

    ``seed_searched`` and ``best_searched`` are means over the folds that chose; ``seed_confirmed`` and
    ``best_confirmed`` are of the last block, which no trial saw.
    """

    settings: dict[str, float]
    seed_searched: Score
    best_searched: Score
    seed_confirmed: Score
    best_confirmed: Score
    trials: int
    pruned: int
    folds: int
    rows: int
    study: str

    @property
    def confirmed(self) -> bool:
        """Whether the best settings are the better ones on the block that no trial saw."""
        return self.best_confirmed.accuracy > self.seed_confirmed.accuracy

    def lines(self) -> list[str]:
        """What was searched and what it brought."""
        last = "the block that no trial saw"
        return [
            f"{self.trials} trials, {self.pruned} stopped early, on {self.rows} rows of training and validation",
            f"mean of {self.folds} folds: seed {self.seed_searched}; best {self.best_searched}",
            f"{last}: seed {self.seed_confirmed}; best {self.best_confirmed}",
            f"the best settings are the better ones on {last} too"
            if self.confirmed
            else f"the best settings are no better on {last}: keep the seed's",
        ]

    def environment(self) -> str:
        """Lines that a shell reads (``set -a; . best.env``) and ``Settings`` then finds."""
        comments = [f"# {line}" for line in self.lines()]
        return "\n".join([*comments, *(f"DWCP_{name.upper()}={value}" for name, value in self.settings.items())]) + "\n"


@dataclass(frozen=True, slots=True)
class _Fold:
    """One cut of the rows: ``data``'s validation split stops the training, its test split is ``scored``."""

    data: Dataset
    scored: Dataset


def tune(dataset: Dataset, settings: Settings, *, trials: int = 20, folds: int = 3, most_rows: int = 20_000) -> Tuned:
    """Search with a budget of ``trials``, the first with the seed's settings; write ``best.env`` and ``best.json``.

    ``dataset`` is split; its test rows are left out. Of more than ``most_rows`` an even thinning is used. Trials that
    the study already holds count. Raises ``DatasetError`` if a block lacks what training needs, ``TuningError`` if
    another process works on this study.
    """
    rows = _searched_rows(dataset, most_rows)
    cuts = [_fold(rows, number, folds, settings) for number in range(folds + 1)]
    study_id = _study_id(rows, settings, folds)
    folder = settings.home / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study_id}.sqlite"
    with _alone(path):
        study = _open_study(path)
        _search(study, cuts[:-1], settings, trials)
        # A budget smaller than what the study holds looks at its first trials only: the same budget, the same result.
        done = _finished(study)[:trials]
        best = max(
            (t for t in done if t.value is not None and not t.user_attrs["pruned"]), key=lambda t: t.value or 0.0
        )
        found = {**best.params, "xgboost_weight": best.user_attrs["weight"]}
        log.info("the last block: seed's settings, then the best")
        at_seed, at_best = SEED_SETTINGS["xgboost_weight"], found["xgboost_weight"]
        tuned = Tuned(
            settings={name: found[name] for name in SEED_SETTINGS},
            seed_searched=Score(**done[0].user_attrs["seed_score"]),
            best_searched=Score(**best.user_attrs["score"]),
            seed_confirmed=_score(_fold_scores(cuts[-1], _with(settings, SEED_SETTINGS))[None], at_seed),
            best_confirmed=_score(_fold_scores(cuts[-1], _with(settings, found))[None], at_best),
            trials=len(done),
            pruned=sum(t.user_attrs["pruned"] for t in done),
            folds=folds,
            rows=rows.rows,
            study=path.name,
        )
        write_atomically(folder / "best.env", tuned.environment().encode())
        write_atomically(folder / "best.json", json.dumps(asdict(tuned), indent=2).encode())
    return tuned


def _searched_rows(dataset: Dataset, most_rows: int) -> Dataset:
    """Training and validation rows in time order, thinned evenly."""
    rows = dataset.only(TRAIN, VALIDATION)
    order = np.argsort(rows.timestamp_ns, kind="stable")
    if len(order) > most_rows:
        order = order[np.linspace(0, len(order) - 1, most_rows).astype(np.int64)]
    return rows.take(order)


def _fold(rows: Dataset, number: int, folds: int, settings: Settings) -> _Fold:
    """The first ``number + 3`` blocks: all but two of them teach, one stops, the last is scored."""
    blocks = number + 3
    shares = {"train_share": (number + 1) / blocks, "validation_share": 1 / blocks}
    end = rows.rows * blocks // (folds + 3)
    try:
        data = split_by_time(rows.take(np.arange(end)), settings.model_copy(update=shares))
    except DatasetError as error:
        raise DatasetError(f"time block {blocks} of {folds + 3}: {error} (or tune with fewer folds)") from None
    return _Fold(data.only(TRAIN, VALIDATION), data.only(TEST))


def _study_id(rows: Dataset, settings: Settings, folds: int) -> str:
    """Names the rows and everything beside the searched settings that a trial's result depends on."""
    parts = [hashlib.sha256(rows.to_parquet_bytes()).hexdigest(), folds, settings.seed, settings.training_threads]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    with path.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TuningError(
                f"another dwcp tune works on {path}: wait for it, or stop it and run this again"
            ) from None
        yield


def _open_study(path: Path) -> optuna.Study:
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=f"sqlite:///{path}",
        study_name="dwcp",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_BEFORE_PRUNING),
    )
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):  # killed in the middle
        study.tell(trial.number, state=TrialState.FAIL)
    return study


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _search(study: optuna.Study, cuts: list[_Fold], settings: Settings, trials: int) -> None:
    import optuna
    from optuna.trial import TrialState

    while (number := len(_finished(study))) < trials:
        # Seeded anew by what is finished: a search that goes on draws what it would have drawn.
        study.sampler = optuna.samplers.TPESampler(seed=settings.seed + number, n_startup_trials=_RANDOM_TRIALS)
        if number == 0 and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            study.enqueue_trial({name: SEED_SETTINGS[name] for name in SEARCHED})
        trial = study.ask()
        began = time.monotonic()
        scores, pruned = _run_trial(trial, cuts, settings)
        accuracy, weight = _best_weight(scores)
        score = _score(scores, weight)
        trial.set_user_attr("weight", weight)
        trial.set_user_attr("pruned", pruned)
        trial.set_user_attr("score", asdict(score))
        trial.set_user_attr("seed_score", asdict(_score(scores, SEED_SETTINGS["xgboost_weight"])))
        study.tell(trial, None if pruned else accuracy, state=TrialState.PRUNED if pruned else TrialState.COMPLETE)
        log.info(
            "trial %d of %d: %s, weight %.2f, %s%.0f s; best so far %.2f %%",
            *(number + 1, trials, score, weight),
            f"stopped after fold {len(scores)} of {len(cuts)}, " if pruned else "",
            *(time.monotonic() - began, study.best_value * 100),
        )


def _run_trial(trial: optuna.Trial, cuts: list[_Fold], settings: Settings) -> tuple[NDArray[np.float64], bool]:
    """Scores of the folds done, shape (folds, weights, 2), and whether the pruner stopped it."""
    chosen = _with(settings, _suggest(trial))
    done: list[NDArray[np.float64]] = []
    for number, cut in enumerate(cuts):
        done.append(_fold_scores(cut, chosen))
        trial.report(_best_weight(np.array(done))[0], number)
        if number + 1 < len(cuts) and trial.should_prune():
            return np.array(done), True
    return np.array(done), False


def _suggest(trial: optuna.Trial) -> dict[str, float]:
    """Trees no deeper than the exports' tables; the network keeps the seed's shape."""
    return {
        "xgboost_max_depth": trial.suggest_int("xgboost_max_depth", 4, 8),
        "xgboost_learning_rate": trial.suggest_float("xgboost_learning_rate", 0.02, 0.3, log=True),
        "xgboost_subsample": trial.suggest_float("xgboost_subsample", 0.5, 1.0),
        "xgboost_colsample": trial.suggest_float("xgboost_colsample", 0.4, 1.0),
        "xgboost_min_child_weight": trial.suggest_float("xgboost_min_child_weight", 0.5, 20.0, log=True),
        "xgboost_lambda": trial.suggest_float("xgboost_lambda", 0.1, 20.0, log=True),
        "network_learning_rate": trial.suggest_float("network_learning_rate", 3e-4, 1e-2, log=True),
        "network_dropout": trial.suggest_float("network_dropout", 0.0, 0.5),
        "network_batch_rows": trial.suggest_categorical("network_batch_rows", [128, 256, 512, 1_024]),
    }


def tuned_settings(settings: Settings) -> Settings | None:
    """The best settings that a search of this installation wrote, or None if there was none."""
    written = settings.home / "tuning" / "best.json"
    return _with(settings, json.loads(written.read_text())["settings"]) if written.exists() else None


def _with(settings: Settings, found: dict[str, float]) -> Settings:
    return settings.model_copy(update=found)


def _fold_scores(cut: _Fold, settings: Settings) -> NDArray[np.float64]:
    """Accuracy and regret of every weight on the scored block, shape (weights, 2)."""
    trees = booster_proba(train_xgboost(cut.data, settings), cut.scored.features)
    network = Network.from_bytes(train_network(cut.data, settings)).predict_proba(cut.scored.features)
    best_ms = cut.scored.costs_ms[np.arange(cut.scored.rows), cut.scored.labels]
    scores = []
    for weight in WEIGHTS:
        choice = (weight * trees + (1 - weight) * network).argmax(axis=1)
        spent_ms = cut.scored.costs_ms[np.arange(cut.scored.rows), choice]
        scores.append(((choice == cut.scored.labels).mean(), (spent_ms / best_ms - 1).mean()))
    return np.array(scores)


def _best_weight(scores: NDArray[np.float64]) -> tuple[float, float]:
    """Best mean accuracy over the folds of ``scores`` and its weight; of equals the one nearest to the seed's."""
    accuracy = scores[:, :, 0].mean(axis=0)
    best = np.flatnonzero(accuracy == accuracy.max())
    nearest = best[np.argmin(np.abs(WEIGHTS[best] - SEED_SETTINGS["xgboost_weight"]))]
    return float(accuracy[nearest]), round(float(WEIGHTS[nearest]), 2)


def _score(scores: NDArray[np.float64], weight: float) -> Score:
    """Means over the folds at the weight nearest to ``weight``."""
    accuracy, regret = scores[:, np.argmin(np.abs(WEIGHTS - weight))].mean(axis=0)
    return Score(float(accuracy), float(regret))
