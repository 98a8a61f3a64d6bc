"""The weekly run, step by step: plan, load, reconcile, validate, train, export, evaluate, gate, publish, verify."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwcp.pipeline import QualityGateFailed, ReconcileFailed
from dwcp.pipeline.ingest import COUNTS, load_day
from dwcp.pipeline.site import dsn
from dwcp.settings import SPLITS, Settings
from dwcp.store import Store, write_atomically
from dwcp.window import Window

if TYPE_CHECKING:
    from dwcp.training.dataset import Dataset

__all__ = [
    "act_on_field",
    "apply_gate",
    "build_dataset",
    "evaluate_model",
    "export_model",
    "load_day",
    "plan_window",
    "publish_model",
    "reconcile",
    "run_weekly",
    "train_network",
    "train_xgboost",
    "validate",
    "verify_published",
    "watch_field",
]
log = logging.getLogger(__name__)


def plan_window(settings: Settings, *, start: str, end: str) -> dict[str, Any]:
    """The window cut to whole UTC days, as loads replace whole days, and those days.

    Raises ``ValueError`` if no whole day is left or the window is not over yet.
    """
    asked = Window.parse(start, end)
    if asked.end > datetime.now(UTC) + settings.max_clock_ahead:
        raise ValueError(f"the window ends in the future ({asked.end:%Y-%m-%d %H:%M} UTC): choose an end that is past")
    first, last = _midnight(asked.start), _midnight(asked.end)
    if first >= last:
        raise ValueError(f"{asked.start:%Y-%m-%d %H:%M} to {asked.end:%Y-%m-%d %H:%M} UTC holds no whole day")
    window = Window(first, last)
    return {
        "start": window.start.isoformat(),
        "end": window.end.isoformat(),
        "days": [day.isoformat() for day in window.days()],
    }


def reconcile(
    settings: Settings, *, run_id: str, start: str, end: str, loads: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Sum the days' counts and hold them against the ledger. Raises ``ReconcileFailed`` if anything went missing."""
    from dwcp.warehouse.windows import loaded_counts

    window = Window.parse(start, end)
    loads = list(loads)
    days = {str(load["day"]) for load in loads}
    absent = [day.isoformat() for day in window.days() if day.isoformat() not in days]
    if absent:
        raise ReconcileFailed(f"days without a load: {', '.join(absent)}; clear their load_day tasks")
    ledger = dataclasses.asdict(loaded_counts(dsn(settings, "loader"), window))
    # A transfer logged twice on two days is one row: a later load may turn an earlier day's row into a duplicate, so
    # days may differ from the ledger in that, but what was read must be accounted for to the last row.
    read = sum(int(load["read"]) for load in loads)
    if ledger["read"] != read:
        raise ReconcileFailed(f"the loads read {read} rows, the ledger says {ledger['read']}: clear the load_day tasks")
    if ledger["read"] != ledger["loaded"] + ledger["quarantined"] + ledger["duplicate"]:
        raise ReconcileFailed(f"read ≠ loaded + quarantined + duplicate: {ledger}")
    log.info("%s: read %d = loaded %d + quarantined %d + duplicate %d", run_id, *(ledger[name] for name in COUNTS))
    return {name: ledger[name] for name in COUNTS}


def validate(settings: Settings, *, run_id: str, start: str, end: str) -> dict[str, Any]:
    """Run the Great Expectations suite over the window; if it passes, the trainer and the data team see it.

    Raises ``QualityGateFailed`` if an expectation marked *fail* does not hold.
    """
    from dwcp.quality.report import render
    from dwcp.quality.suite import validate_window
    from dwcp.warehouse import windows

    window = Window.parse(start, end)
    loader = dsn(settings, "loader")
    seen = windows.read_states(loader, window)
    result = validate_window(loader, window, run_id)
    report = _write_page(settings, run_id, "quality.html", render(result))
    if not result.passed:
        broken = "; ".join(check.title for check in result.failures)
        windows.mark_failed(loader, window, run_id=run_id, failure=broken, seen=seen)
        raise QualityGateFailed(f"the window stays unvalidated: {broken}; the failing rows are in {report}", report)
    windows.mark_validated(loader, window, run_id=run_id, seen=seen)
    return {"passed": True, "report": report, "checks": len(result.checks), "warnings": len(result.warnings)}


