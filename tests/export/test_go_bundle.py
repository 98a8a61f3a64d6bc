"""The Go module is asked for its answers: probabilities, labels, decisions and rules, on vectors that are hard."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import trained
from dwcp import rules
from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST, FEATURES, REASONS, SIZE_BINS_BYTES
from dwcp.decision import Rule, decide
from dwcp.export import go_bundle
from dwcp.export.go_bundle import build_go_bundle
from dwcp.export.onnx_graph import ExportError
from dwcp.export.parity import FAR, FAR_FACTOR, OUTLIER_SHARE, REFUSED, TOLERANCE, hard_rows
from dwcp.rules import choose_by_rules
from dwcp.training.dataset import TEST

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

MODULE = Path(__file__).parents[2] / "go"
AT = {feature.name: position for position, feature in enumerate(FEATURES)}
ANSWER = np.dtype([("probabilities", "<f4", len(CANDIDATES)), ("label", "u1")])
DECISION = np.dtype([*ANSWER.descr, ("executed", "u1"), ("reason", "u1"), ("by_rules", "u1")])


@pytest.fixture(scope="module")
def ensemble():
    return trained.ensemble()


@pytest.fixture(scope="module")
def vectors(ensemble):
    """More than 10^5 rows, by kind."""
    rows = trained.dataset().only(TEST).features
    kinds = hard_rows(ensemble, rows, seed=0)
    for seed in (1, 2):
        kinds = {
            name: np.concatenate([kinds[name], more]) for name, more in hard_rows(ensemble, rows, seed=seed).items()
        }
    return {"held-out rows": rows, **kinds}


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: its module cannot be asked")
    path = tmp_path_factory.mktemp("go") / "parity"
    subprocess.run(["go", "build", "-o", str(path), "./internal/parity"], cwd=MODULE, check=True)
    return path


@pytest.fixture
def ask(program, tmp_path):
    """The Go module's answers with a bundle to rows; a refusal raises ``CalledProcessError``."""

    def answers(bundle, rows, kind=ANSWER):
        path = tmp_path / "model.dwcp"
        path.write_bytes(bundle)
        command = [program, *(["-decide"] if kind is DECISION else []), path]
        given = np.ascontiguousarray(rows, "<f4").tobytes()
        return np.frombuffer(subprocess.run(command, input=given, capture_output=True, check=True).stdout, kind)

    return answers


def compare(ensemble, found, rows, factor=1.0):
    """Outliers, refused rows and other labels outside ties, as ``dwcp.export.parity`` counts them."""
    reference = ensemble.predict_proba(rows)
    difference = np.abs(found["probabilities"] - reference).max(axis=1)
    ranked = np.sort(reference, axis=1)
    tie = ranked[:, -1] - ranked[:, -2] <= 2 * TOLERANCE * factor
    labels = (found["label"] != reference.argmax(axis=1)) & ~tie
    over = (np.count_nonzero(~(difference <= limit * factor)) for limit in (TOLERANCE, REFUSED))
    return (*over, np.count_nonzero(labels))


def test_the_go_module_is_the_function_that_was_trained(ensemble, vectors, ask):
    assert sum(map(len, vectors.values())) >= 100_000
    bundle = build_go_bundle(ensemble, "v1")
    for name, rows in vectors.items():
        outliers, refused, labels = compare(ensemble, ask(bundle, rows), rows, FAR_FACTOR if name == FAR else 1.0)
        assert (refused, labels) == (0, 0), name
        assert outliers <= OUTLIER_SHARE * len(rows), name


@pytest.mark.parametrize("weight", [0.0, 0.35, 1.0])
def test_either_part_alone_and_another_blend(ensemble, vectors, ask, weight):
    blended, rows = dataclasses.replace(ensemble, xgboost_weight=weight), vectors["held-out rows"]
    assert compare(blended, ask(build_go_bundle(blended, "v"), rows), rows) == (0, 0, 0)


def with_booster(ensemble, change):
    booster = json.loads(ensemble.booster)
    change(booster["learner"]["gradient_booster"]["model"])
    return dataclasses.replace(ensemble, booster=json.dumps(booster).encode())


