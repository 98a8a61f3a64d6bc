"""Commands that do not outlive the process which started them, however that one dies.

``start`` runs this module as a process between: it starts the commands and lives as long as its standard input stays
open, which the kernel closes when the caller ends, ``kill -9`` included. Then, or on SIGTERM, or as soon as one command
ends, it stops them all: SIGTERM first, SIGKILL after ``GRACE_S``, and with them whatever processes they started.

On Linux it is a *child subreaper*: a grandchild whose parent is gone falls to it, not to init, and so is found. Should
the supervisor itself be killed, the kernel sends every command SIGTERM (``prctl(2)``).
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

GRACE_S = 5.0
"""How long commands may take to end by themselves."""
KILLED_WITHIN_S = 10.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def start(
    commands: Mapping[str, Sequence[str]], *, logs: Path, environment: Mapping[str, str], directory: Path
) -> subprocess.Popen[bytes]:
    """Start the commands, the output of each in ``<name>.log`` below ``logs``; the supervisor that holds them.

    It exits once nothing of them runs any more. Its standard input is the lifeline that ``stop`` closes.
    """
    # A session of its own: Ctrl-C reaches the caller alone, which then stops the commands in order.
    with (logs / "supervisor.log").open("ab") as log:
        supervisor = subprocess.Popen(
            [sys.executable, "-m", "dwcp.supervisor", str(logs)],
            cwd=directory,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert supervisor.stdin is not None  # noqa: S101 (a pipe was asked for)
    supervisor.stdin.write(json.dumps({name: list(command) for name, command in commands.items()}).encode() + b"\n")
    supervisor.stdin.flush()
    return supervisor


def stop(supervisor: subprocess.Popen[bytes]) -> None:
    """Stop the commands and wait until nothing of them runs any more."""
    supervisor.communicate()  # closes the lifeline


def main() -> int:
    """Read the commands from standard input and hold them until it closes; 0 unless something could not be killed."""
    signal.signal(signal.SIGTERM, _close_lifeline)
    if _libc:
        _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    logs = Path(sys.argv[1])
    commands: dict[str, list[str]] = json.loads(sys.stdin.readline() or "{}")
    running = [_Child(name, command, logs / f"{name}.log") for name, command in commands.items()]
    _say(f"started {', '.join(f'{child.name} ({child.process.pid})' for child in running)}")
    while len(running) == len(commands) and not _lifeline_closed():
        running = _still_running(running)
    _say("stopping")
    for child in running:
        os.kill(child.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while running and time.monotonic() < deadline:
        time.sleep(0.05)
        running = _still_running(running)
    return _kill_all()


class _Child:
    """One command, in a session of its own."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_ends_with(os.getpid()),
            )


def _ends_with(supervisor: int) -> Callable[[], None]:
    """Run in the child before its command: ask the kernel for SIGTERM when the supervisor ends."""

    def ask() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if _libc:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != supervisor:  # it ended before we asked
            os._exit(1)

    return ask


def _close_lifeline(_signal: int, _frame: object) -> None:
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())


def _lifeline_closed() -> bool:
    """Wait a moment for the caller's end. Nothing is ever written after the first line: readable means closed."""
    return bool(select.select([sys.stdin.fileno()], [], [], 0.2)[0])


def _still_running(children: Sequence[_Child]) -> list[_Child]:
    """Those of ``children`` that run; every process that ended is taken off the kernel's list, adopted ones too."""
    ended = dict(_reaped())
    for child in children:
        if child.process.pid in ended:
            child.process.returncode = ended[child.process.pid]
            _say(f"{child.name} ended ({child.process.returncode})")
    return [child for child in children if child.process.returncode is None]


def _reaped() -> list[tuple[int, int]]:
    """Pid and exit code of each child that ended since."""
    found = []
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return found


def _kill_all() -> int:
    """Kill whatever still descends from this process, until there is nothing; 1 if something cannot be killed."""
    deadline = time.monotonic() + KILLED_WITHIN_S
    while left := _descendants():
        if time.monotonic() > deadline:
            _say(f"cannot be killed: {left}")
            return 1
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
        _reaped()
    _say("nothing runs any more")
    return 0


def _descendants() -> list[int]:
    """Every process below this one, by Linux's ``/proc``; zombies too, which count until they are waited for."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found - {os.getpid()})


def _say(line: str) -> None:
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
