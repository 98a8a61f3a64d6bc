"""The Go module's test binary, which tests here run on what the pipeline writes."""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

GO_MODULE = Path(__file__).parents[1] / "go"


@cache
def _binary() -> tuple[Path, TemporaryDirectory[str]]:
    directory = TemporaryDirectory(prefix="dwcp-go-")  # gone when the tests end
    built = Path(directory.name) / "selector.test"
    done = subprocess.run(
        ["go", "test", "-c", "-o", str(built), "."], cwd=GO_MODULE, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return built, directory


def run_go_test(name: str, **variables: object) -> str:
    """What the Go test ``name`` prints, run with environment ``variables``. Fails where it does; skips without Go."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: the Go module cannot be held against the pipeline")
    done = subprocess.run(
        [_binary()[0], "-test.run", f"^{name}$", "-test.v"],
        cwd=GO_MODULE,
        env={**os.environ, **{key: str(value) for key, value in variables.items()}},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"--- PASS: {name}" in done.stdout, f"{name} did not run: {done.stdout}"
    return done.stdout
