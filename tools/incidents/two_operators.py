"""6. Two people act at once: both take back the same region; then one goes back while the other goes forward."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from dwcp.pipeline.rollout import plan_rollback, roll_back
from dwcp.release.publish import publish, serves
from dwcp.release.registry import connect, region_states
from dwcp.release.rollout import advance
from dwcp.settings import Settings
from dwcp.window import Window
from incidents.report import Incident, Span
from incidents.site import END, HERE, WEEKS, Site
from releases import ready

NEXT = "us-east"
CHALLENGER = "next-version"
NO_SOAK = {"rollout_next_shadow_soak": timedelta(0), "rollout_next_canary_soak": timedelta(0)}
PROCESSES = multiprocessing.get_context("fork")


def run(site: Site) -> Incident:
    """Each person is a process of its own; all start at one moment."""
    settings = site.settings.model_copy(update=NO_SOAK)
    began = time.monotonic()
    answers = at_once([(press, (settings, HERE, who)) for who in ("operator A", "operator B")])
    acted_s = time.monotonic() - began
    told_s = site.nodes.serve(HERE, None)
    moves = site.rows(
        "SELECT who, move, from_state, to_state FROM rollout_transitions WHERE region = %s AND at > now() - interval "
        "'2 minutes' AND move <> 'publish' AND move <> 'register' ORDER BY number",
        (HERE,),
    )
    taken_back = [move for move in moves if move[1] == "roll_back"]
    ready(settings, CHALLENGER, window=Window(END - timedelta(weeks=WEEKS), END + timedelta(days=7)))
    publish(settings, CHALLENGER, who="incident", reason="the next version")
    with connect(settings) as db:
        before = region_states(db)[NEXT]
    mixed = at_once([(press, (settings, NEXT, "operator A")), (go_on, (settings, NEXT, "operator B"))])
    with connect(settings) as db:
        after = region_states(db)[NEXT]
    site.nodes.serve(NEXT, after.champion)
    log = site.rows(
        "SELECT who, move, version FROM rollout_transitions WHERE region = %s AND who LIKE 'operator%%'"
        " ORDER BY number",
        (NEXT,),
    )
    # Whoever rolls back second has the canary before them, and means it.
    kept = after.share_buckets > 0 and [move for _, move, _ in log][:1] == ["advance"]
    return Incident(
        number=6,
        name="Two operators act at once",
        cause=(
            f"Two people press the rollback of {HERE} at the same moment, each in a process of its own; then in {NEXT} "
            "one rolls back while the other takes a newer version from the shadow into the canary."
        ),
        detected=Span(acted_s, "wall", "from the press until both had their answer, whoever came second among them"),
        recovered=Span(told_s, "wall", "until the region's node followed"),
        said=tuple(f"{who}: {said}" for who, said in (*answers, *mixed)),
        did=(
            f"{len(taken_back)} rollback of {HERE} in the log, by {taken_back[0][0] if taken_back else 'nobody'}",
            f"{NEXT}, which {serves(before)}: "
            f"{', then '.join(f'{who}: {move} {version}' for who, move, version in log)}; now {serves(after)}",
        ),
        on_call="nothing; who came second reads that it was done already, and by whom",
        nodes=site.nodes.total(),
        open=(
            *(() if len(taken_back) == 1 else (f"two presses made {len(taken_back)} rollbacks",)),
            *((f"{CHALLENGER} kept its share though what acted was taken back",) if kept else ()),
        ),
    )


def press(settings: Settings, region: str, who: str) -> str:
    """The form's two tasks."""
    plan = plan_rollback(settings, region=region, to="last-good", reason="slow since the release")
    done = roll_back(settings, who=who, plan=plan)
    return "; ".join((*done["notices"], *done["notes"])) or "nothing"


def go_on(settings: Settings, region: str, who: str) -> str:
    """``dwcp rollout advance``."""
    return str(advance(settings, region, who=who, evidence=None, approved_by=who).decision)


def at_once(acts: list[tuple[Callable[..., str], tuple[Any, ...]]]) -> list[tuple[str, str]]:
    """Run all in processes that wait for one another; who each was, and what it was told."""
    barrier, answers = PROCESSES.Barrier(len(acts)), PROCESSES.Queue()

    def one(act: Callable[..., str], given: tuple[Any, ...]) -> None:
        barrier.wait(30)
        try:
            answers.put((given[-1], act(*given)))
        except Exception as error:
            answers.put((given[-1], f"{type(error).__name__}: {error}"))

    running = [PROCESSES.Process(target=one, args=pair) for pair in acts]
    for process in running:
        process.start()
    told = [answers.get(timeout=60) for _ in running]
    for process in running:
        process.join()
    return told
