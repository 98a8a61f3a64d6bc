"""What nodes remember of payloads, against one transfer after the other."""

from __future__ import annotations

import numpy as np
import pytest

from dwcp.fleet.last_probe import LastProbes

NODES, OBJECTS = 5, 12


def transfers(rows: int, seed: int) -> tuple[np.ndarray, ...]:
    """Node, object, payload, slowdown, fully measured."""
    rng = np.random.default_rng(seed)
    return (
        rng.integers(NODES, size=rows),
        rng.integers(OBJECTS, size=rows),
        rng.integers(1_000, size=rows),
        rng.uniform(0.5, 2.0, rows),
        rng.random(rows) < 0.2,
    )


@pytest.mark.parametrize("seed", range(5))
def test_recalled_probes_are_those_of_one_transfer_after_the_other(seed):
    probes, kept = LastProbes(NODES, OBJECTS), {}
    for week in range(3):
        drawn = transfers(300, 10 * seed + week)
        found = probes.recall(*drawn)
        for row, (node, name, profile, slowdown, measured) in enumerate(zip(*(x.tolist() for x in drawn), strict=True)):
            fresh = (node, name) not in kept
            if fresh:
                kept[node, name] = profile, slowdown
            assert (found.fresh[row], found.profile[row], found.slowdown[row]) == (fresh, *kept[node, name])
            if measured:
                kept[node, name] = profile, slowdown


def test_no_transfers_are_no_trouble():
    found = LastProbes(NODES, OBJECTS).recall(*transfers(0, 0))
    assert found.fresh.shape == found.profile.shape == (0,)