def build_dataset(settings: Settings, *, run_id: str, start: str, end: str) -> dict[str, Any]:
    """The labelled, validated transfers of the training window (the last ``training_weeks`` up to ``end``)."""
    from dwcp.training.dataset import build_dataset as build
    from dwcp.training.split import split_by_time
    from dwcp.warehouse.reads import read_training

    last = Window.parse(start, end)
    window = Window(last.end - timedelta(weeks=settings.training_weeks), last.end)
    dataset = build(read_training(dsn(settings, "reader"), window), settings.oracle)
    split = split_by_time(dataset, settings)
    data = _store(settings).put("dataset.parquet", dataset.to_parquet_bytes())
    rows = dict(zip(("train", "validation", "test"), (int((split.split == n).sum()) for n in range(3)), strict=True))
    log.info("%s: %d labelled rows since %s: %s", run_id, dataset.rows, f"{window.start:%Y-%m-%d}", rows)
    return {
        "dataset": {
            "data": data,
            "start": window.start.isoformat(),
            "end": window.end.isoformat(),
            "week_start": last.start.isoformat(),
        },
        "rows": rows,
        "dropped": split.dropped,
    }


def train_xgboost(settings: Settings, *, dataset: Mapping[str, str], split: str) -> dict[str, str]:
    """Train XGBoost on one of ``SPLITS``; the reference to its JSON."""
    from dwcp.training import xgb

    data = _split(_dataset(settings, dataset), split, settings)
    return {"split": split, "model": _store(settings).put("xgboost.json", xgb.train_xgboost(data, settings))}


def train_network(settings: Settings, *, dataset: Mapping[str, str], split: str) -> dict[str, str]:
    """Train the network on one of ``SPLITS``; the reference to its weights."""
    from dwcp.training import network

    data = _split(_dataset(settings, dataset), split, settings)
    return {"split": split, "model": _store(settings).put("network.zip", network.train_network(data, settings))}


def export_model(
    settings: Settings,
    *,
    dataset: Mapping[str, str],
    xgboost: Iterable[Mapping[str, str]],
    network: Iterable[Mapping[str, str]],
) -> dict[str, Any]:
    """Assemble each split's ensemble from what its trainers returned, name the version and write every form of it.

    The forms are those of the time split's; the gate asks whether they agree with what was trained.
    """
    from dwcp.decision import fit_rule
    from dwcp.export.forms import build_forms
    from dwcp.release.registry import code_digest, lock_digest, settings_digest, version_of
    from dwcp.training.dataset import TRAIN, VALIDATION
    from dwcp.training.ensemble import assemble

    store = _store(settings)
    data = _dataset(settings, dataset)
    before = {split: _split(data, split, settings).only(TRAIN, VALIDATION) for split in SPLITS}
    rules = {
        split: fit_rule(rows.features, rows.costs_ms, fallback_confidence=settings.fallback_confidence)
        for split, rows in before.items()
    }
    trees, networks = ({one["split"]: store.get(one["model"]) for one in trained} for trained in (xgboost, network))
    ensembles = {
        split: assemble(trees[split], networks[split], xgboost_weight=settings.xgboost_weight, rule=rules[split])
        for split in SPLITS
    }
    version = version_of(
        window=Window.parse(dataset["start"], dataset["end"]),
        code_digest=code_digest(),
        lock_digest=lock_digest(),
        settings_digest=settings_digest(settings),
        weights_digest=ensembles["time"].digest,
    )
    forms = build_forms(ensembles["time"], version=version)
    log.info("version %s: %s", version, ", ".join(f"{name} {len(form):,} bytes" for name, form in forms.items()))
    return {
        "version": version,
        "forms": {name: store.put(name, form) for name, form in forms.items()},
        **{f"{split}_ensemble": store.put("ensemble.zip", ensembles[split].to_bytes()) for split in SPLITS},
    }


def evaluate_model(
    settings: Settings, *, run_id: str, dataset: Mapping[str, str], exported: Mapping[str, Any]
) -> dict[str, Any]:
    """Judge the exported forms, beside their baselines and the serving champion; write the page."""
    from dwcp.release.evaluate import evaluate
    from dwcp.release.gate import judge
    from dwcp.release.ladder.looks import record_look
    from dwcp.release.report import render
    from dwcp.training.ensemble import Ensemble

    store = _store(settings)
    data = _dataset(settings, dataset)
    record_look(settings, dataset["data"][7:71], f"weekly run {run_id}")
    evaluation = evaluate(
        _forms(store, exported),
        _split(data, "time", settings),
        Ensemble.from_bytes(store.get(exported["time_ensemble"])),
        settings,
        champion=_champion_model(settings),
        random_split=(
            _split(data, "random", settings),
            Ensemble.from_bytes(store.get(exported["random_ensemble"])),
        ),
    )
    report = _write_page(settings, run_id, "evaluation.html", render(evaluation, judge(evaluation, settings)))
    return {
        "evaluation": store.put("evaluation.json", evaluation.to_json().encode()),
        "run_id": run_id,
        "dataset": dict(dataset),
        "exported": dict(exported),
        "report": report,
    }


