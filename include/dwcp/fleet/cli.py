"""``dwcp fleet measure`` and ``dwcp fleet run``."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from dwcp.fleet.library import RECORDED
from dwcp.fleet.mix import DEFAULT_MIX

app = typer.Typer(help="The emulated fleet: real codecs on real bytes, emulated nodes and links.", no_args_is_help=True)

MixFile = Annotated[Path, typer.Option("--mix", help="the frozen mix of objects, nodes and links")]


def _show_progress() -> None:
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("dwcp").setLevel(logging.INFO)


@app.command("measure")
def measure_command(
    out: Annotated[Path, typer.Argument(help="directory of the library")] = RECORDED,
    objects: Annotated[int, typer.Option(min=1, help="how many objects to make")] = 1_000,
    runs: Annotated[int, typer.Option(min=1, help="runs of each engine; the minimum counts")] = 5,
    payloads: Annotated[
        Path | None,
        typer.Option(help="measure <type>/<object>/<version> below this directory in place of made objects"),
    ] = None,
    core: Annotated[
        int | None, typer.Option(min=0, help="core to measure on; default: the quietest. Others may be in use")
    ] = None,
    allow_busy: Annotated[
        bool, typer.Option(help="go on although others use that core; the library is marked")
    ] = False,
    mix_file: MixFile = DEFAULT_MIX,
) -> None:
    """Run every engine on real bytes and record the profile library. Run it again to go on after an interruption."""
    from dwcp.fleet.engines import EngineError
    from dwcp.fleet.measure import BusyMachineError, measure
    from dwcp.fleet.mix import MixError, load_mix
    from dwcp.fleet.payloads import PayloadError, directory_objects, made_objects

    _show_progress()
    try:
        mix = load_mix(mix_file)
        if payloads is not None:
            items = directory_objects(payloads)
        else:
            items = made_objects(mix, objects, mix.library["versions"], mix.library["seed"])
        command = f"dwcp fleet measure --objects {objects} --runs {runs}" + (" --payloads ..." if payloads else "")
        manifest = measure(
            out, items, runs=runs, core=core, command=command, allow_busy=allow_busy, mix_digest=mix.digest
        )
    except (MixError, PayloadError, BusyMachineError, EngineError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    seen, ceiling = manifest["quiet"], manifest["repeatability"]
    typer.echo(
        f"{manifest['objects']} objects, {manifest['payloads']} payloads, {manifest['payload_bytes'] / 1e9:.2f} GB"
    )
    for engine, ratio in manifest["ratios"].items():
        typer.echo(f"{engine} compresses {ratio['p10']:.2f} x to {ratio['p90']:.2f} x, median {ratio['median']:.2f} x")
    typer.echo(f"quiet: {'NO' if seen['noisy'] else 'yes'} {seen}")
    typer.echo(f"second set:   {ceiling['second_set']}")
    for count, one in ceiling["by_runs"].items():
        typer.echo(
            f"labels of {count} runs: two measurements agree {one['label_agreement']:.2%}, "
            f"regret {one['mean_regret']:.3%}"
        )
    typer.echo(f"near ties:    {ceiling['near_ties']}")
    typer.echo(f"end's sample: {ceiling['end_sample']}")


@app.command("run")
def run_command(
    weeks: Annotated[int, typer.Option(min=1, help="how many weeks to log")] = 8,
    first_week: Annotated[int, typer.Option(min=0, help="first of them; the weeks before only make history")] = 0,
    per_week: Annotated[int | None, typer.Option(min=1, help="transfers a week; default: the mix's 25,000")] = None,
    start: Annotated[str, typer.Option(help="the Monday on which week 0 of the world begins, UTC")] = "2026-08-03",
    seed: Annotated[int | None, typer.Option(help="default: DWCP_SEED")] = None,
    to: Annotated[str, typer.Option(help="archive or influxdb")] = "archive",
    serve: Annotated[Path | None, typer.Option(help="directory of a published bundle whose model decides")] = None,
    share: Annotated[float, typer.Option(min=0, max=1, help="share of rollout buckets that the model decides")] = 1.0,
    defects: Annotated[bool, typer.Option(help="log the mix's few defective rows")] = True,
    library: Annotated[Path, typer.Option(help="directory of the profile library")] = RECORDED,
    mix_file: MixFile = DEFAULT_MIX,
) -> None:
    """Cross the library with nodes, links and loads over weeks and write what nodes would log."""
    import time

    from dwcp.export.runtime import ModelError
    from dwcp.fleet.library import LibraryError
    from dwcp.fleet.mix import MixError
    from dwcp.fleet.run import run_fleet
    from dwcp.settings import Settings
    from dwcp.sources import SourceError

    _show_progress()
    began = time.monotonic()
    try:
        done = run_fleet(
            Settings(),
            weeks=weeks,
            first_week=first_week,
            transfers_per_week=per_week,
            start=datetime.fromisoformat(start).replace(tzinfo=UTC),
            seed=seed,
            to=to,
            serve=serve,
            share=share,
            defects=defects,
            library=library,
            mix_file=mix_file,
        )
    except (MixError, LibraryError, ModelError, SourceError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    spent = time.monotonic() - began
    typer.echo(f"{done.rows} transfers, {done.start:%Y-%m-%d} to {done.end:%Y-%m-%d}, to {done.place} in {spent:.1f} s")
    typer.echo(f"mix {done.mix_digest}, library {done.library_sha256[:16]}")


@app.command("reality")
def reality_command(
    payloads: Annotated[int, typer.Option(min=2, help="how many to transfer, two versions of each object")] = 200,
    most_bytes: Annotated[int, typer.Option(min=1, help="of an object, about")] = 2_000_000,
    repeats: Annotated[int, typer.Option(min=1, help="transfers of each payload by each algorithm")] = 2,
    runs: Annotated[int, typer.Option(min=1, help="runs of each engine for the prediction")] = 5,
    way: Annotated[str | None, typer.Option(help="namespaces or relay; default: what the machine allows")] = None,
    fresh: Annotated[bool, typer.Option(help="open new TCP connections for every transfer")] = False,
    congestion: Annotated[str, typer.Option(help="TCP's congestion control")] = "cubic",
    mix_file: MixFile = DEFAULT_MIX,
) -> None:
    """Transfer real payloads over emulated links and hold the oracle's cost formula against the clock."""
    from dwcp.fleet import reality
    from dwcp.fleet.link import LinkError
    from dwcp.fleet.mix import MixError, load_mix
    from dwcp.fleet.payloads import PayloadError

    _show_progress()
    try:
        objects = reality.small_objects(load_mix(mix_file), payloads, most_bytes)
        found = reality.check_reality(objects, repeats=repeats, runs=runs, way=way, fresh=fresh, congestion=congestion)
    except (MixError, PayloadError, LinkError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    typer.echo(reality.render(found))


if __name__ == "__main__":
    app()