def one_threshold_by_one_ulp(ensemble):
    def change(model):
        tree = model["trees"][3]
        threshold = np.float32(tree["split_conditions"][0])
        tree["split_conditions"][0] = float(np.nextafter(threshold, np.float32(np.inf)))

    return with_booster(ensemble, change)


def two_labels_of_one_round_swapped(ensemble):
    def change(model):
        model["tree_info"][3:5] = model["tree_info"][4], model["tree_info"][3]

    return with_booster(ensemble, change)


def one_weight_of_the_network(ensemble):
    network = {name: value.copy() for name, value in ensemble.network.items()}
    network["dense_1/kernel"][2, 5] += 0.05
    return dataclasses.replace(ensemble, network=network)


@pytest.mark.parametrize(
    "change", [one_threshold_by_one_ulp, two_labels_of_one_round_swapped, one_weight_of_the_network]
)
def test_a_mutated_model_is_caught(ensemble, vectors, ask, change):
    bundle = build_go_bundle(change(ensemble), "mutated")
    found = [compare(ensemble, ask(bundle, rows), rows) for name, rows in vectors.items() if name != FAR]
    assert sum(refused + labels for _, refused, labels in found) > 0


def rule_rows(rows, rng):
    """Rows at the ends of what rules and decisions tell apart, an ulp to either side of them, and in between."""
    rows = rows[rng.integers(len(rows), size=50_000)]
    ends = {
        "size_bytes": [*SIZE_BINS_BYTES, 1],
        "compressibility_score": [rules.MINIMAL_SAVING, 0, 1],
        "delta_potential": [rules.MINIMAL_SAVING, rules.KNOWN_BLOCKS, 0],
        "bandwidth_mbps": [
            rules.WIRE_OUTRUNS_CODECS_MBPS,
            rules.WIRE_WAITS_FOR_DICTIONARY_MBPS,
            rules.SLOW_WIRE_MBPS,
        ],
        "packet_loss_rate": [0, 0.01, 0.5],
        "recent_hde_ratio": [4, 2],
        "recent_amst_ratio": [1, 2],
        "history_source": [0, 1, 2],
        **{f"{probe}{name}_cost_ratio": [0, 0.5, 1] for probe in ("", "probe_") for name in ("hde", "amst", "zstd")},
    }
    for name, values in ends.items():
        exact = np.array(values, np.float32)
        some = np.concatenate([exact, np.nextafter(exact, np.float32(np.inf)), np.nextafter(exact, np.float32(0))])
        chosen = rng.random(len(rows)) < 0.5
        rows[chosen, AT[name]] = some[rng.integers(len(some), size=int(chosen.sum()))]
    return rows


@pytest.mark.parametrize("rule", [None, Rule(), Rule(0.75, (0.0, 0.1, 0.693))])
def test_decisions_and_rules_are_the_same(ensemble, vectors, ask, rule):
    ruled = ensemble if rule is None else dataclasses.replace(ensemble, rule=rule)
    rows = np.concatenate([*vectors.values(), rule_rows(vectors["held-out rows"], np.random.default_rng(1))])
    found = ask(build_go_bundle(ruled, "v"), rows, DECISION)
    decided = decide(rows, found["probabilities"], found["label"].astype(np.int64), ruled.rule)
    np.testing.assert_array_equal(found["executed"], decided.executed)
    np.testing.assert_array_equal(np.array(REASONS)[found["reason"]], decided.reason)
    np.testing.assert_array_equal(found["by_rules"], choose_by_rules(rows))
    assert min(np.bincount(found["by_rules"])) > 100
    assert set(decided.reason) == {"model", "low_confidence", "not_worth_it"}


def test_a_row_that_is_not_finite_is_refused_by_name(ensemble, vectors, ask):
    rows = vectors["held-out rows"][:3].copy()
    rows[1, AT["rtt_ms"]] = np.nan
    with pytest.raises(subprocess.CalledProcessError) as refused:
        ask(build_go_bundle(ensemble, "v"), rows)
    assert b"row 1: feature rtt_ms is NaN" in refused.value.stderr


