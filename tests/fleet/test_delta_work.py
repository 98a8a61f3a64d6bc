"""The cost structure's idea of what a delta takes is that of the recorded library."""

from __future__ import annotations

import numpy as np
import pytest

from dwcp.features.costs import CALL_BYTES, DELTA_MS_PER_MB, NEW_MS_PER_MB
from dwcp.fleet.library import load_library


def test_hashing_and_new_bytes_cost_a_delta_what_the_cost_structure_says():
    """Least squares of relative errors over deltas of 50 KB and more, zstd's own time on them beside."""
    profiles, _ = load_library()
    size = profiles.column("size_bytes")
    deltas = (profiles.column("version") > 0) & (size > 50_000)
    hde, zstd = (
        (profiles.column(f"{name}_ms_a") + profiles.column(f"{name}_back_ms_a")) * 1e6 / (size + CALL_BYTES)
        for name in ("hde", "zstd")
    )
    terms = np.column_stack([np.ones(len(size)), 1 - profiles.column("hde_hit_rate"), zstd])[deltas]
    known, new, of_zstd = np.linalg.lstsq(terms / hde[deltas, None], np.ones(deltas.sum()), rcond=None)[0]
    assert deltas.sum() > 1_000
    assert known == pytest.approx(DELTA_MS_PER_MB, rel=0.05)
    assert new == pytest.approx(NEW_MS_PER_MB, rel=0.05)
    assert abs(of_zstd) < 0.2, "zstd's own speed on the payload adds next to nothing"
