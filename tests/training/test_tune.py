"""The search finds settings on training and validation rows alone, and goes on where it was killed."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
import zlib

import numpy as np
import pytest

from dwcp.release.registry import settings_digest
from dwcp.settings import Settings
from dwcp.training import tune as module
from dwcp.training.dataset import TEST, DatasetError
from dwcp.training.split import split_by_time
from dwcp.training.tune import SEED_SETTINGS, TuningError, tune


@pytest.fixture
def home(quick, tmp_path):
    return quick.model_copy(update={"home": tmp_path})


def scores_of(cut, settings):
    """In place of two trainings: scores that every byte of a fold and every setting moves."""
    parts = cut.data.to_parquet_bytes(), cut.scored.to_parquet_bytes(), settings.model_dump_json(exclude={"home"})
    seed = zlib.crc32(b"".join(part if isinstance(part, bytes) else part.encode() for part in parts))
    return np.random.default_rng(seed).random((len(module.WEIGHTS), 2))


@pytest.fixture
def cheap(monkeypatch):
    """For tests of the search itself, which does not care what trains."""
    monkeypatch.setattr(module, "_fold_scores", scores_of)


def same(one, other):
    """Equal but for the file that the study lies in, which is named after the rows and the settings."""
    return dataclasses.asdict(one) == dataclasses.asdict(other)


def test_a_search_brings_settings_that_the_environment_carries_and_a_version_shows(dataset, home, monkeypatch, caplog):
    caplog.set_level("INFO", "dwcp.training.tune")
    found = tune(dataset, home.model_copy(update={"network_epochs": 1}), trials=2, folds=1)
    assert found.trials == 2
    assert found.settings.keys() == SEED_SETTINGS.keys()
    # The seed's own settings are the first trial, so nothing worse can be the best of the search.
    assert found.best_searched.accuracy >= found.seed_searched.accuracy
    lines = (home.home / "tuning" / "best.env").read_text().splitlines()
    before = Settings()
    for line in lines:
        if not line.startswith("#"):
            monkeypatch.setenv(*line.split("=", 1))
    after = Settings()
    assert {name: getattr(after, name) for name in SEED_SETTINGS} == found.settings
    assert (settings_digest(after) != settings_digest(before)) == (found.settings != SEED_SETTINGS)
    written = json.loads((home.home / "tuning" / "best.json").read_text())
    assert Settings(**written["settings"]).xgboost_max_depth == found.settings["xgboost_max_depth"]
    assert sum("of 2: accuracy" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("name", SEED_SETTINGS)
def test_each_searched_setting_is_part_of_a_version(name):
    value = SEED_SETTINGS[name]
    changed = Settings().model_copy(update={name: type(value)(value / 2)})
    assert settings_digest(changed) != settings_digest(Settings())


def test_each_searched_setting_reaches_a_head(dataset, quick):
    """A setting that changed nothing would be searched in vain."""
    settings = quick.model_copy(update={"network_epochs": 1})
    other = {"xgboost_max_depth": 4, "xgboost_min_child_weight": 10.0, "network_batch_rows": 128}
    for head, train in (("xgboost", module.train_xgboost), ("network", module.train_network)):
        names = [name for name in module.SEARCHED if name.startswith(head)]
        changed = [settings.model_copy(update={name: other.get(name, SEED_SETTINGS[name] / 2)}) for name in names]
        assert train(dataset, settings) not in [train(dataset, one) for one in changed], head


@pytest.mark.usefixtures("cheap")
def test_test_rows_are_not_looked_at(dataset, home):
    """Nonsense in the test split, and the same study finds the same."""
    test = dataset.split == TEST
    nonsense = dataset.features.copy()
    nonsense[test] *= 1_000
    costs = dataset.costs_ms.copy()
    costs[test] *= 7
    other = dataclasses.replace(
        dataset, features=nonsense, costs_ms=costs, labels=np.where(test, (dataset.labels + 1) % 3, dataset.labels)
    )
    elsewhere = home.model_copy(update={"home": home.home / "other"})
    assert same(tune(dataset, home, trials=3, folds=2), tune(other, elsewhere, trials=3, folds=2))


@pytest.mark.parametrize("folds", [1, 3])
def test_folds_learn_from_the_past_and_no_trial_sees_the_last_block(dataset, settings, folds):
    rows = module._searched_rows(dataset, 10**9)
    cuts = [module._fold(rows, number, folds, settings) for number in range(folds + 1)]
    for cut in cuts:
        stops = cut.data.only(module.VALIDATION)
        assert cut.data.only(module.TRAIN).timestamp_ns.max() <= stops.timestamp_ns.min()
        assert stops.timestamp_ns.max() <= cut.scored.timestamp_ns.min()
        assert not np.isin(cut.scored.payload_digest, cut.data.payload_digest).any()
    last = cuts[-1].scored.timestamp_ns.min()
    assert all(cut.scored.timestamp_ns.max() <= last for cut in cuts[:-1])
    assert cuts[-1].scored.timestamp_ns.max() < dataset.only(TEST).timestamp_ns.min()


def test_many_rows_are_thinned_evenly_over_time(dataset):
    rows = module._searched_rows(dataset, 100)
    assert rows.rows == 100
    whole = module._searched_rows(dataset, 10**9)
    assert (rows.timestamp_ns[0], rows.timestamp_ns[-1]) == (whole.timestamp_ns[0], whole.timestamp_ns[-1])


def test_hopeless_trials_are_stopped_after_a_fold(dataset, home, monkeypatch):
    """Every trial after those that set the measure is worse than their median at once."""
    calls = []

    def scores(cut, settings):
        calls.append(settings.xgboost_learning_rate)
        trial = len(set(calls))
        return np.full((len(module.WEIGHTS), 2), 0.9 if trial <= module._BEFORE_PRUNING else 0.1)

    monkeypatch.setattr(module, "_fold_scores", scores)
    found = tune(dataset, home, trials=7, folds=3)
    assert (found.trials, found.pruned) == (7, 3)
    # Four trials of three folds, three of one, and two trainings on the last block.
    assert len(calls) == 4 * 3 + 3 + 2
    assert found.settings == SEED_SETTINGS, "equals stay with the seed"


@pytest.mark.usefixtures("cheap")
def test_a_search_goes_on_with_a_larger_budget(dataset, home, monkeypatch):
    tried = []
    real = module._run_trial
    monkeypatch.setattr(module, "_run_trial", lambda *arguments: tried.append(1) or real(*arguments))
    tune(dataset, home, trials=1, folds=1)
    tune(dataset, home, trials=3, folds=1)
    assert len(tried) == 3


@pytest.mark.usefixtures("cheap")
def test_a_search_killed_in_the_middle_finds_what_it_would_have_found(dataset, home, tmp_path):
    """Killed as a power cut does it, inside one of fourteen trials, in a process of its own."""
    (tmp_path / "dataset.parquet").write_bytes(dataset.to_parquet_bytes())
    program = f"""
