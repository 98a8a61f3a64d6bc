"""The Go form run by a program beside this process: the Go module's, built from this checkout where Go is."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from dwcp.export.model import Floats32, Labels

SOURCES = Path(__file__).parents[3] / "go"
"""The Go module beside this package in a checkout; an installed package has none."""
BUILD_TIMEOUT_S = 120
RUN_TIMEOUT_S = 300
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""For numpy: on a busy machine its threads wait for one another for longer than they compute."""
_log = logging.getLogger(__name__)


class GoProgramError(RuntimeError):
    """The program refused its model or its rows, or died."""


def answer_type(classes: int) -> np.dtype[np.void]:
    """A program's answer to one row: the probabilities of ``classes``, and the label."""
    return np.dtype([("probabilities", "<f4", classes), ("label", "u1")])


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A program that takes ``model``, reads float32 rows and answers each by an ``answer_type``."""

    runtime: str
    command: tuple[str, ...]
    model: Path
    features: int
    classes: int

    def predict(self, features: Floats32) -> tuple[Floats32, Labels]:
        """Probabilities (n, classes) and labels (n,) of ``features`` (n, f). Raises ``GoProgramError``."""
        if features.ndim != 2 or features.shape[1] != self.features:
            raise GoProgramError(f"features have shape {features.shape}; the model takes (n, {self.features})")
        given = np.ascontiguousarray(features, "<f4").tobytes()
        try:
            done = subprocess.run(
                [*self.command, str(self.model)],
                input=given,
                capture_output=True,
                check=True,
                timeout=RUN_TIMEOUT_S,
                env=os.environ | ONE_THREAD,
            )
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode().strip()[-500:]
            raise GoProgramError(f"{self.runtime} cannot run {self.model.name}: {said}") from error
        except subprocess.TimeoutExpired as error:
            raise GoProgramError(f"{self.runtime} took over {RUN_TIMEOUT_S} s: the machine is overloaded") from error
        kind = answer_type(self.classes)
        if len(done.stdout) != len(features) * kind.itemsize:
            raise GoProgramError(f"{self.runtime} answered {len(done.stdout)} bytes to {len(features)} rows")
        found = np.frombuffer(done.stdout, kind)
        return found["probabilities"], found["label"].astype(np.int64)


@contextmanager
def go_program(model: bytes, *, features: int, classes: int) -> Iterator[GoProgram]:
    """What runs the Go form ``model``, as long as the context lasts: the Go module, or where there is none, numpy."""
    built = built_program("parity")
    by_numpy = (sys.executable, "-m", "dwcp.export.go_runtime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dwcp"
        path.write_bytes(model)
        runtime, command = ("numpy", by_numpy) if built is None else ("Go", (str(built),))
        yield GoProgram(runtime, command, path, features, classes)


def built_program(name: str) -> Path | None:
    """The Go module's program ``name``, built once a process; None without Go or its source, or if it does not build.

    Building takes a second, and some ten on a machine's first time. A build that fails is logged.
    """
    folder = _built(name)
    return None if folder is None else Path(folder.name) / name


@cache
def _built(name: str) -> tempfile.TemporaryDirectory[str] | None:
    """A folder with the program; it goes with the process."""
    go = shutil.which("go")
    if go is None or not (SOURCES / "go.mod").exists():
        return None
    folder = tempfile.TemporaryDirectory()
    command = [go, "build", "-o", str(Path(folder.name) / name), f"./internal/{name}"]
    try:
        subprocess.run(command, cwd=SOURCES, capture_output=True, text=True, check=True, timeout=BUILD_TIMEOUT_S)
    except subprocess.CalledProcessError as error:
        _log.warning("the Go module does not build, so its form is read by numpy: %s", error.stderr.strip()[-500:])
    except subprocess.TimeoutExpired:
        _log.warning("the Go module took over %d s to build, so its form is read by numpy", BUILD_TIMEOUT_S)
    else:
        return folder
    return None
