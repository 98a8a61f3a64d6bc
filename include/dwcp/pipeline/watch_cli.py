"""``dwcp watch``: the hourly watch on the command line, over the functions that its DAG calls."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.command()
def policy() -> None:
    """Print what the watch does about what it sees, as Markdown: docs/watch_policy.md."""
    from dwcp.watch.page import policy_page

    typer.echo(policy_page(), nl=False)


@app.command()
def look(
    until: Annotated[str | None, typer.Option(help="End of the hour, as 2026-08-10T06:00; UTC. Default: now.")] = None,
    act: Annotated[bool, typer.Option(help="Do what the policy says; else only measure, judge and store.")] = False,
) -> None:
    """Load the hour's day, look at each region in which a model has a say, and say what is due there."""
    from dwcp.pipeline import watch
    from dwcp.pipeline.site import local_settings

    settings = local_settings()
    plan = watch.plan_look(settings, until=until)
    refreshed = watch.refresh_rows(settings, run_id="dwcp watch look", until=plan["until"])
    if not refreshed["fresh"]:
        typer.echo(refreshed["reason"])
        raise typer.Exit(1)
    for region in plan["regions"]:
        looked = watch.look_at_region(settings, region=region, refreshed=refreshed)
        if act:
            typer.echo("\n".join(watch.act_in_region(settings, looked=looked)["lines"]))
        else:
            due = ", ".join(looked["actions"])
            typer.echo(f"{region}: {due or 'nothing'} is due ({'; '.join(looked['reasons'])})")