import os, sys, zlib
import numpy as np
from pathlib import Path
from dwcp.settings import Settings
from dwcp.training import tune as module
from dwcp.training.dataset import Dataset

{inspect.getsource(scores_of)}
calls = []
def score(*arguments):
    calls.append(1)
    if len(calls) == 16:
        os.kill(os.getpid(), 9)
    return scores_of(*arguments)
module._fold_scores = score
settings = Settings(training_threads=1, xgboost_rounds=10, network_epochs=3, home=Path(sys.argv[2]))
module.tune(Dataset.from_parquet_bytes(Path(sys.argv[1]).read_bytes()), settings, trials=14, folds=3)
"""
    command = [sys.executable, "-c", program, tmp_path / "dataset.parquet", tmp_path / "killed"]
    assert subprocess.run(command, check=False, cwd=tmp_path).returncode == -9
    killed = home.model_copy(update={"home": tmp_path / "killed"})
    assert list((killed.home / "tuning").glob("*.sqlite"))
    assert not (killed.home / "tuning" / "best.env").exists()
    assert same(tune(dataset, killed, trials=14, folds=3), tune(dataset, home, trials=14, folds=3))


def test_two_searches_of_one_study_do_not_mix(dataset, home, monkeypatch):
    seen = []

    def scores(cut, settings):
        with pytest.raises(TuningError, match="another dwcp tune"):
            tune(dataset, home, trials=1, folds=1)
        seen.append(1)
        return np.full((len(module.WEIGHTS), 2), 0.5)

    monkeypatch.setattr(module, "_fold_scores", scores)
    tune(dataset, home, trials=1, folds=1)
    assert seen


def test_rows_that_fill_no_block_are_refused(dataset, settings, home):
    one = dataclasses.replace(dataset, payload_digest=np.full(dataset.rows, "same"))
    with pytest.raises(DatasetError, match=r"time block 3 of 5: .* fewer folds"):
        tune(one, home, trials=1, folds=2)
    assert split_by_time(dataset, settings).rows
