from __future__ import annotations

import dataclasses
import json

import numpy as np
import onnx
import pytest

import trained
from dwcp.contract import CANDIDATES, FEATURES
from dwcp.decision import decide
from dwcp.export import parity
from dwcp.export.forms import GO, ONNX, TFLITE, build_forms
from dwcp.export.onnx_graph import build_onnx
from dwcp.export.runtime import ModelError, OnnxModel
from dwcp.release import evaluate as module
from dwcp.release.evaluate import EXECUTED, MODEL, Evaluation, evaluate
from dwcp.release.gate import Status, judge
from dwcp.training.dataset import TEST

SETTINGS = trained.SETTINGS


@pytest.fixture(scope="module", autouse=True)
def fewer_random_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "RANDOM_ROWS", 500)
        yield


@pytest.fixture(scope="module")
def dataset():
    return trained.dataset()


@pytest.fixture(scope="module")
def ensemble():
    return trained.ensemble()


@pytest.fixture(scope="module")
def forms(ensemble):
    return build_forms(ensemble, version="v1")


@pytest.fixture(scope="module")
def model(forms):
    return forms[ONNX]


@pytest.fixture(scope="module")
def champion():
    """A worse one: the network alone."""
    return build_onnx(dataclasses.replace(trained.ensemble(), xgboost_weight=0.0), version="v0")


@pytest.fixture(scope="module")
def found(fewer_random_rows, forms, dataset, ensemble, champion):
    random_split = (trained.dataset("random"), trained.ensemble())
    return evaluate(forms, dataset, ensemble, SETTINGS, champion=champion, random_split=random_split)


def test_figures_are_those_of_the_exported_file(found, model, dataset):
    test = dataset.only(TEST)
    probabilities, labels = OnnxModel(model).predict(test.features)
    asked, run = found.time.rung(MODEL), found.time.rung(EXECUTED)
    assert found.time.rows == test.rows
    assert asked.accuracy.estimate == pytest.approx((labels == test.labels).mean())
    assert asked.accuracy.lower < asked.accuracy.estimate < asked.accuracy.upper
    chosen = decide(test.features, probabilities, labels, OnnxModel(model).rule).executed
    spent_ms = test.costs_ms[np.arange(test.rows), chosen].sum()
    paid_ms = spent_ms + test.look_ms.sum()
    assert run.gain_over_zstd.estimate == pytest.approx(test.costs_ms[:, 3].sum() / paid_ms - 1)
    assert found.time.rung("always zstd").gain_over_zstd.estimate == 0
    assert run.throughput_mbps == pytest.approx(test.size_bytes.sum() * 8 / 1e6 / (spent_ms / 1e3))
    assert sum(found.time.fallbacks.values()) == (chosen == 3).sum()
    assert sum(map(sum, found.time.confusion)) == test.rows
    assert sum(part.rows for part in found.time.slices) == test.rows
    assert sum(part.rows for part in found.time.classes) == test.rows


def test_ladder_holds_the_baselines(found):
    names = [rung.name for rung in found.time.ladder]
    assert names == ["majority class", "always zstd", "rules", "XGBoost alone", "network alone", MODEL, EXECUTED]
    assert found.time.rung("always zstd").gain_over_zstd.estimate == 0
    assert found.time.rung("always zstd").accuracy.estimate == 0
    assert found.time.rung("rules").gain_over_rules.estimate == 0
    assert found.time.rung("majority class").accuracy.estimate < found.time.rung(MODEL).accuracy.estimate
    assert [rung.name for rung in found.random.ladder] == names
    with pytest.raises(KeyError):
        found.time.rung("an oracle")


def test_model_is_compared_with_the_champion_on_the_same_rows(found, champion, dataset):
    test = dataset.only(TEST)
    other = OnnxModel(champion).predict(test.features)[1]
    expected = found.time.rung(MODEL).accuracy.estimate - (other == test.labels).mean()
    assert found.champion.version == "v0"
    assert found.champion.accuracy.estimate == pytest.approx(expected)
    assert found.champion.accuracy.lower > 0
    assert found.champion.worst_slice.split(" / ")[0] in {"dc", "metro", "wan"}


def test_a_model_against_itself_differs_in_nothing(forms, dataset, ensemble):
    itself = evaluate(forms, dataset, ensemble, SETTINGS, champion=forms[ONNX]).champion
    for interval in (itself.accuracy, itself.mean_regret, itself.throughput):
        assert (interval.estimate, interval.lower, interval.upper) == (0, 0, 0)


def test_importance_names_what_the_labels_depend_on(found):
    names = [part.name for part in found.importance]
    assert "bandwidth_mbps" in names[:3]
    constant = next(part for part in found.importance if part.name == "recent_hde_ratio")
    assert (constant.accuracy_lost, constant.regret_added) == (0, 0)


