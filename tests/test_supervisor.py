"""What a supervisor started is gone when its caller is, whoever of them was killed and how."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dwcp import supervisor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")
STEADY = ("sleep", "600")
# A command whose children left its session and do not listen to SIGTERM, as a worker in the midst of a task.
STUBBORN = ("sh", "-c", "setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & setsid sleep 600 & exec sleep 600")
CALLER = """
import os, sys, time
from pathlib import Path
from dwcp import supervisor
running = supervisor.start(eval(sys.argv[1]), logs=Path(sys.argv[2]), environment=os.environ, directory=Path("/"))
print(running.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def marked() -> Iterator[dict[str, str]]:
    """An environment by which every process below a test is known, also one that lost its parent."""
    mark = uuid.uuid4().hex
    yield {**os.environ, "DWCP_TEST_MARK": mark}
    for pid in processes(mark):
        os.kill(pid, signal.SIGKILL)


def processes(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"DWCP_TEST_MARK={mark}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.05)
    return holds()


def started(commands: dict[str, tuple[str, ...]], marked: dict[str, str], logs: Path) -> subprocess.Popen[bytes]:
    return supervisor.start(commands, logs=logs, environment=marked, directory=logs)


def test_stop_ends_commands_and_their_stubborn_children(marked: dict[str, str], tmp_path: Path):
    mark = marked["DWCP_TEST_MARK"]
    running = started({"steady": STEADY, "stubborn": STUBBORN}, marked, tmp_path)
    assert until(lambda: len(processes(mark)) == 6), processes(mark)
    supervisor.stop(running)
    assert running.returncode == 0
    assert processes(mark) == []
    supervisor.stop(running)  # a second time changes nothing


def test_nothing_outlives_a_caller_that_was_killed(marked: dict[str, str], tmp_path: Path):
    mark = marked["DWCP_TEST_MARK"]
    command = [sys.executable, "-c", CALLER, repr({"steady": STEADY, "stubborn": STUBBORN}), str(tmp_path)]
    caller = subprocess.Popen(command, env=marked, stdout=subprocess.PIPE)
    assert until(lambda: len(processes(mark)) == 7), processes(mark)
    caller.kill()
    caller.communicate()
    assert until(lambda: processes(mark) == []), processes(mark)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)], ids=["kill", "term"]
)
def test_the_commands_end_with_a_supervisor_that_was_killed(
    marked: dict[str, str], tmp_path: Path, number: signal.Signals, code: int
):
    mark = marked["DWCP_TEST_MARK"]
    running = started({"one": STEADY, "two": STEADY}, marked, tmp_path)
    assert until(lambda: len(processes(mark)) == 3)
    running.send_signal(number)
    assert until(lambda: processes(mark) == []), processes(mark)
    supervisor.stop(running)
    assert running.returncode == code


def test_one_command_that_ends_ends_them_all_and_its_output_is_kept(marked: dict[str, str], tmp_path: Path):
    running = started({"steady": STEADY, "brief": ("sh", "-c", "echo no room; exit 3")}, marked, tmp_path)
    assert running.wait(timeout=120) == 0
    assert processes(marked["DWCP_TEST_MARK"]) == []
    assert (tmp_path / "brief.log").read_text() == "no room\n"
    assert "brief ended (3)" in (tmp_path / "supervisor.log").read_text()
    supervisor.stop(running)


def test_a_command_that_cannot_start_leaves_none_behind(marked: dict[str, str], tmp_path: Path):
    running = started({"steady": STEADY, "absent": ("/no/such/program",)}, marked, tmp_path)
    assert running.wait(timeout=120) != 0
    assert until(lambda: processes(marked["DWCP_TEST_MARK"]) == [])
    assert "/no/such/program" in (tmp_path / "supervisor.log").read_text()
    supervisor.stop(running)
