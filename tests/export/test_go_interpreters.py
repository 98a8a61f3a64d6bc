"""A node may run any of the three forms: the Go module's own, ONNX Runtime, LiteRT. All are the same function."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import trained
from dwcp.export.forms import FORMS, GO, ONNX, TFLITE, build_forms
from dwcp.export.go_program import GoProgram
from dwcp.export.model import Floats32, Labels
from dwcp.export.parity import FAR, FAR_FACTOR, OUTLIER_SHARE, REFUSED, TOLERANCE, hard_rows
from dwcp.training.dataset import TEST
from dwcp.training.ensemble import Ensemble
from go_bench import MODULE, NAMES, Absent, bench_program, library, library_flags

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

VECTORS = 100_000
"""At least as many are compared (the issue's figure)."""
VARIABLES = {ONNX: "DWCP_ONNXRUNTIME_LIBRARY", TFLITE: "DWCP_LITERT_LIBRARY"}


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    found: Ensemble = trained.ensemble()
    return found


@pytest.fixture(scope="module")
def rows(ensemble: Ensemble) -> dict[str, Floats32]:
    held_out = trained.dataset().only(TEST).features
    groups: dict[str, Floats32] = {"held-out rows": held_out}
    seed = 0
    while sum(map(len, groups.values())) < VECTORS:
        for name, found in hard_rows(ensemble, held_out, seed=seed).items():
            groups[name] = np.concatenate([groups[name], found]) if name in groups else found
        seed += 1
    return groups


@pytest.fixture(scope="module")
def folder(ensemble: Ensemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forms")
    for name, content in build_forms(ensemble, version="v1").items():
        (folder / name).write_bytes(content)
    return folder


def asked(folder: Path, form: str, rows: Floats32) -> tuple[Floats32, Labels]:
    """What the form answers from Go; skips where this machine cannot run it."""
    try:
        command = (str(bench_program()), "predict", "-form", NAMES[form], *library_flags(form))
    except Absent as absent:
        pytest.skip(str(absent))
    return GoProgram(form, command, folder / form, rows.shape[1], 3).predict(rows)


def differences(
    groups: dict[str, Floats32], one: tuple[Floats32, Labels], other: tuple[Floats32, Labels]
) -> dict[str, int]:
    """Rows on which two forms differ, by how: see ``dwcp.export.parity``, whose limits these are."""
    factor = np.concatenate([np.full(len(part), FAR_FACTOR if name == FAR else 1.0) for name, part in groups.items()])
    difference = np.abs(one[0].astype(np.float64) - other[0]).max(axis=1)
    ranked = np.sort(one[0].astype(np.float64), axis=1)
    tie = ranked[:, -1] - ranked[:, -2] <= 2 * TOLERANCE * factor
    return {
        "labels": int(np.count_nonzero((one[1] != other[1]) & ~tie)),
        "refused": int(np.count_nonzero(difference > REFUSED * factor)),
        "outliers": int(np.count_nonzero(difference > TOLERANCE * factor)),
    }


def test_the_three_forms_agree_from_go(folder: Path, rows: dict[str, Floats32], ensemble: Ensemble) -> None:
    every = np.concatenate(list(rows.values()))
    assert len(every) >= VECTORS
    expected = ensemble.predict_proba(every)
    answers = {form: asked(folder, form, every) for form in FORMS}
    answers["trained"] = expected, expected.argmax(axis=1)
    for one, other in ((GO, ONNX), (GO, TFLITE), (ONNX, TFLITE), *(("trained", form) for form in FORMS)):
        found = differences(rows, answers[one], answers[other])
        assert (found["labels"], found["refused"]) == (0, 0), (one, other, found)
        assert found["outliers"] <= OUTLIER_SHARE * len(every), (one, other, found)


def test_one_moved_threshold_is_found(
    folder: Path, rows: dict[str, Floats32], ensemble: Ensemble, tmp_path: Path
) -> None:
    booster = json.loads(ensemble.booster)
    tree = booster["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["split_conditions"][0] = float(np.float32(tree["split_conditions"][0]) * np.float32(1.5))
    mutated = dataclasses.replace(ensemble, booster=json.dumps(booster).encode())
    (tmp_path / ONNX).write_bytes(build_forms(mutated, version="v1")[ONNX])
    every = np.concatenate(list(rows.values()))
    assert differences(rows, asked(folder, GO, every), asked(tmp_path, ONNX, every))["refused"] > 0


@pytest.mark.parametrize("form", [ONNX, TFLITE])
def test_the_modules_own_tests(folder: Path, form: str) -> None:
    try:
        bench_program()
        variables = {"DWCP_FORMS": str(folder), VARIABLES[form]: str(library(form))}
    except Absent as absent:
        pytest.skip(str(absent))
    done = subprocess.run(
        ["go", "test", "-count=1", "-v", "./..."],
        cwd=MODULE.parent / NAMES[form],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "--- PASS: TestForm/AnswersAsThePureGoForm" in done.stdout
    assert "--- SKIP" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "usage"),
        (("predict",), "name one model"),
        (("predict", "-form", "torch", "model"), 'there is no form "torch"'),
        (("predict", "/nowhere/model.dwcp"), "no such file"),
        (("measure", "-decisions", "0", "model"), "0 are no decisions"),
        (("sing", "model"), "there is no command sing"),
    ],
)
def test_bad_arguments_are_explained(arguments: tuple[str, ...], said: str) -> None:
    try:
        program = bench_program()
    except Absent as absent:
        pytest.skip(str(absent))
    done = subprocess.run([program, *arguments], input=bytes(160), capture_output=True, timeout=60)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert b"panic" not in done.stderr
