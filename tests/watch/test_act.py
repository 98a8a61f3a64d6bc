import multiprocessing
import os
import signal
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dwcp.contract import FEATURES, REGIONS
from dwcp.oracle import label_batch
from dwcp.release.channel import read_channel
from dwcp.release.publish import publish, rollback
from dwcp.release.registry import RegionState, RegistryError, champions, connect, read_log, region_states
from dwcp.release.rollout import advance
from dwcp.release.signing import load_public_key, public_key_path
from dwcp.settings import Settings
from dwcp.watch import act as room
from dwcp.watch.act import act
from dwcp.watch.observe import get_observation, observe
from dwcp.watch.profile import profile_of
from dwcp.watch.verdict import verdict_for
from dwcp.window import Window
from releases import MODEL, clear, ready, settings_for
from rollouts import NO_SOAK, look
from transfers import START, make_transfers

WEEK = Window(START, START + timedelta(days=7))
NEXT_WEEK = Window(WEEK.end, WEEK.end + timedelta(days=7))
ASKED = {"who": "test", "reason": "a test"}
HERE = "eu-west"
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    return settings_for(tmp_path, warehouse)


def field(version: str, accuracy: float, *, start: Window = WEEK, rows: int = 6_000, seed: int = 1) -> pa.Table:
    """A week in which ``version`` decided everything and was right in this share of transfers."""
    rng = np.random.default_rng(seed)
    table = make_transfers(rows, start=start.start, seconds=7 * 86_400.0, fully_measured=1.0, seed=seed)
    # Cheap looks, and choices that lose little, so that accuracy alone decides.
    index = table.schema.get_field_index("probe_time_ms")
    table = table.set_column(index, "probe_time_ms", pa.array(np.zeros(rows)))
    labels = label_batch(table, "seed_3_1")
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    best = np.array(labels["optimal_compression"].to_pylist())
    wrong = np.where(best == "hde", "none", "hde")
    changes = {
        "current_compression": best,
        "predicted_compression": np.where(rng.random(rows) < accuracy, best, wrong),
        "model_version": [version] * rows,
        "rollout_arm": ["champion"] * rows,
    }
    for name, values in changes.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, name, pa.array(values, pa.string()))
    return table


def served_features(table: pa.Table) -> np.ndarray:
    return np.stack([np.asarray(table[f.column]) for f in FEATURES], axis=1).astype(np.float32)


PROFILE = profile_of(served_features(make_transfers(6_000, seconds=7 * 86_400.0, seed=9)))


def published(settings: Settings, *versions: str) -> None:
    """Versions whose release promised no throughput, so that accuracy alone decides unless a test says otherwise."""
    for version in versions:
        ready(settings, version, training_profile=PROFILE, throughput_mbps=None)
        publish(settings, version, **ASKED)


def observed(settings: Settings, log: pa.Table, window: Window = WEEK, region: str = HERE) -> list:
    return [get_observation(settings, number) for number in observe(settings, window, log, [region])]


def here(version: str, elsewhere: str) -> dict[str, str]:
    """What serves after something happened in one region."""
    return dict.fromkeys(REGIONS, elsewhere) | {HERE: version}


def everywhere(version: str) -> dict[str, str]:
    return dict.fromkeys(REGIONS, version)


def test_harm_rolls_back_in_its_region_with_its_reason_in_the_log(settings: Settings):
    published(settings, "v1", "v2")
    [seen] = observed(settings, field("v2", 0.80))
    assert (seen.version, seen.action, seen.verdict, seen.regions) == ("v2", "rollback", "FAIL", (HERE,))
    outcome = act(settings, seen.id)
    assert outcome.action == "rollback"
    assert champions(settings) == here("v1", "v2")
    channel = read_channel(settings.channel_path, load_public_key(public_key_path(settings)))
    assert (channel.serial, channel.regions[HERE].champion) == (3, "v1")
    newest = read_log(settings)[0]
    assert newest.released_by == "watch"
    assert newest.reason.startswith("accuracy 80.70% (")
    assert get_observation(settings, seen.id).serial == 3
    assert "→ rolled back with serial 3, eu-west is served by v1; look at field_verdicts, v2" in outcome.line


