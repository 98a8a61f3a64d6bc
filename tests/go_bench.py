"""The program ``go/bench``, which runs every form of a model from Go, and the shared libraries that it needs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from dwcp.export.forms import GO, ONNX, TFLITE

MODULE = Path(__file__).parents[1] / "go" / "bench"
NAMES = {GO: "go", ONNX: "onnx", TFLITE: "litert"}
"""What the program calls the forms."""
BUILD_TIMEOUT_S = 300


class Absent(Exception):
    """This machine lacks something; the message says what, and what it is needed for."""


@cache
def bench_program() -> Path:
    """The built program. Without a C compiler it has the pure Go form alone. Raises ``Absent``."""
    if shutil.which("go") is None:
        raise Absent("there is no Go on this machine")
    directory = TemporaryDirectory(prefix="dwcp-bench-")
    _kept.append(directory)
    program = Path(directory.name) / "bench"
    done = subprocess.run(
        ["go", "build", "-o", str(program), "."],
        cwd=MODULE,
        env={**os.environ, "CGO_ENABLED": "0" if compiler() is None else "1"},
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
    )
    if done.returncode != 0 and re.search(r"proxy|dial|lookup|no required module", done.stderr):
        raise Absent(f"Go cannot fetch the modules that go/bench needs: {done.stderr.strip()[-300:]}")
    if done.returncode != 0:
        raise AssertionError(f"go/bench does not build: {done.stderr}")
    return program


_kept: list[TemporaryDirectory[str]] = []
"""What is built stays until the process ends."""


def compiler() -> str | None:
    """The C compiler that cgo calls."""
    return shutil.which(os.environ.get("CC", "gcc"))


def library(form: str) -> Path | None:
    """The shared library of a form from its Python wheel; None for the pure Go form. Raises ``Absent``."""
    if form == GO:
        return None
    if sys.platform != "linux":
        raise Absent(f"{form} is run from Go on Linux alone")
    if compiler() is None:
        raise Absent(f"there is no C compiler, through which Go calls what runs {form}")
    package, pattern = {
        ONNX: ("onnxruntime", "capi/libonnxruntime.so.*"),
        TFLITE: ("ai_edge_litert", "libLiteRt.so"),
    }[form]
    found = importlib.util.find_spec(package)
    places = found.submodule_search_locations if found else None
    libraries = [path for place in places or [] for path in Path(place).glob(pattern)]
    if not libraries:
        raise Absent(f"the wheel {package} of this environment brings no {pattern}")
    return libraries[0]


def library_flags(form: str) -> list[str]:
    """The flag that names the form's library."""
    path = library(form)
    return [] if path is None else ["-library", str(path)]
