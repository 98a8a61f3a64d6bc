"""The command line as a person meets it: a map, and one line where something is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dwcp.cli import app
from dwcp.settings import Settings
from transfers import START, archive_transfers, make_transfers

COMMANDS = {
    "demo", "weekly", "summary", "evaluation", "parity", "ladder", "weeks", "fleet", "backfill", "export", "dictionary",
    "models", "tune", "channel", "rollback", "rollout", "watch", "ui", "migrate", "psql", "stop",
}  # fmt: skip


def dwcp(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from dwcp.cli import run; run()", *arguments]
    environment = {**os.environ, "DWCP_HOME": str(home), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_help_is_a_map_of_the_product():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "120"}).output
    assert {command for command in COMMANDS if f" {command} " in shown} == COMMANDS


@pytest.fixture
def home(tmp_path: Path):
    tmp_path.chmod(0o755)
    yield tmp_path
    dwcp(tmp_path, "stop")


def test_from_an_archive_to_an_export_in_four_commands(home: Path):
    archive_transfers(Settings(home=home).archive_dir, make_transfers(500))
    day = ("--start", f"{START:%Y-%m-%d}", "--end", "2026-08-04")
    dry = dwcp(home, "backfill", *day)
    assert dry.stdout.splitlines()[0].startswith("DRY RUN, nothing was changed"), dry.stderr
    assert "500 rows" not in dwcp(home, "export", "window", *day, str(home / "week.csv")).stdout
    done = dwcp(home, "backfill", *day, "--no-dry-run")
    assert done.returncode == 0, done.stderr
    exported = dwcp(home, "export", "window", *day, str(home / "week.csv"))
    rows = len((home / "week.csv").read_text().splitlines()) - 1
    assert exported.stdout == f"{rows} rows written to {home / 'week.csv'}\n"
    assert rows > 100


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("backfill", "--start", "2026-08-03", "--end", "2026-08-01"), "before it starts"),
        (("backfill", "--start", "2026-08-03", "--end", "2026-08-04"), "archive"),
        (("tune", "--end", "2026-08-04"), "only 0 of 0 transfers have a label"),
        (("summary",), "no weekly run reached the gate yet"),
        (("parity",), "no weekly run reached the gate yet"),
        (("rollback", "--reason", "test"), ""),
    ],
)
def test_what_cannot_be_done_is_one_line_and_no_traceback(home: Path, arguments: tuple[str, ...], line: str):
    refused = dwcp(home, *arguments)
    assert refused.returncode == 1, refused.stdout
    assert "Traceback" not in refused.stderr
    said = refused.stderr.splitlines()[-1]  # what came before it tells of Postgres being made
    assert said.startswith("error: ")
    assert line in said