@pytest.mark.parametrize(("accuracy", "action"), [(0.99, "none"), (0.975, "none")])
def test_less_than_harm_changes_nothing(settings: Settings, accuracy: float, action: str):
    published(settings, "v1", "v2")
    [seen] = observed(settings, field("v2", accuracy, rows=12_000))
    outcome = act(settings, seen.id)
    assert (seen.action, outcome.action, outcome.release) == (action, action, None)
    assert champions(settings) == everywhere("v2")


def test_an_accuracy_that_surely_fell_by_3_points_asks_for_retraining(settings: Settings):
    published(settings, "v1")
    ready(settings, "v2", training_profile=PROFILE, accuracy=1.0)
    publish(settings, "v2", **ASKED)
    [seen] = observed(settings, field("v2", 0.955, rows=60_000))
    assert (seen.action, seen.verdict) == ("retrain", "INCONCLUSIVE")
    outcome = act(settings, seen.id)
    assert "→ asked for retraining" in outcome.line
    assert champions(settings) == everywhere("v2")


def test_choices_that_lose_throughput_roll_back(settings: Settings):
    published(settings, "v1", "v2")
    log = field("v2", 0.99)
    worst = np.array(log["optimal_compression"].to_pylist())
    worst = np.where(worst == "none", "hde", "none")
    index = log.schema.get_field_index("current_compression")
    [seen] = observed(settings, log.set_column(index, "current_compression", pa.array(worst)))
    assert seen.action == "rollback"
    assert seen.reasons[0].startswith("throughput loss")


def test_drift_alone_alerts(settings: Settings):
    published(settings, "v1", "v2")
    log = field("v2", 0.99)
    index = log.schema.get_field_index("served_rtt_ms")
    log = log.set_column(index, "served_rtt_ms", pa.array(np.asarray(log["served_rtt_ms"]) * 30 + 5))
    [seen] = observed(settings, log)
    assert seen.action == "alert"
    assert "rtt_ms" in seen.reasons[0]
    assert "→ nothing was changed" in act(settings, seen.id).line
    assert champions(settings) == everywhere("v2")


def test_too_little_data_does_nothing_and_says_so(settings: Settings):
    published(settings, "v1", "v2")
    [seen] = observed(settings, field("v2", 0.1, rows=1_200))
    assert (seen.action, seen.verdict) == ("none", "INCONCLUSIVE")
    assert any(reason.startswith("too little data to judge accuracy: ") for reason in seen.reasons)
    assert act(settings, seen.id).release is None


def test_without_a_model_there_is_nothing_to_watch(settings: Settings):
    assert observe(settings, WEEK, field("v1", 0.1)) == []


def test_acting_twice_and_looking_twice_roll_back_once(settings: Settings):
    published(settings, "v1", "v2", "v3")
    log = field("v3", 0.5)
    first, again = observe(settings, WEEK, log, [HERE]), observe(settings, WEEK, log, [HERE])
    assert first == again
    assert act(settings, first[0]).action == "rollback"
    repeated = act(settings, first[0])
    assert repeated.action == "none"
    assert "v3" in repeated.line
    assert champions(settings) == here("v2", "v3")
    assert {entry.serial for entry in read_log(settings)} == {1, 2, 3, 4}


def test_one_rollback_never_chases_another(settings: Settings):
    """In the week that brought v3 down, v2 did badly too; that week has been judged and is no evidence again."""
    published(settings, "v1", "v2", "v3")
    week = pa.concat_tables([field("v3", 0.5), field("v2", 0.5, seed=2)])
    [seen] = observed(settings, week)
    act(settings, seen.id)
    assert champions(settings) == here("v2", "v3")
    [again] = observed(settings, week)
    assert (again.version, again.action) == ("v2", "none")
    assert "no evidence a second time" in again.reasons[0]
    act(settings, again.id)
    assert champions(settings) == here("v2", "v3")

    [later] = observed(settings, field("v2", 0.5, start=NEXT_WEEK), NEXT_WEEK)
    assert later.action == "rollback"
    act(settings, later.id)
    assert champions(settings) == here("v1", "v3")


