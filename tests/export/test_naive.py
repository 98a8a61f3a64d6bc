from __future__ import annotations

import numpy as np
import pytest

import trained
from dwcp.export import naive
from dwcp.export.naive import time_naive
from dwcp.export.onnx_graph import build_onnx
from dwcp.training.dataset import TEST
from dwcp.training.ensemble import log_inputs


def test_the_naive_ways_answer_what_was_trained():
    """Else their times would be those of something else."""
    ensemble, rows = trained.ensemble(), trained.dataset().only(TEST).features[:50]
    standardised = (log_inputs(rows) - ensemble.mean) / ensemble.scale
    np.testing.assert_allclose(naive._classifier(ensemble)(rows), ensemble.xgboost_proba(rows), atol=1e-6)
    np.testing.assert_allclose(naive._keras(ensemble)(standardised), ensemble.network_proba(rows), atol=1e-5)
    answered = naive._session_a_call(build_onnx(ensemble, version="v"))(rows)
    np.testing.assert_allclose(answered[0], ensemble.predict_proba(rows), atol=1e-6)


def test_each_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(naive, "CALLS", dict.fromkeys(naive.CALLS, 4))
    ensemble, rows = trained.ensemble(), trained.dataset().only(TEST).features[:3]
    found = time_naive(ensemble, build_onnx(ensemble, version="v"), rows)
    assert [way.name for way in found] == list(naive.CALLS)
    assert all(0 < way.latency_p50_ms <= way.latency_p99_ms and way.decisions == 4 for way in found)
