"""The Go module itself as the runtime of its form: its programs, built from this checkout where Go is."""

from __future__ import annotations

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

import numpy as np

from dwcp.export.model import Floats32, Labels

SOURCES = Path(__file__).parents[3] / "go"
"""The Go module beside this package in a checkout; an installed package has none."""
BUILD_TIMEOUT_S = 120
RUN_TIMEOUT_S = 300
_log = logging.getLogger(__name__)


class GoProgramError(RuntimeError):
    """The Go program refused its model or its rows, or died."""


@dataclass(frozen=True, slots=True)
class GoProgram:
    """``parity MODEL``: float32 rows in; out, for each, float32 probabilities of ``classes`` and the uint8 label."""

    program: Path
    model: Path
    features: int
    classes: int

    runtime: ClassVar[str] = "Go"

    def predict(self, features: Floats32) -> tuple[Floats32, Labels]:
        """Probabilities (n, classes) and labels (n,) of ``features`` (n, f). Raises ``GoProgramError``."""
        if features.ndim != 2 or features.shape[1] != self.features:
            raise GoProgramError(f"features have shape {features.shape}; the model takes (n, {self.features})")
        given = np.ascontiguousarray(features, "<f4").tobytes()
        try:
            done = subprocess.run(
                [self.program, self.model], input=given, capture_output=True, check=True, timeout=RUN_TIMEOUT_S
            )
        except subprocess.CalledProcessError as error:
            raise GoProgramError(f"the Go module refuses the model: {error.stderr.decode().strip()[-500:]}") from error
        except subprocess.TimeoutExpired as error:
            raise GoProgramError(f"the Go module took over {RUN_TIMEOUT_S} s: the machine is overloaded") from error
        kind = np.dtype([("probabilities", "<f4", self.classes), ("label", "u1")])
        if len(done.stdout) != len(features) * kind.itemsize:
            raise GoProgramError(f"the Go module answered {len(done.stdout)} bytes to {len(features)} rows")
        found = np.frombuffer(done.stdout, kind)
        return found["probabilities"], found["label"].astype(np.int64)


@contextmanager
def go_program(model: bytes | None, *, features: int, classes: int) -> Iterator[GoProgram | None]:
    """The program with ``model``, for as long as the context lasts; None without a model, Go or its source."""
    program = None if model is None else built_program("parity")
    if model is None or program is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.dwcp"
        path.write_bytes(model)
        yield GoProgram(program, path, features, classes)


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
