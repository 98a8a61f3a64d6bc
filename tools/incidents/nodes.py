"""The nodes of an incident: real Go selectors in every region, following the channel and deciding without a pause."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from incidents.report import NodesSaid

GO = Path(__file__).parents[2] / "go"


@dataclass
class Nodes:
    """A running ``go/internal/drill``."""

    to: IO[str]
    answers: IO[str]

    def ask(self) -> dict[str, dict[str, Any]]:
        """What each region's node did so far, by region."""
        self.to.write("\n")
        self.to.flush()
        answer: dict[str, dict[str, Any]] = json.loads(self.answers.readline())
        return answer

    def wait(self, true_of: Callable[[dict[str, dict[str, Any]]], bool], within_s: float = 30.0) -> float:
        """Seconds until the nodes are so. Raises ``TimeoutError``."""
        began = time.monotonic()
        while not true_of(told := self.ask()):
            if time.monotonic() - began > within_s:
                raise TimeoutError(f"after {within_s:.0f} s the nodes are not there yet: {told}")
            time.sleep(0.02)
        return time.monotonic() - began

    def serve(self, region: str, champion: str | None) -> float:
        """Seconds until the region's node has this champion, None for the rules."""
        return self.wait(lambda told: told[region]["champion"] == (champion or ""))

    def total(self) -> NodesSaid:
        """All regions together."""
        told = list(self.ask().values())
        failure = next((one["failure"] for one in told if one["failure"]), "")
        return NodesSaid(
            "six Go nodes",
            sum(one["decisions"] for one in told),
            sum(one["failed"] for one in told),
            max(one["slowest_ms"] for one in told),
            failure,
        )


def build(into: Path) -> Path:
    """The program. Raises ``FileNotFoundError`` where Go is missing."""
    if shutil.which("go") is None:
        raise FileNotFoundError("Go is not installed: the incidents count what real nodes decide")
    program = into / "drill"
    subprocess.run(["go", "build", "-o", str(program), "./internal/drill"], cwd=GO, check=True)
    return program


@contextmanager
def running_nodes(program: Path, home: Path, state: Path) -> Iterator[Nodes]:
    """Nodes that follow the channel below ``home``."""
    state.mkdir(parents=True, exist_ok=True)
    command = [str(program), "-home", str(home), "-state", str(state)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the nodes have no pipes")
        yield Nodes(process.stdin, process.stdout)
