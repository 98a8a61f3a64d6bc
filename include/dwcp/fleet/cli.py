"""``dwcp fleet measure`` and ``dwcp fleet run``."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from dwcp.fleet.library import RECORDED
from dwcp.fleet.mix import DEFAULT_MIX

app = typer.Typer(help="The emulated fleet: real codecs on real bytes, emulated nodes and links.", no_args_is_help=True)

MixFile = Annotated[Path, typer.Option("--mix", help="the frozen mix of objects, nodes and links")]


@app.command("measure")
def measure_command(
    out: Annotated[Path, typer.Argument(help="directory of the library")] = RECORDED,
    objects: Annotated[int, typer.Option(min=1, help="how many objects to make")] = 250,
    runs: Annotated[int, typer.Option(min=1, help="runs of each engine; the minimum counts")] = 5,
    payloads: Annotated[
        Path | None, typer.Option(help="measure <type>/<object>/<version> below this directory in place of made objects")
    ] = None,
    allow_busy: Annotated[bool, typer.Option(help="go on although other processes are at work")] = False,
    mix_file: MixFile = DEFAULT_MIX,
) -> None:
    """Run every engine on real bytes and record the profile library. Run it again to go on after an interruption."""
    from dwcp.fleet.engines import EngineError
    from dwcp.fleet.measure import BusyMachineError, measure
    from dwcp.fleet.mix import MixError, load_mix
    from dwcp.fleet.payloads import PayloadError, directory_objects, made_objects

    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        mix = load_mix(mix_file)
        if payloads is not None:
            items = directory_objects(payloads)
        else:
            items = made_objects(mix, objects, mix.library["versions"], mix.library["seed"])
        command = f"dwcp fleet measure --objects {objects} --runs {runs}" + (" --payloads ..." if payloads else "")
        manifest = measure(out, items, runs=runs, command=command, allow_busy=allow_busy, mix_digest=mix.digest)
    except (MixError, PayloadError, BusyMachineError, EngineError) as error:
        raise typer.BadParameter(str(error)) from None
    seen, ceiling = manifest["quiet"], manifest["repeatability"]
    typer.echo(f"{manifest['objects']} objects, {manifest['payloads']} payloads, {manifest['payload_bytes'] / 1e9:.2f} GB")
    typer.echo(f"quiet: {'NO' if seen['noisy'] else 'yes'} {seen}")
    typer.echo(f"second set:   {ceiling['second_set']}")
    typer.echo(f"end's sample: {ceiling['end_sample']}")


if __name__ == "__main__":
    app()
