"""``make demo``: the weekly pipeline on the recorded fleet, through real Airflow, on this machine alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import track

from dwcp.settings import Settings
from dwcp.window import Window

WEEKS = 8
DAG = "dwcp_weekly_retraining"


def run_demo(settings: Settings) -> int:
    """Emulate eight weeks, backfill seven, run the weekly DAG for the eighth; 0 if that run ended well.

    Running it again replaces the same rows. A gate that says FAIL is a run that ended well: it did its work.
    """
    from dwcp.airflow_services import local_site
    from dwcp.fleet.run import run_fleet
    from dwcp.fleet.simulate import WORLD_START
    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.summary import render_summary

    console = Console()
    logging.getLogger("dwcp").setLevel(logging.WARNING)
    began = time.monotonic()
    # Nobody's traffic is at stake here, so the model that passes serves at once; `make ui` then has the staged way.
    settings = settings.model_copy(update={"source": "archive", "rollout_immediate": True})
    # The emulated world begins on a fixed Monday, so that a clone gives the same model version on any day.
    weeks = [WORLD_START + timedelta(weeks=number) for number in range(WEEKS + 1)]
    with _step(console, "Start Postgres and bring its schema up to date"):
        filled = local_settings(settings)
    site = local_site(settings, Path(__file__).parents[2])
    # Airflow starts while the past is loaded. The pool is left first, so what it started is there to be stopped.
    with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        starting = pool.submit(stack.enter_context, site.running())
        with _step(
            console, f"Emulate a fleet over {WEEKS} weeks (profiles were measured, links and nodes are emulated)"
        ):
            run_fleet(filled, weeks=WEEKS)
        _backfill(console, filled, Window(weeks[0], weeks[-2]))
        with _step(console, "Wait for Airflow's four components"):
            airflow = starting.result()
        weekly = airflow.trigger(DAG, {"start": f"{weeks[-2]:%Y-%m-%d}", "end": f"{weeks[-1]:%Y-%m-%d}"})
        console.print(f"  weekly run {weekly} for the week of {weeks[-2]:%Y-%m-%d}")
        state = airflow.wait(DAG, weekly, progress=_Reporter(console))
        if state != "success":
            console.print(f"[red]The weekly run ended {state}.[/] Its tasks' logs: make ui")
            return 1
    console.print(render_summary(filled, weekly))
    console.print(f"\nThe demo took {time.monotonic() - began:.0f} s. To look further: [bold]make ui[/]")
    return 0


def _backfill(console: Console, settings: Settings, past: Window) -> None:
    """Load the weeks before the last and validate them, as the backfill DAG does."""
    from dwcp.pipeline import backfill
    from dwcp.pipeline.options import BackfillOptions

    options = BackfillOptions(dry_run=False)
    plan = backfill.plan_backfill(settings, start=past.start.isoformat(), end=past.end.isoformat(), options=options)
    run_id = f"demo__{past.start:%Y-%m-%d}"
    for day in track(plan["days"], f"Backfill {WEEKS - 1} weeks", console=console, transient=True):
        backfill.backfill_day(settings, run_id=run_id, day=day, options=options)
    with _step(console, f"Validate the {WEEKS - 1} weeks with Great Expectations"):
        backfill.validate_backfill(settings, run_id=run_id, plan=plan)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    started = time.monotonic()
    with console.status(what):
        yield
    console.print(f"✓ {what} ({time.monotonic() - started:.0f} s)")


MARKS = {
    "success": "[green]✓[/]",
    "failed": "[red]✗[/]",
    "skipped": "[yellow]– skipped[/]",
    "upstream_failed": "[red]✗ not run[/]",
}


class _Reporter:
    """Prints each task once, when it is over."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.told: set[str] = set()
        self.began = time.monotonic()

    def __call__(self, states: dict[str, str]) -> None:
        for task, state in states.items():
            if state in MARKS and task not in self.told:
                self.told.add(task)
                seconds = time.monotonic() - self.began
                self.console.print(f"  {seconds:4.0f} s {MARKS[state]} {task}", highlight=False)
