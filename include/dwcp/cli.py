"""``dwcp``: the product on the command line, over the same functions that the DAGs call."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dwcp.contract import FEATURE_SET_DIGEST, REGIONS
from dwcp.fleet.cli import app as fleet_app
from dwcp.pipeline.rollout_cli import app as rollout_app
from dwcp.pipeline.watch_cli import app as watch_app
from dwcp.settings import Settings

app = typer.Typer(
    help="Learn, gate, publish and watch the compression choice of DWCP nodes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
WEEKLY, MODEL, DATA, SITE = "The weekly run", "Models in the field", "Data", "This installation"
app.add_typer(fleet_app, name="fleet", help="Measure real codecs on real bytes; emulate a fleet.", rich_help_panel=DATA)
export = typer.Typer(no_args_is_help=True)
app.add_typer(
    export, name="export", help="Write labelled transfers for analysis, or the contract for Go.", rich_help_panel=DATA
)

app.add_typer(
    rollout_app, name="rollout", help="See, advance, pause or resume the staged rollout.", rich_help_panel=MODEL
)
app.add_typer(watch_app, name="watch", help="Look at models in the field, and at the policy.", rich_help_panel=MODEL)

Start = Annotated[str, typer.Option(help="First day, as 2026-10-26; UTC.")]
End = Annotated[str, typer.Option(help="Day after the last, as 2026-11-02; UTC.")]
Source = Annotated[str | None, typer.Option(help="archive or influxdb; default: DWCP_SOURCE.")]
Regions = Annotated[list[str] | None, typer.Option("--region", help=f"Repeat for several; default all: {REGIONS}.")]


@app.callback()
def main(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show each step's log.")] = False) -> None:
    """Set up logging; each command loads only what it needs."""
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(message)s")


@app.command(rich_help_panel=WEEKLY)
def demo() -> None:
    """Backfill seven weeks of the recorded fleet and run the weekly DAG for the eighth through real Airflow."""
    from dwcp.demo import run_demo

    raise typer.Exit(run_demo(Settings()))


@app.command(rich_help_panel=WEEKLY)
def weekly(start: Start, end: End, source: Source = None) -> None:
    """Run the whole weekly pipeline for a window in this process, without Airflow."""
    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.weekly import run_weekly

    logging.getLogger("dwcp").setLevel(logging.INFO)
    _print(run_weekly(local_settings(), run_id=_run_id("weekly"), start=start, end=end, source=source))


@app.command(rich_help_panel=WEEKLY)
def summary(run_id: Annotated[str | None, typer.Argument(help="Default: the last run.")] = None) -> None:
    """Show what a weekly run read, judged and published."""
    from rich.console import Console

    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.summary import render_summary

    Console().print(render_summary(local_settings(), run_id))


@app.command(rich_help_panel=WEEKLY)
def evaluation(run_id: Annotated[str | None, typer.Argument(help="Default: the last run.")] = None) -> None:
    """Print a run's evaluation as Markdown: the ladder and the gate exactly as found."""
    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.summary import evaluation_markdown

    typer.echo(evaluation_markdown(local_settings(), run_id), nl=False)


@app.command(rich_help_panel=WEEKLY)
def parity(run_id: Annotated[str | None, typer.Argument(help="Default: the last run.")] = None) -> None:
    """Hold a run's exported forms against what was trained, and time them; ends with 1 if one differs."""
    from rich.console import Console

    from dwcp.pipeline.parity import run_parity
    from dwcp.pipeline.site import local_settings

    logging.getLogger("dwcp").setLevel(logging.INFO)
    tables, agrees = run_parity(local_settings(), run_id)
    Console(width=120).print(tables)
    raise typer.Exit(0 if agrees else 1)


