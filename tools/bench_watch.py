"""``make bench-watch``: what the hourly watch can tell, and what looking costs; writes ``docs/benchmarks_watch.md``.

Give the names of parts (``false-alarms``, ``power``, ``memory``, ``console``) to run those alone; the page keeps the
others. Rollouts are those of ``tests/trials.py``: drawn anew by the hundred on the rows of an emulated fleet.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # rollouts run side by side, a core each

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from bench import site  # noqa: E402

import histories  # noqa: E402
import trials  # noqa: E402
from dwcp.settings import Settings  # noqa: E402
from dwcp.watch.measure import GAINS  # noqa: E402
from fixtures_postgres import Warehouse, checked_batches  # noqa: E402
from releases import ready  # noqa: E402
from rollouts import NO_SOAK, look  # noqa: E402
from transfers import START, make_transfers  # noqa: E402

PAGE = ROOT / "docs" / "benchmarks_watch.md"
A_DAY = 25_000
"""Transfers of a region."""
REGIONS, SOAK_HOURS = 6, 72
"""Emulated regions, and how long a later version's canary soaks."""
WORLDS = (10, 1)
POWER_HOURS = (6, 12, 24, 48, 72, 120, 168)
HERE = "eu-west"

_regions: dict[tuple[str, int, int], trials.Region] = {}