def test_parity_and_footprint_are_part_of_it(found):
    assert found.parity.agrees
    assert found.parity.forms == (ONNX, TFLITE, GO)
    assert set(found.sizes_bytes) == {ONNX, TFLITE, GO}
    assert found.measured.latency_p99_ms > 0
    assert found.size_bytes > 10_000


def test_evaluation_survives_json_and_repeats_without_what_was_measured(found, forms, dataset, ensemble):
    assert Evaluation.from_json(found.to_json()) == found
    again = evaluate(forms, dataset, ensemble, SETTINGS)
    first = dataclasses.replace(found, random=None, champion=None)
    assert again.without_measured().to_json() == first.without_measured().to_json()
    assert "latency" not in again.without_measured().to_json()
    with pytest.raises(ValueError):
        Evaluation.from_json("{}")


def test_figures_for_the_registry(found):
    figures = found.figures()
    assert figures["accuracy"] == found.time.rung(MODEL).accuracy.estimate
    assert figures["throughput_mbps"] > 0
    assert json.dumps(figures)


def degenerate(name, dataset):
    test = dataset.split == TEST
    if name == "no test rows":
        return dataset.take(~test)
    if name == "one test row":
        return dataset.take(np.concatenate([np.flatnonzero(~test), np.flatnonzero(test)[:1]]))
    if name == "one object":
        return dataclasses.replace(dataset, object_id=np.full(dataset.rows, "the only one"))
    return dataset.take(~test | (dataset.labels == CANDIDATES.index("none")))


@pytest.mark.parametrize("name", ["no test rows", "one test row", "one object", "one class"])
def test_degenerate_input_is_told_and_never_passes(name, forms, dataset, ensemble):
    few = degenerate(name, dataset)
    found = evaluate(forms, few, ensemble, SETTINGS, champion=forms[ONNX])
    assert Evaluation.from_json(found.to_json()) == found
    assert found.time.rows == np.count_nonzero(few.split == TEST)
    verdict = judge(found, SETTINGS.model_copy(update={"gate_min_rows": 1}))
    assert verdict.status is not Status.PASS
    if name == "one object":
        assert found.time.rung(MODEL).accuracy.lower is None
    if name == "one class":
        assert found.time.classes[0].recall.estimate is None


@pytest.mark.parametrize("form", [ONNX, TFLITE])
def test_a_form_of_another_model_cannot_pass(form, forms, dataset, ensemble):
    another = build_forms(dataclasses.replace(ensemble, xgboost_weight=0.71), version="v1")
    found = evaluate(forms | {form: another[form]}, dataset, ensemble, SETTINGS)
    line = next(line for line in judge(found, SETTINGS).lines if line.source == "parity")
    assert line.status is Status.FAIL


def test_a_form_that_was_not_compared_holds_the_release(forms, dataset, ensemble):
    found = evaluate({ONNX: forms[ONNX], TFLITE: forms[TFLITE]}, dataset, ensemble, SETTINGS)
    line = next(line for line in judge(found, SETTINGS).lines if line.source == "parity")
    assert (line.status, line.reason) == (Status.INCONCLUSIVE, "was not measured")


def test_a_model_of_another_contract_is_refused(forms, model, dataset, ensemble):
    other = onnx.load_from_string(model)
    next(part for part in other.metadata_props if part.key == "feature_set_digest").value = "another"
    with pytest.raises(ValueError, match="export it again"):
        evaluate(forms | {ONNX: other.SerializeToString()}, dataset, ensemble, SETTINGS)


def test_a_dataset_without_a_feature_is_refused(forms, dataset, ensemble):
    fewer = dataset.select(dataset.feature_names[:-1])
    with pytest.raises(ValueError, match=f"no feature {FEATURES[-1].name}"):
        evaluate(forms, fewer, ensemble, SETTINGS)


@pytest.mark.parametrize("form", [ONNX, TFLITE, GO])
def test_a_damaged_model_is_refused(form, forms, dataset, ensemble):
    with pytest.raises(ModelError):
        evaluate(forms | {form: forms[form][:1_000]}, dataset, ensemble, SETTINGS)


def test_importance_draws_no_more_rows_than_it_says(monkeypatch, model, dataset):
    monkeypatch.setattr(module, "IMPORTANCE_ROWS", 50)
    parts = module._importance(OnnxModel(model), dataset.only(TEST), 0)
    assert {round(part.accuracy_lost * 50, 6) % 1 for part in parts} == {0}


def test_a_champion_of_features_that_are_gone_is_named(forms, model, dataset, ensemble):
    other = onnx.load_from_string(model)
    names = next(part for part in other.metadata_props if part.key == "feature_names")
    names.value = names.value.replace("rtt_bin", "rtt_bucket")
    found = evaluate(forms, dataset, ensemble, SETTINGS, champion=other.SerializeToString())
    assert found.champion.accuracy.estimate is None
    assert "rtt_bucket" in found.champion.note