@app.command(rich_help_panel=WEEKLY)
def ladder(
    run_id: Annotated[str | None, typer.Argument(help="Default: the last run.")] = None,
    rows: Annotated[Path | None, typer.Option(help="Rows of dwcp export window, instead of a run's.")] = None,
    ceilings: Annotated[
        Path | None, typer.Option(help="JSON with labels' repeatability: a library's manifest.")
    ] = None,
    to: Annotated[Path, typer.Option(help="The Markdown page.")] = Path("docs/compression_selector_eval.md"),
) -> None:
    """Judge every selector from the majority class to the product on a run's rows; write the evaluation's pages."""
    from dwcp.pipeline.ladder import run_ladder
    from dwcp.pipeline.site import local_settings

    logging.getLogger("dwcp").setLevel(logging.INFO)
    settings = Settings() if rows else local_settings()
    written = run_ladder(settings, run_id=run_id, rows=rows, ceilings=ceilings, to=to)
    typer.echo(f"{written.markdown}\n{written.page}\n{written.figures}")


@app.command(rich_help_panel=WEEKLY)
def weeks(
    run_id: Annotated[str | None, typer.Argument(help="Default: the last run.")] = None,
    count: Annotated[int, typer.Option("--weeks", min=1, help="Consecutive weeks, counted from the end.")] = 4,
) -> None:
    """Train week by week on a run's rows: a retrained, a week-old and a never-retrained model, as Markdown."""
    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.weeks import run_weeks

    logging.getLogger("dwcp").setLevel(logging.INFO)
    typer.echo(run_weeks(local_settings(), run_id=run_id, weeks=count), nl=False)


@app.command(rich_help_panel=DATA)
def backfill(
    start: Start,
    end: End,
    source: Source = None,
    regions: Regions = None,
    oracle: Annotated[
        str | None,
        typer.Option(help="seed_3_1, seed_3_2 or stream_aware; another than DWCP_ORACLE in a dry run only."),
    ] = None,
    relabel_only: Annotated[bool, typer.Option(help="Keep the rows, compute their labels anew.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Say what would change, change nothing.")] = True,
) -> None:
    """Load or relabel past days again; by default a dry run that shows rows now and after, and label flips."""
    from dwcp.pipeline.backfill import run_backfill
    from dwcp.pipeline.options import BackfillOptions
    from dwcp.pipeline.site import local_settings

    logging.getLogger("dwcp").setLevel(logging.INFO)
    options = BackfillOptions(source, tuple(regions or ()), oracle, relabel_only, dry_run)
    typer.echo(run_backfill(local_settings(), run_id=_run_id("backfill"), start=start, end=end, options=options))


@export.command("window")
def export_rows(
    start: Start, end: End, to: Annotated[Path, typer.Argument(help="A .parquet or .csv file to write.")]
) -> None:
    """Write a labelled, validated window to Parquet or CSV (seed §5.1)."""
    from dwcp.pipeline.site import dsn, local_settings
    from dwcp.warehouse.export import export_window
    from dwcp.window import Window

    rows = export_window(dsn(local_settings(), "reader"), Window.parse(start, end), to)
    typer.echo(f"{rows} rows written to {to}")


@export.command("go")
def export_go(
    to: Annotated[Path, typer.Argument(help="The file of the Go module.")] = Path("go/contract_gen.go"),
) -> None:
    """Write the contract as Go: enums, features, bounds and the log's columns (seed §5.2 step 4)."""
    from dwcp.export.go_contract import render_contract

    to.write_text(render_contract(), encoding="utf-8")
    typer.echo(f"contract {FEATURE_SET_DIGEST} written to {to}")


@app.command(rich_help_panel=DATA)
def dictionary() -> None:
    """Print the data dictionary: every column with unit, type, range and meaning."""
    from dwcp.quality.dictionary import render

    typer.echo(render(), nl=False)