def false_alarms(rollouts: int = 120) -> Iterator[str]:
    """Rollouts of a model that is the one that serves, looked at every hour of the soak."""
    settings = Settings()
    yield (
        f"The model on trial *is* the one that serves; 5 % canary, a look after each of {SOAK_HOURS} hours, {A_DAY:,} "
        f"transfers a day in the region, `DWCP_WATCH_ALPHA` {settings.watch_alpha:g}. Behind each count stand the 95 % "
        "bounds of its rate (Clopper and Pearson)."
    )
    yield ""
    yield (
        "| region | rollouts | rolled back | interval of the typical transfer ever excluded no gain "
        "| interval of bulk ever did | a usual interval, looked at every hour: typical | bulk "
        "| may advance within the soak, after |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for worlds in WORLDS:
        for number in range(REGIONS):
            _regions["good", worlds, number] = trials.as_good(_region(worlds, number))
        tasks = [("good", worlds, number, draw) for number in range(REGIONS) for draw in range(rollouts // REGIONS)]
        found = _side_by_side(_alarms, tasks)
        back, typical, bulk, usual, usual_bulk = ([one[place] for one in found] for place in range(5))
        advanced = [hour for *_, hour in found if hour is not None]
        counts = " | ".join(_rate(sum(ones), len(found)) for ones in (back, typical, bulk, usual, usual_bulk))
        after = f"{len(advanced)}, {median(advanced):.0f} h (median)" if advanced else "none"
        yield f"| {_objects('good', worlds)} | {len(found)} | {counts} | {after} |"
    yield ""
    yield (
        "A usual interval has the same chance of error, meant for one look. Bulk has no interval where fewer than "
        "100 effective objects (Kish, by their share of all time) are behind an arm, as is usual at 5 %: chance "
        "decides then which arm has the few large ones, and intervals are far too narrow. A canary that may not "
        "advance yet holds: it needs more objects, so a larger share, or a person."
    )


def power(rollouts: int = 30) -> Iterator[str]:
    """Rollouts of a model that is worse by a known loss; until when the policy has rolled it back."""
    yield (
        f"Share of {rollouts} rollouts that canary against control has rolled back by then; 5 % canary, {A_DAY:,} "
        "transfers a day in the region; a look every six hours, as hourly ones take long to simulate. *In some objects*"
        f": in as many as it takes, with a {trials.HARM:.0%} chance of the dearest choice for each version; "
        "*everywhere*: each transfer takes longer."
    )
    yield ""
    yield f"| region | the typical transfer loses | {' | '.join(f'{hour} h' for hour in POWER_HOURS)} |"
    yield f"|---|---|{'---:|' * len(POWER_HOURS)}"
    worlds = WORLDS[0]
    for loss in (0.05, 0.1, 0.2):
        for number in range(REGIONS):
            region, rng = _region(worlds, number), np.random.default_rng(number)
            _regions["everywhere", worlds, number] = trials.slower_everywhere(region, loss)
            _regions["in some objects", worlds, number] = trials.worse_for_some(region, loss, rng)
        for kind in ("everywhere", "in some objects"):
            draws = range(rollouts // REGIONS)
            tasks = [(kind, worlds, number, draw) for number in range(REGIONS) for draw in draws]
            hours = _side_by_side(_rolled_back_after, tasks)
            shares = [np.mean([hour is not None and hour <= until for hour in hours]) for until in POWER_HOURS]
            cells = " | ".join(f"{share:.0%}" for share in shares)
            yield f"| {_objects(kind, worlds)} | {loss:.0%} {kind} | {cells} |"
    yield ""
    yield (
        "What limits it is the number of objects in the canary and not that of transfers: objects differ, and an "
        "object's transfers resemble one another. The other rules of the policy (accuracy, and throughput lost against "
        "the best of the same fully measured transfers) need no control group and are not part of these figures."
    )


def memory() -> Iterator[str]:
    """Peak memory of one region's look, in a process of its own."""
    from dwcp.release.publish import publish
    from dwcp.release.rollout import advance
    from dwcp.warehouse.load import load_day
    from dwcp.watch.verdict import verdict_for

    settings = Settings()
    asked = {"who": "bench", "reason": "a measurement"}
    yield (
        f"{settings.watch_evidence.days} days of a region in the warehouse, one hourly look in a process of its own; "
        f"the kernel's peak (VmHWM). Evidence is at most {settings.watch_max_rows:,} rows (`DWCP_WATCH_MAX_ROWS`), in "
        "whole days."
    )
    yield ""
    yield "| transfers a day | who has a say | rows of the evidence | MB | s |"
    yield "|---:|---|---:|---:|---:|"
    for a_day in (A_DAY, 2 * A_DAY):
        with site() as own:
            staged = own.model_copy(update={"rollout_immediate": False, **NO_SOAK})
            ready(own, "v1")
            publish(own.model_copy(update={"rollout_immediate": True}), "v1", **asked)
            for number in range(settings.watch_evidence.days):
                load_day(
                    own.loader_dsn.get_secret_value() if own.loader_dsn else "",
                    day=(START + timedelta(days=number)).date(),
                    regions=[HERE],
                    run_id="bench",
                    source="archive",
                    checked=checked_batches(_day(number, a_day), rows=10_000),
                    oracle_definition="seed_3_1",
                )
            yield _looked(own, a_day, "a champion")
            ready(staged, "v2")
            publish(staged, "v2", **asked)
            yield _looked(own, a_day, "a champion, and a version in the shadow")
            look(staged, "v2", "none")
            advance(staged, HERE, who="bench", evidence=verdict_for(staged, HERE, "v2"))
            yield _looked(own, a_day, "a champion, and a canary at 5 %")


def console() -> Iterator[str]:
    """The console's answer with a year of weekly releases and hourly looks behind it."""
    from dwcp.console.page import RANGES, console_page
    from dwcp.warehouse import server

    with site() as own:
        warehouse = Warehouse(server.ensure_running(own.home), "dwcp")
        histories.write_history(warehouse, weeks=52)
        ((figures,),) = warehouse.query("SELECT count(*) FROM field_figures")
        yield f"A year of six regions, {figures:,} figures; the page as the web server makes it, 20 times a span."
        yield ""
        yield "| shown | median, ms | slowest, ms |"
        yield "|---|---:|---:|"
        for days, name in RANGES.items():
            console_page(own, region=HERE, days=days)
            spent_ms = []
            for _ in range(20):
                began = time.perf_counter()
                console_page(own, region=HERE, days=days)
                spent_ms.append(1e3 * (time.perf_counter() - began))
            yield f"| {name} | {median(spent_ms):.0f} | {max(spent_ms):.0f} |"


PARTS: dict[str, tuple[str, Callable[[], Iterator[str]]]] = {
    "false-alarms": ("How often a good canary is accused", false_alarms),
    "power": ("How soon a bad canary is found", power),
    "memory": ("What a look takes", memory),
    "console": ("What the console takes", console),
}


def _region(worlds: int, number: int) -> trials.Region:
    key = ("both", worlds, number)
    if key not in _regions:
        _regions[key] = trials.make_region(worlds=worlds, transfers_per_week=7 * A_DAY, seed=number)
    return _regions[key]


def _alarms(task: tuple[str, int, int, int]) -> tuple[bool, bool, bool, bool, bool, int | None]:
    """Whether it was ever rolled back, ever excluded no gain (typical, bulk), a usual interval ever did; first PASS."""
    *key, draw = task
    settings = Settings()
    hours = range(1, SOAK_HOURS + 1)
    looks = list(trials.roll_out(_regions[tuple(key)], settings, hours=hours, seed=draw))
    passed = [seen.hour for seen in looks if seen.judgements[GAINS[0]].status == "PASS"]
    return (
        any(seen.rolls_back for seen in looks),
        *(any(seen.excludes(0.0, name) for seen in looks) for name in GAINS),
        *(any(seen.usual_excludes(name, settings.watch_alpha) for seen in looks) for name in GAINS),
        passed[0] if passed else None,
    )


def _rolled_back_after(task: tuple[str, int, int, int]) -> int | None:
    *key, draw = task
    looks = trials.roll_out(_regions[tuple(key)], Settings(), hours=range(6, 169, 6), seed=draw)
    return next((seen.hour for seen in looks if seen.rolls_back), None)


def _side_by_side(work: Callable[..., object], tasks: Sequence[object]) -> list[object]:
    with get_context("fork").Pool(os.cpu_count()) as pool:  # forked, so that regions are shared
        return pool.map(work, tasks, chunksize=1)


def _objects(kind: str, worlds: int) -> str:
    counts = [_regions[kind, worlds, number].objects for number in range(REGIONS)]
    return f"about {100 * round(median(counts) / 100):,} objects"


def _rate(count: int, of: int) -> str:
    from scipy.stats import beta

    lower = beta.ppf(0.025, count, of - count + 1) if count else 0.0
    upper = beta.ppf(0.975, count + 1, of - count) if count < of else 1.0
    return f"{count} ({lower:.1%} to {upper:.1%})"


def _day(number: int, rows: int) -> pa.Table:
    """A day of one region: 5 % of the buckets are the canary's."""
    table = make_transfers(rows, start=START + timedelta(days=number), seed=number, objects=400)
    canary = np.asarray(table["rollout_bucket"]) < 500
    for name, values in {
        "region": np.full(rows, HERE),
        "rollout_arm": np.where(canary, "canary", "champion"),
        "model_version": np.where(canary, "v2", "v1"),
    }.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))
    return table


def _looked(own: Settings, a_day: int, who: str) -> str:
    code = (
        "import sys, time; from pathlib import Path; from dwcp.settings import Settings;"
        "from dwcp.pipeline.site import local_settings; from dwcp.watch.observe import get_observation, observe;"
        "from dwcp.window import Window; settings = local_settings(Settings(home=Path(sys.argv[1])));"
        "began = time.perf_counter();"
        "found = observe(settings, Window.parse(*sys.argv[2:4]), regions=[sys.argv[4]]);"
        "spent = time.perf_counter() - began;"
        "print(get_observation(settings, found[0]).window.start.date(), spent,"
        " Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])"
    )
    end = START + timedelta(days=Settings().watch_evidence.days)
    command = [sys.executable, "-c", code, str(own.home), START.isoformat(), end.isoformat(), HERE]
    start, seconds, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-3:]
    rows = (end.date() - date.fromisoformat(start)).days * a_day
    return f"| {a_day:,} | {who} | {rows:,} | {float(kilobytes) / 1024:,.0f} | {float(seconds):.1f} |"


def write(name: str, lines: Sequence[str]) -> None:
    """Put a part into the page in place of what it said before."""
    title = PARTS[name][0]
    said = f"Found by `tools/bench_watch.py {name}` on {datetime.now(UTC):%Y-%m-%d}: {_machine()}."
    part = "\n".join([f"## {title}", "", said, "", *lines, ""])
    head = "# What the watch can tell, and what it takes\n\nWritten by `make bench-watch`, part by part.\n"
    page = PAGE.read_text() if PAGE.exists() else head
    parts = re.split(r"(?m)^(?=## )", page)
    kept = {found.splitlines()[0][3:]: found.strip() + "\n" for found in parts[1:]}
    kept[title] = part
    ordered = [kept[known] for known, _ in PARTS.values() if known in kept]
    PAGE.write_text("\n".join([head, *ordered]))


def _machine() -> str:
    from bench import _cpu

    return f"{_cpu()}, {os.cpu_count()} cores, Python {platform.python_version()}; load {os.getloadavg()[0]:.1f}"


def main() -> None:
    """Run the named parts, or all, and write them into the page."""
    for name in sys.argv[1:] or PARTS:
        print(f"{name} …", flush=True)
        lines = []
        for line in PARTS[name][1]():
            print(line, flush=True)
            lines.append(line)
        write(name, lines)


if __name__ == "__main__":
    main()
