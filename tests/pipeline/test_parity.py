"""``dwcp parity`` on a registered run: what it prints, and that it can say no."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import trained
from dwcp.export import naive, parity
from dwcp.export.forms import FORMS, TFLITE, build_forms
from dwcp.pipeline.parity import run_parity
from dwcp.release import int8
from dwcp.release.registry import register
from dwcp.store import Store
from releases import MODEL, settings_for


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is the table, and not its figures."""
    monkeypatch.setattr(parity, "RANDOM_ROWS", 500)
    monkeypatch.setattr(naive, "CALLS", dict.fromkeys(naive.CALLS, 5))
    monkeypatch.setattr(int8, "DECISIONS", 200)


def registered(home: Path, warehouse: object, forms: dict[str, bytes]):
    settings = settings_for(home, warehouse)
    store = Store(settings.store_dir)
    files = {
        **forms,
        "ensemble.zip": trained.ensemble().to_bytes(),
        "dataset.parquet": trained.dataset().to_parquet_bytes(),
    }
    artifacts = {name: store.put(name, content) for name, content in files.items()}
    register(settings, replace(MODEL, version="v1", artifacts=artifacts))
    return settings


def printed(tables: object) -> str:
    console = Console(record=True, width=120)
    console.print(tables)
    return console.export_text()


def test_every_form_the_naive_ways_and_int8_stand_in_one_table(fresh_warehouse, tmp_path: Path):
    forms = build_forms(trained.ensemble(), version="v1")
    tables, agrees = run_parity(registered(tmp_path, fresh_warehouse, forms))
    said = printed(tables)
    assert agrees
    assert all(form in said for form in FORMS)
    assert all(way in said for way in naive.CALLS)
    assert "network in int8" in said
    assert "ship" in said
    assert "…" not in said, "a column is too narrow"


def test_a_form_of_another_model_is_told(fresh_warehouse, tmp_path: Path):
    forms = build_forms(trained.ensemble(), version="v1")
    another = build_forms(dataclasses.replace(trained.ensemble(), xgboost_weight=0.6), version="v1")
    _, agrees = run_parity(registered(tmp_path, fresh_warehouse, forms | {TFLITE: another[TFLITE]}))
    assert not agrees


def test_a_run_of_fewer_forms_is_refused(fresh_warehouse, tmp_path: Path):
    forms = build_forms(trained.ensemble(), version="v1")
    del forms[TFLITE]
    with pytest.raises(ValueError, match=r"registered no model\.tflite"):
        run_parity(registered(tmp_path, fresh_warehouse, forms))