@app.command(rich_help_panel=MODEL)
def tune(
    end: End,
    trials: Annotated[int, typer.Option(min=1, help="Budget; trials of an earlier run count.")] = 20,
    folds: Annotated[int, typer.Option(min=1, help="Time blocks that each trial is scored on.")] = 3,
    rows: Annotated[int, typer.Option(min=200, help="Thin training and validation to this many rows.")] = 20_000,
) -> None:
    """Search hyperparameters and ensemble weight on the training window's past; nothing uses them by itself."""
    from datetime import timedelta

    from dwcp.pipeline.site import dsn, local_settings
    from dwcp.training.dataset import build_dataset
    from dwcp.training.split import split_by_time
    from dwcp.training.tune import tune as search
    from dwcp.warehouse.reads import read_training
    from dwcp.window import Window

    logging.getLogger("dwcp.training.tune").setLevel(logging.INFO)
    settings = local_settings()
    last = Window.parse("1970-01-01", end).end
    window = Window(last - timedelta(weeks=settings.training_weeks), last)
    stored = read_training(dsn(settings, "reader"), window)
    dataset = split_by_time(build_dataset(stored, settings.oracle), settings)
    found = search(dataset, settings, trials=trials, folds=folds, most_rows=rows)
    typer.echo("\n".join(found.lines()))
    typer.echo(f"to train with the best: set -a; . {settings.home / 'tuning' / 'best.env'}; set +a")


@app.command(rich_help_panel=MODEL)
def models() -> None:
    """List the versions that were registered, their verdicts and what serves."""
    from rich.console import Console

    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.summary import render_models

    Console().print(render_models(local_settings()))


@app.command(rich_help_panel=MODEL)
def channel() -> None:
    """Show the signed document that nodes poll, after making it say what Postgres says."""
    from dwcp.pipeline.site import local_settings
    from dwcp.release.channel import sync_channel

    content = sync_channel(local_settings())
    if content is None:
        typer.echo("nothing was published yet: nodes follow their rules")
    else:
        _print(content.to_document())


@app.command(rich_help_panel=MODEL)
def rollback(
    reason: Annotated[str, typer.Option(help="Why; kept in the release log.")],
    to: Annotated[str, typer.Option(help="A version, last-good, or rules (no model at all).")] = "last-good",
    region: Annotated[str | None, typer.Option(help="One region; default all.")] = None,
    away_from: Annotated[
        str | None, typer.Option(help="Only where this version serves: said twice, it is done once.")
    ] = None,
    who: Annotated[str, typer.Option(help="Who did it; kept in the release log.")] = "cli",
) -> None:
    """Take a canary, or else the serving model, back: a higher serial that names an older version."""
    from dwcp.pipeline.site import local_settings
    from dwcp.release.publish import rollback as roll_back

    typer.echo(roll_back(local_settings(), to=to, region=region, reason=reason, who=who, away_from=away_from))


@app.command(rich_help_panel=SITE)
def ui(port: Annotated[int, typer.Option(help="Where to listen on 127.0.0.1.")] = 8080) -> None:
    """Start Airflow's four components on loopback with a login; Ctrl-C stops them."""
    from dwcp.airflow_services import local_site

    local_site(Settings(), Path(__file__).parents[2], port=port).serve()


@app.command(rich_help_panel=SITE)
def migrate() -> None:
    """Bring the warehouse's schema up to date."""
    from dwcp.pipeline.site import dsn, local_settings
    from dwcp.warehouse.migrate import migrate as apply

    applied = apply(dsn(local_settings(), "owner"))
    typer.echo("\n".join(applied) if applied else "the schema is up to date")


@app.command(rich_help_panel=SITE)
def psql(role: Annotated[str, typer.Option(help="owner, loader, reader or registry.")] = "reader") -> None:
    """Print the connection of a role, for psql or a notebook."""
    from dwcp.pipeline.site import dsn, local_settings

    typer.echo(dsn(local_settings(), role))


@app.command(rich_help_panel=SITE)
def stop() -> None:
    """Stop the embedded Postgres."""
    from dwcp.warehouse import server

    server.stop(Settings().home)


def run() -> None:
    """The console script: an error is one line for a person; ``--verbose`` shows where it came from."""
    try:
        app()
    except (ValueError, RuntimeError, OSError) as error:
        if logging.getLogger().level <= logging.INFO:
            raise
        typer.secho(f"error: {error}", fg="red", err=True)
        raise SystemExit(1) from None


def _run_id(kind: str) -> str:
    return f"{kind}__{datetime.now(UTC):%Y%m%dT%H%M%S}"


def _print(result: dict[str, object]) -> None:
    typer.echo(json.dumps(result, indent=2))
