"""Small but real models, registered and bundled, for tests that need a release but no training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psycopg2
from pydantic import SecretStr

from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST, FEATURES
from dwcp.decision import Rule
from dwcp.release.bundle import Bundle, write_bundle
from dwcp.release.registry import ModelVersion, register
from dwcp.release.signing import load_signer
from dwcp.settings import Settings
from dwcp.watch.profile import profile_of
from dwcp.window import Window

NAMES = tuple(feature.name for feature in FEATURES)
SAMPLE = np.random.default_rng(0).uniform(-1, 1, (16, len(FEATURES))).astype(np.float32)
MODEL = ModelVersion(
    version="v1",
    run_id="run-1",
    window=Window.parse("2026-06-01", "2026-07-27"),
    dataset_digest="d" * 64,
    code_digest="c" * 64,
    lock_digest="1" * 64,
    settings_digest="5" * 64,
    weights_digest="a" * 64,
    artifacts={"model.onnx": f"sha256:{'0' * 64}/model.onnx"},
    metrics={"accuracy": {"estimate": 0.985}},
    verdict="PASS",
    reasons=[],
    training_profile=profile_of(SAMPLE),
    accuracy=0.985,
    throughput_mbps=100.0,
)


RULE = Rule(0.6, (0.1, 0.1, 0.1))
"""Under which ``tiny_onnx`` runs its choices."""


def tiny_onnx(version: str, *, metadata: Mapping[str, str] | None = None) -> bytes:
    """Softmax regression over the contract's features; the weights follow from the version."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(list(version.encode()))
    weights = rng.normal(size=(len(FEATURES), len(CANDIDATES))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "weights"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        ],
        "tiny",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", len(FEATURES)])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(CANDIDATES)]),
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    described = {
        "version": version,
        "feature_names": json.dumps(NAMES),
        "classes": json.dumps(CANDIDATES),
        "feature_set_digest": FEATURE_SET_DIGEST,
        "rule": RULE.to_json(),
    }
    helper.set_model_props(model, {**described, **(metadata or {})})
    return model.SerializeToString()


@cache
def tiny_forms(version: str, weights: str | None = None) -> dict[str, bytes]:
    """Every form of an ensemble of two rounds and one dense layer, its weights drawn for the version, or another."""
    import xgboost

    from dwcp.export.forms import build_forms
    from dwcp.training.ensemble import Ensemble

    rng = np.random.default_rng(list((weights or version).encode()))
    rows, labels = rng.uniform(-1, 1, (200, len(FEATURES))).astype(np.float32), rng.integers(len(CANDIDATES), size=200)
    settings = {"objective": "multi:softprob", "num_class": len(CANDIDATES), "max_depth": 2, "nthread": 1}
    booster = xgboost.train(settings, xgboost.DMatrix(rows, labels), num_boost_round=2)
    ensemble = Ensemble(
        booster=bytes(booster.save_raw("json")),
        network={
            "dense_0/kernel": rng.normal(size=(len(FEATURES), len(CANDIDATES))).astype(np.float32),
            "dense_0/bias": np.zeros(len(CANDIDATES), np.float32),
        },
        mean=np.zeros(len(FEATURES), np.float32),
        scale=np.ones(len(FEATURES), np.float32),
        xgboost_weight=0.5,
        feature_names=NAMES,
        rule=RULE,
    )
    return build_forms(ensemble, version=version)


def settings_for(home: Path, warehouse: object, **chosen: object) -> Settings:
    """Settings of an installation of its own, on a test's database; what is published serves at once, unless told."""
    dsns = {f"{role}_dsn": SecretStr(getattr(warehouse, f"{role}_dsn")) for role in ("loader", "reader", "registry")}
    return Settings(home=home, **{"rollout_immediate": True, **dsns, **chosen})


def clear(warehouse: object) -> None:
    """Empty the registry of a database that tests share; only its owner can, by lifting what makes it append-only."""
    tables = (
        *("model_versions", "releases", "rollout_transitions", "rollout_pauses"),
        *("watch_observations", "field_figures"),
    )
    with psycopg2.connect(warehouse.owner_dsn) as db, db.cursor() as cursor:  # type: ignore[attr-defined]
        for table in tables:
            cursor.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        cursor.execute(f"TRUNCATE {', '.join(tables)}")
        for table in tables:
            cursor.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    db.close()


def bundle_of(settings: Settings, version: str, card: str = "# card\n") -> Bundle:
    """The version's bundle, written."""
    signer = load_signer(settings)
    return write_bundle(
        settings.bundle_dir, signer, version=version, models=tiny_forms(version), card=card, sample=SAMPLE
    )


def ready(settings: Settings, *versions: str, **changes: object) -> None:
    """Each version registered (``MODEL`` with ``changes``) and bundled, ready to publish."""
    for version in versions:
        register(settings, replace(MODEL, version=version, **changes))
        bundle_of(settings, version)
