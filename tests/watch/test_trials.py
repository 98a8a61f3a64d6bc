"""The hourly test on rows of the emulated fleet; `make bench-watch` counts with hundreds of rollouts."""

from functools import cache

import numpy as np
import pytest

from dwcp.settings import Settings
from dwcp.watch.measure import GAINS
from trials import Region, as_good, make_region, roll_out, slower_everywhere, worse_for_some

HOURS = (24, 48, 72)


@cache
def region() -> Region:
    return make_region(worlds=4, transfers_per_week=60_000, seed=3)


def rolled_back(tried: Region, *, rollouts: int) -> int:
    settings = Settings()
    return sum(
        any(seen.rolls_back for seen in roll_out(tried, settings, hours=HOURS, seed=seed)) for seed in range(rollouts)
    )


def test_a_good_canary_is_hardly_ever_accused_and_a_bad_one_is_found():
    """At a chance of 1 %, three of twelve good ones would come by once in 5,000 runs."""
    assert rolled_back(as_good(region()), rollouts=12) < 3
    assert rolled_back(slower_everywhere(region(), 0.3), rollouts=12) >= 8


def test_the_loss_on_trial_is_the_one_asked_for():
    assert as_good(region()).gain == 0
    assert slower_everywhere(region(), 0.05).gain == pytest.approx(-0.05)
    assert worse_for_some(region(), 0.05, np.random.default_rng(1)).gain == pytest.approx(-0.05, abs=0.01)
    with pytest.raises(ValueError, match="less than 90"):
        worse_for_some(region(), 0.9, np.random.default_rng(1))


def test_few_objects_leave_bulk_without_an_interval():
    """Half of the time is a handful of large objects: chance alone makes a canary look twice as fast without them."""
    *_, last = roll_out(as_good(region()), Settings(), hours=HOURS, seed=1)
    typical, bulk = (last.figures[name] for name in GAINS)
    assert typical.lower < 0 < typical.upper
    assert (bulk.lower, bulk.upper) == (None, None)
    assert bulk.effective_rows < 100
    assert last.judgements[GAINS[1]].status == "INCONCLUSIVE"