def apply_gate(settings: Settings, *, evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The gate's verdict with its reasons; the version is registered with it, whatever it is."""
    from dwcp.release.evaluate import Evaluation
    from dwcp.release.gate import judge
    from dwcp.release.registry import ModelVersion, code_digest, lock_digest, register, settings_digest
    from dwcp.training.ensemble import Ensemble

    store = _store(settings)
    judged = Evaluation.from_json(store.get(evaluation["evaluation"]))
    verdict = judge(judged, settings)
    exported, dataset = evaluation["exported"], evaluation["dataset"]
    data = _split(_dataset(settings, dataset), "time", settings)
    figures = judged.figures()
    register(
        settings,
        ModelVersion(
            version=exported["version"],
            run_id=evaluation["run_id"],
            window=Window.parse(dataset["start"], dataset["end"]),
            dataset_digest=dataset["data"][7:71],
            code_digest=code_digest(),
            lock_digest=lock_digest(),
            settings_digest=settings_digest(settings),
            weights_digest=Ensemble.from_bytes(store.get(exported["time_ensemble"])).digest,
            artifacts={
                **exported["forms"],
                "ensemble.zip": exported["time_ensemble"],
                "evaluation.json": evaluation["evaluation"],
                "dataset.parquet": dataset["data"],
            },
            metrics={
                **figures,
                "gate": json.loads(verdict.to_json()),
                "week": [dataset["week_start"], dataset["end"]],
                "report": evaluation["report"],
            },
            verdict=verdict.status.value,
            reasons=verdict.reasons,
            training_profile=_profile(settings, data, dataset, store.get(exported["forms"]["model.onnx"])),
            accuracy=figures["accuracy"],
            throughput_mbps=figures["throughput_mbps"],
            parent_champion=_champion_version(settings),
        ),
    )
    status, why = verdict.status.value, "; ".join(verdict.reasons)
    log.info("%s: %s %s", exported["version"], status, why)
    refused = (
        f"{exported['version']}: the gate says {status}: {why} → not published, what serves stays; look at the report "
        f"{evaluation['report']}"
    )
    return {
        "version": exported["version"],
        "verdict": status,
        "reasons": list(verdict.reasons),
        "notices": [] if status == "PASS" else [refused],
    }


def publish_model(
    settings: Settings,
    *,
    run_id: str,
    start: str,
    end: str,
    dataset: Mapping[str, str],
    exported: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    gate: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the signed bundle, verify it as a node would, and let it enter every region's rollout.

    Raises ``PublishError`` if the gate did not pass it.
    """
    from dwcp.release.bundle import write_bundle
    from dwcp.release.card import model_card
    from dwcp.release.evaluate import Evaluation
    from dwcp.release.gate import judge
    from dwcp.release.publish import publish, serves
    from dwcp.release.signing import load_signer
    from dwcp.release.wording import by_region

    store = _store(settings)
    judged = Evaluation.from_json(store.get(evaluation["evaluation"]))
    test = _split(_dataset(settings, dataset), "time", settings).only(2)
    write_bundle(
        settings.bundle_dir,
        load_signer(settings),
        version=gate["version"],
        models=_forms(store, exported),
        card=model_card(
            judged,
            judge(judged, settings),
            window=Window.parse(dataset["start"], dataset["end"]),
            feature_names=test.feature_names,
        ),
        sample=test.features[:: max(1, test.rows // 64)][:64],
    )
    release = publish(
        settings, gate["version"], who=run_id, reason=f"gate {gate['verdict']} on the window {start[:10]} to {end[:10]}"
    )
    now = {region: f"it {serves(state)}" for region, state in release.states.items()}
    now |= dict(note.split(": ", 1) for note in release.notes)
    line = (
        f"{gate['version']}: the gate says PASS → published with serial {release.serial}: {by_region(now)}; look at "
        "rollout_transitions"
    )
    return {
        "version": gate["version"],
        "serial": release.serial,
        "notes": list(release.notes),
        "notices": [line] if now else [],
    }


def verify_published(settings: Settings, *, published: Mapping[str, Any]) -> dict[str, Any]:
    """Read channel and bundle as a node does, from the outside, with nothing but the public key."""
    from dwcp.release.bundle import bundle_path, verify_bundle
    from dwcp.release.channel import read_channel
    from dwcp.release.signing import load_signer

    key = load_signer(settings).public_key
    channel = read_channel(settings.channel_path, key, min_serial=int(published["serial"]))
    served = {state.champion for state in channel.regions.values() if state.champion}
    challengers = {state.challenger for state in channel.regions.values() if state.challenger}
    for version in sorted(served | challengers):
        verify_bundle(bundle_path(settings.bundle_dir, version), key, version=version, digest=channel.bundles[version])
    return {
        "serial": channel.serial,
        "serving": sorted(served),
        "challenging": sorted(challengers),
        "regions": len(channel.regions),
    }


def watch_field(settings: Settings, *, run_id: str, start: str, end: str) -> dict[str, Any]:
    """What each version with a say did until the window's end, measured, judged by the policy table and stored."""
    from dwcp.pipeline.watch import evidence_until
    from dwcp.watch.observe import get_observation, observe

    found = [get_observation(settings, number) for number in observe(settings, evidence_until(settings, end))]
    return {
        "observations": [one.id for one in found],
        "actions": [one.action for one in found],
        "reasons": [reason for one in found for reason in one.reasons] or ["no model serves: nothing to watch"],
    }


def act_on_field(settings: Settings, *, run_id: str, observed: Mapping[str, Any]) -> dict[str, Any]:
    """Do what the observations ask for, once, as the hourly watch does."""
    from dwcp.pipeline.watch import act_in_region

    return act_in_region(settings, looked=observed)


def run_weekly(settings: Settings, *, run_id: str, start: str, end: str, source: str | None = None) -> dict[str, Any]:
    """All steps in order in this process: what the DAG does, without Airflow."""
    plan = plan_window(settings, start=start, end=end)
    span = {"run_id": run_id, "start": plan["start"], "end": plan["end"]}
    loads = [load_day(settings, run_id=run_id, day=day, source=source) for day in plan["days"]]
    counts = reconcile(settings, loads=loads, **span)
    observed = watch_field(settings, **span)
    acted = act_on_field(settings, run_id=run_id, observed=observed)
    validated = validate(settings, **span)
    built = build_dataset(settings, **span)
    dataset = built["dataset"]
    exported = export_model(
        settings,
        dataset=dataset,
        xgboost=[train_xgboost(settings, dataset=dataset, split=split) for split in SPLITS],
        network=[train_network(settings, dataset=dataset, split=split) for split in SPLITS],
    )
    evaluation = evaluate_model(settings, run_id=run_id, dataset=dataset, exported=exported)
    gate = apply_gate(settings, evaluation=evaluation)
    published = None
    if gate["verdict"] == "PASS":
        published = publish_model(
            settings, dataset=dataset, exported=exported, evaluation=evaluation, gate=gate, **span
        )
        verify_published(settings, published=published)
    return {"counts": counts, "validated": validated, "gate": gate, "published": published, "field": acted}


def _midnight(moment: datetime) -> datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _write_page(settings: Settings, run_id: str, name: str, page: bytes) -> str:
    """Keep a run's page; its path below ``reports_dir``."""
    place = Path(re.sub(r"[^A-Za-z0-9._-]+", "_", run_id)) / name
    path = settings.reports_dir / place
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)
    return place.as_posix()


def _store(settings: Settings) -> Store:
    return Store(settings.store_dir)


def _forms(store: Store, exported: Mapping[str, Any]) -> dict[str, bytes]:
    return {name: store.get(reference) for name, reference in exported["forms"].items()}


def _dataset(settings: Settings, dataset: Mapping[str, str]) -> Dataset:
    from dwcp.training.dataset import Dataset

    return Dataset.from_parquet_bytes(_store(settings).get(dataset["data"]))


def _split(dataset: Dataset, split: str, settings: Settings) -> Dataset:
    from dwcp.training.split import split_at_random, split_by_time

    return (split_by_time if split == "time" else split_at_random)(dataset, settings)


def _profile(settings: Settings, data: Dataset, dataset: Mapping[str, str], model: bytes) -> dict[str, object]:
    """What the watch will compare the field with: training rows, the model's word on others, rows that went bad."""
    from dwcp.export.runtime import OnnxModel
    from dwcp.release.registry import connect
    from dwcp.training.dataset import TEST, TRAIN
    from dwcp.watch.profile import predictions_of, profile_of

    learned, unseen = data.only(TRAIN), data.only(TEST)
    said = OnnxModel(model).predict(unseen.features)[1]
    window = Window.parse(dataset["start"], dataset["end"])
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT region, sum(rows_quarantined)::FLOAT / sum(rows_read) FROM ingestion_windows
            WHERE day >= %s AND day < %s GROUP BY region HAVING sum(rows_read) > 0
            """,
            (window.start.date(), window.end.date()),
        )
        quarantined = dict(cursor.fetchall())
    return {
        **profile_of(learned.features, data.feature_names, labels=learned.labels, objects=learned.object_id),
        "predictions": predictions_of(said, unseen.features, data.feature_names, unseen.object_id),
        "quarantined": quarantined,
    }


def _champion_version(settings: Settings) -> str | None:
    """The version that most regions follow, if any follows one."""
    from dwcp.release.registry import champions

    serving: Sequence[str] = sorted(champions(settings).values())
    return max(serving, key=serving.count) if serving else None


def _champion_model(settings: Settings) -> bytes | None:
    from dwcp.release.registry import get_version

    version = _champion_version(settings)
    return _store(settings).get(get_version(settings, version).artifacts["model.onnx"]) if version else None
