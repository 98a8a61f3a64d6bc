"""``make incidents``, or ``python -m incidents --only 5`` with ``PYTHONPATH=tools:tests``."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from dwcp.settings import Settings
from incidents import (
    bad_model,
    clock_skew,
    garbage,
    influx_out,
    postgres_restart,
    traffic,
    two_operators,
    wrong_unit,
)
from incidents.field import FIELD_ROWS
from incidents.report import Incident, from_json, in_words, machine, page, to_json
from incidents.site import WEEKS, Site, ground

PAGE = Path(__file__).parents[2] / "docs" / "incidents.md"
SCENARIOS: dict[int, Callable[[Site], Incident]] = {
    1: bad_model.run,
    2: influx_out.run,
    3: traffic.run,
    4: garbage.run,
    5: postgres_restart.run,
    6: two_operators.run,
    7: clock_skew.run,
    8: wrong_unit.run,
}


def main() -> None:
    """Run the incidents that were asked for, and write the page once all have been run."""
    parser = argparse.ArgumentParser(description="Eight incidents on the real components.")
    parser.add_argument(
        "--only", type=int, nargs="+", choices=SCENARIOS, help="these alone; the page has the others' last run"
    )
    given = parser.parse_args()
    logging.disable(logging.ERROR)  # what is said is printed; what a lost connection logs is not
    began = time.monotonic()
    found = []
    root = Settings().home / "incidents"
    kept = root / "found"
    kept.mkdir(parents=True, exist_ok=True)
    with ground(root) as base:
        print(
            f"the champion {base.champion} is right in {base.accuracy:.2%}; making it took {base.made_s:.0f} s",
            flush=True,
        )
        for number in given.only or SCENARIOS:
            started = time.monotonic()
            with base.site(number) as site:
                one = SCENARIOS[number](site)
            found.append(dataclasses.replace(one, took_s=time.monotonic() - started, ran=machine()))
            (kept / f"{number}.json").write_text(to_json(found[-1]), encoding="utf-8")
            print(in_words(found[-1]), flush=True)
        fleet = (
            f"The champion learned from {WEEKS} weeks of 25,000 transfers (right in {base.accuracy:.2%} of its test "
            f"week); the field has {FIELD_ROWS:,} a week."
        )
    print(f"\n{len(found)} incidents took {time.monotonic() - began:.0f} s", flush=True)
    files = [kept / f"{number}.json" for number in SCENARIOS]
    if all(file.exists() for file in files):
        PAGE.write_text(page([from_json(file.read_text("utf-8")) for file in files], fleet=fleet), encoding="utf-8")
    sys.exit(1 if any(one.nodes.failed for one in found) else 0)


if __name__ == "__main__":
    main()
