"""1. A join slips by one row: a model learns the next transfer's answers, and the gate is set so low that it passes."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import numpy as np

from dwcp.pipeline import weekly
from dwcp.pipeline.rollout import judge_region
from dwcp.release.evaluate import Evaluation
from dwcp.release.gate import judge
from dwcp.release.publish import publish
from dwcp.release.registry import connect, region_states
from dwcp.release.rollout import advance, pause, resume
from dwcp.settings import SPLITS, Settings
from dwcp.store import Store
from dwcp.training.dataset import Dataset
from incidents.field import Look, fleet_week, watch, watch_hours
from incidents.report import Incident, Span
from incidents.site import END, HERE, Site

LOWERED = {
    **{"gate_accuracy": 0.3, "gate_accuracy_half_width": 1.0, "gate_precision": 0.0, "gate_recall": 0.0},
    **{"gate_f1": 0.0, "gate_regret": 1e9, "gate_throughput_gain": -1.0, "gate_champion_tolerance": 1.0},
    "gate_slower_slices": 100,
}
"""No threshold of worth is left; what a form must be (parity, size, latency) stays."""
AT_ONCE = "us-west"
"""Where somebody lets it serve everything at once; in ``HERE`` it is hurried into the canary."""
CANARY_HOURS, MOST_HOURS = 24, 3 * 24


def run(site: Site) -> Incident:
    """Publish it; look at it in the shadow, in a canary of 5 %, and where it serves everything."""
    lowered = site.settings.model_copy(update={**LOWERED, "rollout_next_shadow_soak": timedelta(0)})
    asked = {"who": "incident", "reason": "in a hurry"}
    pause(lowered, [AT_ONCE], **asked)
    version, usual = publish_slipped(lowered)
    resume(lowered, [AT_ONCE], **asked)
    publish(lowered.model_copy(update={"rollout_immediate": True}), version, regions=[AT_ONCE], **asked)
    watch(site, END)
    in_shadow = judge_region(lowered, region=HERE)["line"]
    advance(lowered, HERE, who="incident", evidence=None)
    site.nodes.wait(lambda told: version in told[HERE]["by_version"] and version in told[AT_ONCE]["by_version"])
    serving_all = watch_hours(site, fleet_week(site, region=AT_ONCE), END, MOST_HOURS)
    full = next((look for look in serving_all if _taken_back(look)), None)
    waited_s = site.nodes.serve(AT_ONCE, site.champion) if full else 0.0
    looks = []
    for look in watch_hours(site, fleet_week(site), END, CANARY_HOURS):
        looks.append(look)
        if _taken_back(look):
            break
    told = next((look for look in looks if look.speaks_of("accuracy", "drift", "throughput", "suboptimal")), None)
    in_canary = judge_region(lowered.model_copy(update={"rollout_next_canary_soak": timedelta(0)}), region=HERE)["line"]
    with connect(lowered) as db:
        now = region_states(db)
    return Incident(
        number=1,
        name="A bad model slips through the gate",
        cause=(
            f"A join slips by one row, so {version} learned each transfer's answer from the next one. The gate's "
            f"thresholds of worth are lowered until it passes; somebody lets it serve all of {AT_ONCE} at once, and "
            f"hurries it to 5 % of {HERE}."
        ),
        detected=Span((full.until - END).total_seconds(), "field", f"{AT_ONCE}: the first look that is sure of harm")
        if full
        else None,
        recovered=Span(waited_s, "wall", "after the watch's act, until the region's node had the old version again")
        if full
        else None,
        said=site.said,
        did=(
            f"the gate with its usual thresholds: {usual}",
            f"in the shadow of {HERE}, at the first look: {in_shadow}",
            f"in the canary of {HERE}, "
            + (f"the first alert after {(told.until - END).total_seconds() / 3_600:.0f} h; " if told else "no alert; ")
            + ("taken back by the watch" if looks and _taken_back(looks[-1]) else f"not taken back in {CANARY_HOURS} h")
            + f"; the rollout, were its soak over: {in_canary}",
            f"in the end {AT_ONCE} has {now[AT_ONCE].champion}, {HERE} {now[HERE].champion} with "
            f"{now[HERE].challenger} as challenger, the others {site.champion}",
        ),
        on_call=f"press the rollback where it is still in the canary (`dwcp rollback --region {HERE}`); "
        "in the morning find out who lowered the gate, and look at the evaluation page",
        nodes=site.nodes.total(),
        open=()
        if looks and _taken_back(looks[-1])
        else (
            "at 5 % of one region the emulated fleet has too few objects for an interval, so the watch alerts and the "
            "rollout holds, but nothing is taken back without a person; evidence is not pooled over regions",
        ),
    )


def _taken_back(look: Look) -> bool:
    return "rollback" in look.actions


def publish_slipped(settings: Settings) -> tuple[str, str]:
    """The weekly run's own steps on answers that moved by one row; the version, and the usual gate's word."""
    span = {"run_id": "slipped", "start": (END - timedelta(days=7)).isoformat(), "end": END.isoformat()}
    store = Store(settings.store_dir)
    dataset = weekly.build_dataset(settings, **span)["dataset"]
    right = Dataset.from_parquet_bytes(store.get(dataset["data"]))
    wrong = dataclasses.replace(right, labels=np.roll(right.labels, 1), costs_ms=np.roll(right.costs_ms, 1, axis=0))
    dataset = {**dataset, "data": store.put("dataset.parquet", wrong.to_parquet_bytes())}
    exported = weekly.export_model(
        settings,
        dataset=dataset,
        xgboost=[weekly.train_xgboost(settings, dataset=dataset, split=split) for split in SPLITS],
        network=[weekly.train_network(settings, dataset=dataset, split=split) for split in SPLITS],
    )
    evaluation = weekly.evaluate_model(settings, run_id="slipped", dataset=dataset, exported=exported)
    gate = weekly.apply_gate(settings, evaluation=evaluation)
    if gate["verdict"] != "PASS":
        raise RuntimeError(f"even the lowered gate holds it: {gate}")
    weekly.publish_model(settings, dataset=dataset, exported=exported, evaluation=evaluation, gate=gate, **span)
    usual = judge(Evaluation.from_json(store.get(evaluation["evaluation"])), Settings())
    return gate["version"], f"{usual.status.value}: {'; '.join(usual.reasons[:3])}"
