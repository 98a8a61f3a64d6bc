"""``dwcp rollout``: the staged rollout on the command line, over the functions that its DAG calls."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from dwcp.contract import REGIONS

app = typer.Typer(no_args_is_help=True)
Regions = Annotated[list[str] | None, typer.Option("--region", help=f"Repeat for several; default all: {REGIONS}.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the log.")]
Who = Annotated[str, typer.Option(help="Who did it; kept in the log.", default_factory=getpass.getuser)]


@app.command()
def status() -> None:
    """Show for each region what serves, how far the challenger is, and what comes next or is missing."""
    from dwcp.pipeline.site import local_settings
    from dwcp.pipeline.summary import rollout_lines

    typer.echo("\n".join(rollout_lines(local_settings())))


@app.command()
def advance(who: Who, regions: Regions = None) -> None:
    """Take the next step where it is time for it; what is missing is said. Who asks approves."""
    from dwcp.pipeline.rollout import evidence_for
    from dwcp.pipeline.site import local_settings
    from dwcp.release import rollout

    settings = local_settings()
    for position in rollout.status(settings, regions or REGIONS):
        outcome = rollout.advance(
            settings, position.region, who=who, evidence=evidence_for(settings, position), approved_by=who
        )
        typer.echo(str(outcome.decision))


@app.command()
def states() -> None:
    """Print the table of states and moves, as Markdown: docs/rollout_states.md."""
    from dwcp.release.states import render_states

    typer.echo(render_states(), nl=False)


@app.command()
def pause(who: Who, reason: Reason, regions: Regions = None) -> None:
    """Let nothing move forward until it is resumed; harm is still taken back."""
    from dwcp.pipeline.site import local_settings
    from dwcp.release import rollout

    done = rollout.pause(local_settings(), regions, who=who, reason=reason)
    typer.echo(f"paused: {', '.join(done)}" if done else "nothing to change: paused already")


@app.command()
def resume(who: Who, reason: Reason, regions: Regions = None) -> None:
    """Let the rollout go on."""
    from dwcp.pipeline.site import local_settings
    from dwcp.release import rollout

    done = rollout.resume(local_settings(), regions, who=who, reason=reason)
    typer.echo(f"resumed: {', '.join(done)}" if done else "nothing to change: not paused")
