from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dwcp import contract
from dwcp.cli import app
from dwcp.export.go_contract import render_contract

GENERATED = Path(__file__).parents[2] / "go" / "contract_gen.go"


def test_the_go_contract_is_current():
    assert GENERATED.read_text(encoding="utf-8") == render_contract(), "run `make generate`"


def test_every_feature_column_and_word_is_in_it():
    text = render_contract()
    for feature in contract.FEATURES:
        assert text.count(f'\t{{"{feature.name}", "{feature.unit}", {feature.default}, ') == 1
    for column in contract.LOGGED:
        if column.role is not contract.Role.TIME:
            assert text.count(f'\t{{"{column.name}", {column.kind.capitalize()}, {str(column.nullable).lower()}, ') == 1
    for word in (*contract.ALGORITHMS, *contract.REASONS, *contract.ARMS, *contract.REGIONS, *contract.DATA_TYPES):
        assert f'\t"{word}",\n' in text


def test_another_contract_gives_another_file(monkeypatch):
    before = render_contract()
    monkeypatch.setattr(contract, "FEATURES", tuple(reversed(contract.FEATURES)))
    assert render_contract() != before


def test_the_command_writes_it(tmp_path):
    written = CliRunner().invoke(app, ["export", "go", str(tmp_path / "contract.go")])
    assert written.exit_code == 0
    assert contract.FEATURE_SET_DIGEST in written.output
    assert (tmp_path / "contract.go").read_text(encoding="utf-8") == render_contract()


@pytest.mark.skipif(shutil.which("gofmt") is None, reason="Go is not installed: gofmt cannot be asked")
def test_gofmt_has_nothing_to_change():
    done = subprocess.run(["gofmt"], input=render_contract(), capture_output=True, text=True, check=True)
    assert done.stdout == render_contract()
