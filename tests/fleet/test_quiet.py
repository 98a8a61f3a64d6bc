"""The watch tells a slow core from a fast one, and others' work from its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from dwcp.fleet import quiet
from dwcp.fleet.quiet import CoreWatch, busy_shares, pinned


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def test_another_process_on_the_core_is_seen_and_own_work_is_not() -> None:
    core = min(os.sched_getaffinity(0))
    with pinned(core):
        watch = CoreWatch(core)
        with watch.watching():
            spin(0.5)
        alone_s = watch.others_s
        busy = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"
        with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            watch = CoreWatch(core)
            with watch.watching():
                spin(1.0)
            shares = busy_shares(0.5)
            process.kill()
    assert watch.others_s > 0.3
    assert alone_s < watch.watched_s
    assert shares[core] > 0.7
    assert watch.report(np.array([1.0]))["noisy"] is True


def test_a_core_that_stays_slow_is_said_to_be() -> None:
    watch = CoreWatch(0, best_ms=1.0, watched_s=100.0)
    report = watch.report(np.array([1.4] * 2 + [1.0] * 18))
    assert report["slow_payloads"] == 2
    assert report["slow_share"] == 0.1
    assert report["noisy"] is True
    assert watch.report(np.array([1.4] + [1.0] * 20))["noisy"] is False
    assert CoreWatch(0, watched_s=100.0, stolen_s=2.0).report(np.array([1.0]))["noisy"] is True


def test_waiting_ends_with_the_first_fast_look_or_with_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CoreWatch(0, best_ms=1.0)
    looks = iter([1.5, 1.2, 1.05, 9.0])
    monkeypatch.setattr(watch, "look", lambda: next(looks))
    assert watch.settle(30.0) == 1.05
    assert watch.settle(0.0) == 9.0


def test_one_slow_finding_is_no_slow_core(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = CoreWatch(0)
    found = iter([1.0, 1.6, 1.02, 1.6, 1.5, 0.9])
    monkeypatch.setattr(watch, "_kernel_ms", lambda: next(found))
    assert [watch.look() for _ in range(4)] == [1.0, 1.02, 1.5, 0.9]
    assert watch.best_ms == 0.9


def test_a_fresh_look_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_FRESH_S", 60.0)
    watch = CoreWatch(0)
    seen = watch.look()
    monkeypatch.setattr(watch, "look", lambda: pytest.fail("looked again"))
    assert watch.settle(0.0) == seen


def test_a_core_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="no core 4711"), CoreWatch(4711).watching():
        pass