def test_the_same_ensemble_gives_the_same_bytes(ensemble):
    bundle = build_go_bundle(ensemble, "v1")
    assert bundle == build_go_bundle(ensemble, "v1")
    assert bundle != build_go_bundle(ensemble, "v2")
    assert len(bundle) < 10_000_000


def test_the_file_begins_and_ends_as_described(ensemble):
    bundle = build_go_bundle(ensemble, "v1")
    trees = len(json.loads(ensemble.booster)["learner"]["gradient_booster"]["model"]["trees"])
    header = np.frombuffer(bundle, "<u2", 4, len(go_bundle.MAGIC) + 8).tolist()
    assert bundle.startswith(go_bundle.MAGIC)
    assert np.frombuffer(bundle, "<u4", 2, len(go_bundle.MAGIC)).tolist() == [go_bundle.FORMAT, len(bundle)]
    assert header[:2] == [len(CANDIDATES), len(FEATURES)]
    assert np.frombuffer(bundle, "<u4", 2, len(go_bundle.MAGIC) + 16).tolist() == [trees, go_bundle.SAMPLES]
    assert FEATURE_SET_DIGEST.encode() in bundle[:200]
    assert bundle[-32:] == hashlib.sha256(bundle[:-32]).digest()


def test_samples_spread_over_every_feature_that_trees_ask_for(ensemble):
    samples = go_bundle.sample_rows(ensemble, go_bundle.read_booster(ensemble))
    trees = json.loads(ensemble.booster)["learner"]["gradient_booster"]["model"]["trees"]
    asked = {
        feature
        for tree in trees
        for feature, left in zip(tree["split_indices"], tree["left_children"], strict=True)
        if left != -1
    }
    spread = {column for column in range(len(FEATURES)) if len(np.unique(samples[:, column])) > 1}
    assert spread == asked
    assert len(set(ensemble.predict_proba(samples).argmax(axis=1))) == len(CANDIDATES)


def without_end(ensemble):
    network = {name: value.copy() for name, value in ensemble.network.items()}
    network["norm_0/gamma"][0] = np.float32(3e38)
    network["norm_0/variance"][0] = 0.0
    return dataclasses.replace(ensemble, network=network)


@pytest.mark.parametrize(
    ("limit", "value", "message"),
    [
        ("MOST_TREES", 10, "nodes load 10: train a smaller one"),
        ("MOST_THRESHOLDS", 20, "thresholds of rtt_ms; nodes load 20"),
        ("MOST_UNITS", 16, "units in a layer"),
        ("MOST_LAYERS", 1, "layers"),
        ("MOST_BYTES", 1_000, "nodes load 1,000"),
        ("MOST_TEXT_BYTES", 4, "nodes read 4"),
    ],
)
def test_what_no_node_would_load_is_refused(ensemble, monkeypatch, limit, value, message):
    monkeypatch.setattr(go_bundle, limit, value)
    with pytest.raises(ExportError, match=message):
        build_go_bundle(ensemble, "version")


def test_the_go_module_refuses_more_thresholds_than_it_has_places_for(ensemble, vectors, ask, monkeypatch):
    def every_branch_asks_for_another_rtt(model):
        number = 0
        for tree in model["trees"]:
            for node, left in enumerate(tree["left_children"]):
                if left != -1:
                    number += 1
                    tree["split_indices"][node], tree["split_conditions"][node] = 0, float(number)
        assert number > 1_023

    monkeypatch.setattr(go_bundle, "MOST_THRESHOLDS", 1_000_000)
    bundle = build_go_bundle(with_booster(ensemble, every_branch_asks_for_another_rtt), "v")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        ask(bundle, vectors["held-out rows"])
    assert b"allowed are 1023" in refused.value.stderr


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_numbers_that_are_not_finite_are_refused(ensemble):
    with pytest.raises(ExportError, match="not finite"):
        build_go_bundle(without_end(ensemble), "v")
