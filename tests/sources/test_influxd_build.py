"""The build of the real InfluxDB: pinned, cached outside the checkout, and quiet about what a machine lacks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from fixtures_influx import BUILD


def run(home: Path, *arguments: str, tools: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """The script on a machine that has only ``tools``; the compilers' usual places are under ``home`` or absent."""
    path = home / "bin"
    path.mkdir(exist_ok=True)
    for tool in (*tools, "sh", "cat", "sed", "sha256sum", "cut", "dirname", "mkdir", "mktemp", "rm", "chmod"):
        if not (path / tool).exists():
            (path / tool).symlink_to(shutil.which(tool) or "/bin/false")
    return subprocess.run(
        [BUILD, *arguments], capture_output=True, text=True, env={"HOME": str(home), "PATH": str(path)}, check=False
    )


@pytest.mark.parametrize("present", [(), ("go",)])
def test_a_machine_without_compilers_is_told_so_and_not_failed(tmp_path: Path, present: tuple[str, ...]) -> None:
    done = run(tmp_path, tools=present)
    assert done.returncode == 0, done.stderr
    assert "influxd 2.7.12 cannot be built" in done.stdout
    assert "skipped" in done.stdout
    assert not (tmp_path / ".cache").exists()


def test_a_compiler_that_does_not_run_is_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for tool in ("go", "gcc"):
        (tmp_path / "bin" / tool).symlink_to("/bin/true")
    (tmp_path / "bin" / "cargo").symlink_to("/bin/false")  # as rustup's stand-in without a toolchain
    done = run(tmp_path, tools=("go", "gcc", "cargo"))
    assert done.returncode == 0, done.stderr
    assert "'cargo --version' fails" in done.stdout


def test_a_cached_binary_is_not_built_again(tmp_path: Path) -> None:
    binary = Path(run(tmp_path, "--path", tools=()).stdout.strip())
    assert binary.is_relative_to(tmp_path / ".cache" / "dwcp" / "influxd")
    binary.parent.mkdir(parents=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    done = run(tmp_path, tools=())
    assert done.returncode == 0
    assert done.stdout.strip() == f"influxd 2.7.12 is already built: {binary}"
