"""``dwcp ladder``: the ladder over a run's window, or over a file of rows, and the two pages that it writes."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwcp.pipeline.site import dsn
from dwcp.settings import Settings
from dwcp.store import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

    from dwcp.release.ladder.found import Ceiling, Ladder

log = logging.getLogger(__name__)

PLACE = "ladder"
"""Where below ``reports_dir`` the page and its figures lie."""


@dataclass(frozen=True, slots=True)
class Written:
    """The files that a ladder wrote."""

    markdown: Path
    page: Path
    figures: Path


def run_ladder(
    settings: Settings,
    *,
    to: Path,
    run_id: str | None = None,
    rows: Path | None = None,
    ceilings: Path | None = None,
    command: str = "dwcp ladder",
) -> Written:
    """Climb the ladder and write ``to`` (Markdown), the page with its plots, and the figures as JSON.

    The rows are those that the last registered run (or ``run_id``) was trained and judged on, read from the warehouse;
    or a Parquet file as ``dwcp export window`` writes it. The Markdown begins with that run's gate; a file has none.
    ``ceilings`` is JSON with what is known of the labels' repeatability, such as the library's manifest. Raises
    ``ValueError`` if there is no such run, or a file holds something else.
    """
    from dwcp.pipeline.summary import evaluation_markdown
    from dwcp.release.ladder.climb import climb
    from dwcp.release.ladder.markdown import ladder_markdown
    from dwcp.release.ladder.page import render
    from dwcp.release.ladder.rows import Rows

    known = () if ceilings is None else _ceilings(ceilings)
    table = _warehouse_rows(settings, run_id) if rows is None else _file_rows(rows)
    log.info("the ladder over %d labelled transfers", table.num_rows)
    ladder = climb(Rows.of(table), settings, command=command, ceilings=known)
    head = evaluation_markdown(settings, run_id) if rows is None else "# Evaluation of the compression selector\n"
    written = Written(to, settings.reports_dir / PLACE / "index.html", settings.reports_dir / PLACE / "ladder.json")
    for path, content in (
        (written.figures, ladder.to_json().encode()),
        (written.page, render(ladder)),
        (written.markdown, f"{head}\n{ladder_markdown(ladder)}".encode()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content)
    _say(ladder)
    return written


def _warehouse_rows(settings: Settings, run_id: str | None) -> pa.Table:
    from dwcp.pipeline.summary import registered_model
    from dwcp.warehouse.reads import read_training

    return read_training(dsn(settings, "reader"), registered_model(settings, run_id).window)


def _file_rows(path: Path) -> pa.Table:
    import pyarrow as pa
    from pyarrow import parquet as pq

    from dwcp.warehouse.reads import WAREHOUSE_SCHEMA

    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is no readable Parquet file ({error}): write one with dwcp export window") from None
    missing = [name for name in WAREHOUSE_SCHEMA.names if name not in table.column_names and name not in _UNUSED]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: write it with dwcp export window of this version")
    return table


_UNUSED = {"timestamp", "ingestion_run_id"}
"""What only the warehouse knows and the ladder has no use for."""


def _ceilings(path: Path) -> tuple[Ceiling, ...]:
    from dwcp.release.ladder.worth import ceilings_of

    try:
        return ceilings_of(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ValueError(f"{path} is no JSON object ({error}): give a library's manifest.json") from None


def _say(ladder: Ladder) -> None:
    from dwcp.release.ladder.found import ENSEMBLE
    from dwcp.release.wording import interval

    for split in ladder.splits:
        rung = split.rung(ENSEMBLE)
        log.info("%s split: accuracy %s, regret %s", split.name, interval(rung.accuracy), interval(rung.mean_regret, 3))
