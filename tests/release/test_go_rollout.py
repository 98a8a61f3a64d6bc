import json
from pathlib import Path

import numpy as np
import pytest

from dwcp.contract import ROLLOUT_BUCKETS
from dwcp.fleet.known import rollout_bucket
from go_module import run_go_test

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

IDS = 100_000


def test_go_and_python_deal_the_same_buckets(tmp_path: Path):
    rng = np.random.default_rng(0)
    nodes = [f"{region}-node-{number:04}" for region in ("us-east", "eu-west") for number in range(50)]
    # Names of every length around BLAKE2b's block of 128 bytes, and of several bytes a character.
    odd = ["", "/", "узел", "对象", "n" * 127, "n" * 128, "n" * 129, "é" * 150]
    pairs = [(node, obj) for node in odd for obj in odd]
    pairs += [
        (str(rng.choice(nodes)), "x" * int(rng.integers(0, 200)) + f"-{number}") for number in range(IDS - len(pairs))
    ]
    known = [{"node": node, "object": obj, "bucket": rollout_bucket(node, obj)} for node, obj in pairs]
    path = tmp_path / "buckets.json"
    path.write_text(json.dumps(known))
    assert f"0 of {IDS} buckets differ" in run_go_test("TestPipelineBuckets", DWCP_TEST_BUCKETS=path)


def test_buckets_are_dealt_evenly():
    dealt = np.bincount([rollout_bucket("node-1", f"object-{n}") for n in range(IDS)], minlength=ROLLOUT_BUCKETS)
    assert len(dealt) == ROLLOUT_BUCKETS
    # A share of 5 % of the buckets holds 5 % of the objects, to five standard deviations.
    assert abs(dealt[:500].sum() - 5_000) < 5 * np.sqrt(IDS * 0.05 * 0.95)


def test_a_changed_bucket_is_noticed(tmp_path: Path):
    path = tmp_path / "buckets.json"
    wrong = (rollout_bucket("n", "o") + 1) % ROLLOUT_BUCKETS
    path.write_text(json.dumps([{"node": "n", "object": "o", "bucket": wrong}]))
    with pytest.raises(AssertionError, match="1 of 1 buckets differ"):
        run_go_test("TestPipelineBuckets", DWCP_TEST_BUCKETS=path)
