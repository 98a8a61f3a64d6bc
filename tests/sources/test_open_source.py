"""Choosing a source by its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwcp.settings import Settings
from dwcp.sources import SourceError, open_source
from dwcp.sources.archive import ArchiveSource
from dwcp.sources.influx import InfluxSource


def test_the_setting_decides_unless_a_kind_is_given(tmp_path: Path) -> None:
    assert isinstance(open_source(Settings(home=tmp_path)), ArchiveSource)
    assert isinstance(open_source(Settings(home=tmp_path, source="influxdb")), InfluxSource)
    assert isinstance(open_source(Settings(home=tmp_path, source="influxdb"), "archive"), ArchiveSource)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(SourceError, match="unknown source 'prometheus': choose archive or influxdb"):
        open_source(Settings(), "prometheus")
