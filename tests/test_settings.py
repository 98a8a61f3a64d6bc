"""Settings are read from the environment, checked, immutable, and never print a secret."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from dwcp.settings import Settings


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("DWCP_"):
            monkeypatch.delenv(name)


def test_the_seeds_numbers_are_the_defaults() -> None:
    settings = Settings()
    assert (settings.gate_accuracy, settings.gate_precision, settings.gate_recall, settings.gate_f1) == (
        0.98,
        0.95,
        0.95,
        0.96,
    )
    assert (settings.gate_throughput_gain, settings.gate_latency_p99_ms) == (0.10, 10.0)
    assert (settings.gate_size_bytes, settings.gate_memory_bytes) == (50_000_000, 100_000_000)
    assert (settings.xgboost_weight, settings.fallback_confidence) == (0.7, 0.6)
    assert (settings.train_share, settings.validation_share) == (0.70, 0.15)
    assert (settings.watch_rollback_accuracy, settings.watch_rollback_throughput_drop) == (0.95, 0.05)
    assert settings.watch_retrain_accuracy_drop == 0.03


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWCP_HOME", "/srv/dwcp")
    monkeypatch.setenv("DWCP_SOURCE", "influxdb")
    monkeypatch.setenv("DWCP_MAX_CLOCK_AHEAD", "PT2M")
    settings = Settings()
    assert settings.channel_path == Path("/srv/dwcp/channel/channel.json")
    assert settings.source == "influxdb"
    assert settings.max_clock_ahead == timedelta(minutes=2)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "kafka"),
        ("oracle", "seed_9"),
        ("training_weeks", 0),
        ("training_threads", 0),
        ("xgboost_weight", 1.5),
        ("influx_timeout_s", 0),
        ("influx_retries", -1),
        ("train_share", 0.0),
        ("train_share", 1.2),
        ("validation_share", -0.1),
        ("gate_accuracy", 98.0),
        ("gate_min_rows", -1),
        ("bootstrap_rounds", 0),
        ("backfill_max_days", 0),
        ("fallback_confidence", 60.0),
        ("max_clock_ahead", timedelta(seconds=-1)),
        ("watch_rollback_accuracy", 95.0),
    ],
)
def test_nonsense_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as error:
        Settings(**{name: value})  # type: ignore[arg-type]
    assert name in str(error.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().seed = 1  # type: ignore[misc]


def test_secrets_do_not_print(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OWNER_DSN", "LOADER_DSN", "READER_DSN", "REGISTRY_DSN", "INFLUX_TOKEN"):
        monkeypatch.setenv(f"DWCP_{name}", "postgresql://u:hunter22@h/db")
    settings = Settings()
    for text in (repr(settings), str(settings), settings.model_dump_json()):
        assert "hunter22" not in text
