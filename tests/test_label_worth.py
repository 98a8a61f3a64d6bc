from __future__ import annotations

import numpy as np
import pytest

from dwcp.label_worth import ceiling_of

CEILINGS = {1: 0.9, 3: 0.95, 5: 0.99}


@pytest.mark.parametrize(("runs", "ceiling"), [(1, 0.9), (2, 0.9), (3, 0.95), (4, 0.95), (5, 0.99), (50, 0.99)])
def test_a_row_counts_as_the_most_runs_that_it_reaches(runs, ceiling):
    assert ceiling_of(np.array([runs]), CEILINGS) == pytest.approx(ceiling)


def test_rows_are_averaged_and_none_say_nothing():
    assert ceiling_of(np.array([1, 5]), CEILINGS) == pytest.approx(0.945)
    assert ceiling_of(np.array([1]), {3: 0.95}) == pytest.approx(0.95)
    assert ceiling_of(np.array([], int), CEILINGS) is None
    assert ceiling_of(np.array([1]), {}) is None