def test_soon_after_a_rollback_another_one_waits(settings: Settings):
    """New rows that look bad within the rest after a rollback, as they do while nodes still change over."""
    published(settings, "v1", "v2", "v3")
    act(settings, observed(settings, field("v3", 0.5))[0].id)
    soon = Window(NEXT_WEEK.start, NEXT_WEEK.start + timedelta(hours=23))
    log = field("v2", 0.1, start=NEXT_WEEK, rows=60_000)
    [seen] = observed(settings, log, soon)
    assert (seen.action, seen.verdict) == ("retrain", "FAIL")
    assert any("this region was rolled back" in reason for reason in seen.reasons)
    late = Window(NEXT_WEEK.start, NEXT_WEEK.start + timedelta(hours=25))
    assert observed(settings, log, late)[0].action == "rollback"


def test_of_a_window_that_overlaps_only_the_new_part_counts(settings: Settings):
    published(settings, "v1", "v2", "v3")
    act(settings, observed(settings, field("v3", 0.5))[0].id)
    both = Window(WEEK.start, NEXT_WEEK.end)
    log = pa.concat_tables([field("v2", 0.1), field("v2", 0.99, start=NEXT_WEEK, seed=2)])
    [seen] = observed(settings, log, both)
    assert (seen.window, seen.action) == (NEXT_WEEK, "none")


def test_evidence_gathered_before_another_rollback_is_void(settings: Settings):
    """Two watches looked before either acted: the region must not step back again."""
    published(settings, "v1", "v2", "v3")
    [v3] = observed(settings, field("v3", 0.5))
    rollback(settings, "v2", region=HERE, **ASKED)
    [v2] = observed(settings, field("v2", 0.5, seed=2))
    rollback(settings, "v3", region=HERE, **ASKED)
    act(settings, v3.id)
    serving = champions(settings)
    act(settings, v2.id)
    assert champions(settings) == serving


def test_a_manual_rollback_between_look_and_act_wins(settings: Settings):
    published(settings, "v1", "v2", "v3")
    [seen] = observed(settings, field("v3", 0.5))
    rollback(settings, "v1", who="kim", reason="I saw it first")
    assert act(settings, seen.id).action == "none"
    assert champions(settings) == everywhere("v1")


def test_the_last_model_is_taken_back_to_the_rules(settings: Settings):
    published(settings, "v1")
    outcome = act(settings, observed(settings, field("v1", 0.5))[0].id)
    assert HERE not in champions(settings)
    assert "rules" in outcome.line


def test_watches_at_once_act_once(settings: Settings):
    published(settings, "v1", "v2", "v3")
    [number] = observe(settings, WEEK, field("v3", 0.5), [HERE])
    with PROCESSES.Pool(3) as pool:
        actions = pool.starmap(acted, [(settings, number)] * 6, chunksize=1)
    assert sorted(actions) == ["none"] * 5 + ["rollback"]
    assert champions(settings) == here("v2", "v3")


def acted(settings: Settings, number: int) -> str:
    return act(settings, number).action


def test_killed_after_the_rollback_it_is_not_repeated(settings: Settings):
    published(settings, "v1", "v2", "v3")
    [number] = observe(settings, WEEK, field("v3", 0.5), [HERE])
    process = PROCESSES.Process(target=act_and_die, args=(settings, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert act(settings, number).action == "none"
    assert champions(settings) == here("v2", "v3")


def act_and_die(settings: Settings, number: int) -> None:
    done = room.rollback

    def die(*args: object, **kwargs: object) -> None:
        done(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    room.rollback = die
    act(settings, number)


def test_an_unknown_observation_is_said(settings: Settings):
    with pytest.raises(RegistryError, match="no watch observation 77"):
        act(settings, 77)


def test_what_was_measured_is_stored_with_interval_and_verdict(settings: Settings):
    published(settings, "v1")
    log = field("v1", 0.99)
    for _ in range(2):
        [seen] = observed(settings, log)
    assert seen.measurement["measured_rows"] == pytest.approx(1_000, abs=100)
    with connect(settings, "reader") as db, db.cursor() as cursor:
        cursor.execute(
            """
            SELECT value, lower, upper, rows, verdict, upper("window") FROM field_verdicts
            WHERE region = %s AND version = 'v1' AND quantity = 'accuracy'
            """,
            (HERE,),
        )
        [(value, lower, upper, rows, verdict, end)] = cursor.fetchall()
        assert value == pytest.approx(0.99, abs=0.01)
        assert lower < value < upper
        assert (rows, verdict, end) == (seen.measurement["measured_rows"], "PASS", WEEK.end)
        cursor.execute("SELECT count(*), count(DISTINCT quantity) FROM field_now")
        (figures, quantities) = cursor.fetchone()
        assert figures == quantities > 15


def test_a_later_hour_is_a_row_of_its_own(settings: Settings):
    published(settings, "v1")
    log = field("v1", 0.99)
    for hours in (0, 1, 2):
        observed(settings, log, Window(WEEK.start, WEEK.end - timedelta(hours=hours)))
    with connect(settings, "reader") as db, db.cursor() as cursor:
        cursor.execute("SELECT count(DISTINCT hour), count(*) FILTER (WHERE quantity = 'accuracy') FROM field_figures")
        assert cursor.fetchone() == (3, 3)


def test_it_reads_the_warehouse_validated_or_not(settings: Settings, fresh_warehouse):
    own = settings_for(settings.home, fresh_warehouse)
    log = field("v2", 0.5, rows=6_000)
    names = make_transfers(1).schema.names
    for number in range(7):
        part = Window.of_day((START + timedelta(days=number)).date())
        stamps = np.asarray(log["timestamp_ns"])
        rows = log.filter(pa.array((stamps >= part.start_ns) & (stamps < part.end_ns)))
        fresh_warehouse.load(rows.select(names), day=part.start.date())
    published(own, "v1", "v2")
    [seen] = observed(own, None)
    assert (seen.action, seen.verdict) == ("rollback", "FAIL")
    assert observed(own, None, Window.of_day(START.date()))[0].measurement["rows"] == pytest.approx(143, abs=40)


def test_a_busy_region_is_judged_by_as_many_whole_days_as_its_memory_holds(settings: Settings, fresh_warehouse):
    own = settings_for(settings.home, fresh_warehouse)
    days = [START + timedelta(days=number) for number in range(4)]
    rows = make_transfers(200)
    rows = rows.set_column(rows.schema.get_field_index("region"), "region", pa.array([HERE] * 200))
    for number, day in enumerate(days):
        shifted = pa.array(np.asarray(rows["timestamp_ns"]) + number * 86_400 * 10**9)
        keys = pa.array([f"{number}-{key}" for key in rows["transfer_id"].to_pylist()])
        part = rows.set_column(rows.schema.get_field_index("timestamp_ns"), "timestamp_ns", shifted)
        part = part.set_column(part.schema.get_field_index("transfer_id"), "transfer_id", keys)
        fresh_warehouse.load(part, day=day.date())
    published(own, "test-model")
    window = Window(days[0], days[-1] + timedelta(days=1))

    def looked(most: int) -> tuple[object, int]:
        [seen] = observed(own.model_copy(update={"watch_max_rows": most}), None, window)
        return seen.window.start, seen.measurement["rows"]

    assert looked(800) == (days[0], 800)
    assert looked(799) == (days[1], 600)
    assert looked(400) == (days[2], 400)
    assert looked(1) == (days[3], 200)


def test_the_figures_of_the_release_are_those_it_had_then(settings: Settings):
    from dwcp.release.registry import register

    published(settings, "v1")
    register(settings, replace(MODEL, training_profile=PROFILE, accuracy=2.0, throughput_mbps=1e9))
    [seen] = observed(settings, field("v1", 0.98))
    assert seen.action == "none"


def test_a_rollout_is_told_what_was_seen_last(settings: Settings):
    published(settings, "v1")
    nothing = verdict_for(settings, HERE, "v1")
    assert (nothing.status, nothing.window) == ("INCONCLUSIVE", None)
    observed(settings, field("v1", 0.99))
    told = verdict_for(settings, HERE, "v1")
    assert (told.status, told.window) == ("PASS", WEEK)
    assert told.reasons[0].startswith("accuracy 9")
    again = verdict_for(settings, HERE, "v1")
    assert told.digest == again.digest
    observed(settings, field("v1", 0.5, start=NEXT_WEEK), NEXT_WEEK)
    harmed = verdict_for(settings, HERE, "v1")
    assert (harmed.status, harmed.window) == ("FAIL", NEXT_WEEK)
    assert harmed.digest != told.digest
    assert verdict_for(settings, "us-east", "v1").status == "INCONCLUSIVE"


def test_an_old_look_is_no_verdict(settings: Settings, warehouse):
    published(settings, "v1")
    observed(settings, field("v1", 0.99))
    warehouse.execute("UPDATE watch_observations SET observed_at = now() - interval '37 hours'")
    told = verdict_for(settings, HERE, "v1")
    assert told.status == "INCONCLUSIVE"
    assert "it is stale" in told.reasons[0]


def test_a_challenger_is_judged_by_canary_against_control_and_leaves_alone(settings: Settings):
    staged = settings.model_copy(update={"rollout_immediate": False, **NO_SOAK})
    published(settings, "v1")
    ready(staged, "v2", training_profile=PROFILE)
    publish(staged, "v2", **ASKED)
    look(staged, "v2", "none")
    advance(staged, HERE, who="test", evidence=verdict_for(staged, HERE, "v2"))
    log = pa.concat_tables([field("v1", 0.99), field("v2", 0.5, seed=2)])
    arms = np.where(np.array(log["model_version"].to_pylist()) == "v2", "canary", "champion")
    log = log.set_column(log.schema.get_field_index("rollout_arm"), "rollout_arm", pa.array(arms))
    champion, challenger = observed(staged, log)
    assert (champion.version, champion.action) == ("v1", "none")
    assert (challenger.version, challenger.action) == ("v2", "rollback")
    outcome = act(staged, challenger.id)
    assert "v2" in outcome.line
    with connect(staged) as db:
        assert region_states(db)[HERE] == RegionState("v1")
    assert read_log(staged)[0].action == "revert"


def test_a_shadow_beside_a_champion_is_asked_by_the_watch(settings: Settings):
    """A node asks one model; the other's word is what its bundle says of the same features."""
    staged = settings.model_copy(update={"rollout_immediate": False})
    published(settings, "v1")
    ready(staged, "v2", training_profile=PROFILE)
    publish(staged, "v2", **ASKED)
    champion, shadow = observed(staged, field("v1", 0.99))
    assert (champion.verdict, shadow.version, shadow.verdict, shadow.action) == ("PASS", "v2", "FAIL", "none")
    assert shadow.measurement["rows"] == champion.measurement["measured_rows"]


def test_the_runbooks_questions_have_answers(settings: Settings):
    published(settings, "v1")
    observe(settings, WEEK, field("v1", 0.99))
    runbook = (Path(__file__).parents[2] / "docs" / "compression_selector_ops.md").read_text()
    block = runbook.split("```sql\n")[1].split("```")[0]
    questions = [question for question in block.split(";\n") if question.strip()]
    assert len(questions) == 4
    with connect(settings, "reader") as db, db.cursor() as cursor:
        for question in questions:
            cursor.execute(question)
            assert cursor.fetchall(), question
