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
from dwcp.release.registry import RegistryError, champions, connect, read_log
from dwcp.release.signing import load_public_key, public_key_path
from dwcp.settings import Settings
from dwcp.watch import act as room
from dwcp.watch.act import act
from dwcp.watch.drift import profile_of
from dwcp.watch.observe import get_observation, observe
from dwcp.window import Window
from releases import MODEL, clear, ready, settings_for
from transfers import START, make_transfers

WEEK = Window(START, START + timedelta(days=7))
NEXT_WEEK = Window(WEEK.end, WEEK.end + timedelta(days=7))
ASKED = {"who": "test", "reason": "a test"}
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    return settings_for(tmp_path, warehouse)


def field(version: str, accuracy: float, *, start: Window = WEEK, rows: int = 6_000, seed: int = 1) -> pa.Table:
    """A week in which ``version`` decided everything and was right in this share of transfers."""
    rng = np.random.default_rng(seed)
    table = make_transfers(rows, start=start.start, seconds=7 * 86_400.0, fully_measured=1.0, seed=seed)
    labels = label_batch(table, "seed_3_1")
    for name in labels.schema.names:
        table = table.append_column(name, labels[name])
    best = np.array(labels["optimal_compression"].to_pylist())
    wrong = np.where(best == "hde", "none", "hde")
    changes = {
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


def observed(settings: Settings, log: pa.Table, window: Window = WEEK) -> list:
    return [get_observation(settings, number) for number in observe(settings, window, log)]


def everywhere(version: str) -> dict[str, str]:
    return dict.fromkeys(REGIONS, version)


def test_harm_rolls_back_with_its_reason_in_the_log(settings: Settings):
    published(settings, "v1", "v2")
    [seen] = observed(settings, field("v2", 0.80))
    assert (seen.version, seen.action, sorted(seen.regions)) == ("v2", "rollback", sorted(REGIONS))
    outcome = act(settings, seen.id)
    assert outcome.action == "rollback"
    assert champions(settings) == everywhere("v1")
    channel = read_channel(settings.channel_path, load_public_key(public_key_path(settings)))
    assert (channel.serial, channel.regions["us-east"].champion) == (3, "v1")
    newest = read_log(settings)[0]
    assert newest.released_by == "watch"
    assert "realised accuracy 79.73%" in newest.reason
    assert get_observation(settings, seen.id).serial == 3
    assert "rolled back with serial 3" in outcome.line


@pytest.mark.parametrize(("accuracy", "action"), [(0.99, "none"), (0.953, "retrain")])
def test_less_than_harm_changes_nothing(settings: Settings, accuracy: float, action: str):
    published(settings, "v1", "v2")
    [seen] = observed(settings, field("v2", accuracy))
    outcome = act(settings, seen.id)
    assert (seen.action, outcome.action, outcome.release) == (action, action, None)
    assert champions(settings) == everywhere("v2")


def test_throughput_below_the_releases_rolls_back(settings: Settings):
    log = field("v2", 0.99)
    published(settings, "v1")
    ready(settings, "v2", training_profile=PROFILE, throughput_mbps=1e6)
    publish(settings, "v2", **ASKED)
    [seen] = observed(settings, log)
    assert seen.action == "rollback"
    assert "realised throughput" in seen.reasons[0]


def test_drift_alone_flags(settings: Settings):
    published(settings, "v1", "v2")
    log = field("v2", 0.99)
    index = log.schema.get_field_index("served_rtt_ms")
    log = log.set_column(index, "served_rtt_ms", pa.array(np.asarray(log["served_rtt_ms"]) * 30 + 5))
    [seen] = observed(settings, log)
    assert seen.action == "flag"
    assert "rtt_ms" in seen.reasons[0]
    assert act(settings, seen.id).action == "flag"
    assert champions(settings) == everywhere("v2")


def test_too_few_rows_do_nothing_and_say_so(settings: Settings):
    published(settings, "v1", "v2")
    [seen] = observed(settings, field("v2", 0.1, rows=400))
    assert seen.action == "none"
    assert "too few rows to judge: 400 fully measured" in seen.reasons[0]
    assert act(settings, seen.id).release is None


def test_without_a_champion_there_is_nothing_to_watch(settings: Settings):
    assert observe(settings, WEEK, field("v1", 0.1)) == []


def test_acting_twice_and_looking_twice_roll_back_once(settings: Settings):
    published(settings, "v1", "v2", "v3")
    log = field("v3", 0.5)
    first, again = observe(settings, WEEK, log), observe(settings, WEEK, log)
    assert first == again
    assert act(settings, first[0]).action == "rollback"
    repeated = act(settings, first[0])
    assert repeated.action == "none"
    assert "v2 serves, no longer v3" in repeated.line
    assert champions(settings) == everywhere("v2")
    assert {entry.serial for entry in read_log(settings)} == {1, 2, 3, 4}


def test_one_rollback_never_chases_another(settings: Settings):
    """In the week that brought v3 down, v2 did badly too; that week has been judged and is no evidence again."""
    published(settings, "v1", "v2", "v3")
    week = pa.concat_tables([field("v3", 0.5), field("v2", 0.5, seed=2)])
    [seen] = observed(settings, week)
    act(settings, seen.id)
    assert champions(settings) == everywhere("v2")
    [again] = observed(settings, week)
    assert (again.version, again.action) == ("v2", "none")
    assert "no evidence a second time" in again.reasons[0]
    act(settings, again.id)
    assert champions(settings) == everywhere("v2")

    [later] = observed(settings, field("v2", 0.5, start=NEXT_WEEK), NEXT_WEEK)
    assert later.action == "rollback"
    act(settings, later.id)
    assert champions(settings) == everywhere("v1")


def test_of_a_window_that_overlaps_only_the_new_part_counts(settings: Settings):
    published(settings, "v1", "v2", "v3")
    act(settings, observe(settings, WEEK, field("v3", 0.5))[0])
    both = Window(WEEK.start, NEXT_WEEK.end)
    log = pa.concat_tables([field("v2", 0.1), field("v2", 0.99, start=NEXT_WEEK, seed=2)])
    [seen] = observed(settings, log, both)
    assert (seen.window, seen.action) == (NEXT_WEEK, "none")


def test_evidence_gathered_before_another_rollback_is_void(settings: Settings):
    """Two watches looked before either acted: the second one's regions must not step back again."""
    published(settings, "v1", "v2", "v3")
    rollback(settings, "v2", region="us-west", **ASKED)
    log = pa.concat_tables([field("v3", 0.5), field("v2", 0.5, seed=2)])
    by_version = {seen.version: seen for seen in observed(settings, log)}
    assert by_version["v2"].regions == ("us-west",)
    act(settings, by_version["v3"].id)
    act(settings, by_version["v2"].id)
    assert champions(settings) == everywhere("v2") | {"us-west": "v1"}
    assert {entry.region for entry in read_log(settings) if entry.serial == 6} == {"us-west"}


def test_a_manual_rollback_between_look_and_act_wins(settings: Settings):
    published(settings, "v1", "v2", "v3")
    [seen] = observed(settings, field("v3", 0.5))
    rollback(settings, "v1", who="kim", reason="I saw it first")
    assert act(settings, seen.id).action == "none"
    assert champions(settings) == everywhere("v1")


def test_the_last_model_is_taken_back_to_the_rules(settings: Settings):
    published(settings, "v1")
    outcome = act(settings, observe(settings, WEEK, field("v1", 0.5))[0])
    assert champions(settings) == {}
    assert "us-east → rules" in outcome.line


def test_watches_at_once_act_once(settings: Settings):
    published(settings, "v1", "v2", "v3")
    [number] = observe(settings, WEEK, field("v3", 0.5))
    with PROCESSES.Pool(3) as pool:
        actions = pool.starmap(acted, [(settings, number)] * 6, chunksize=1)
    assert sorted(actions) == ["none"] * 5 + ["rollback"]
    assert champions(settings) == everywhere("v2")


def acted(settings: Settings, number: int) -> str:
    return act(settings, number).action


def test_killed_after_the_rollback_it_is_not_repeated(settings: Settings):
    published(settings, "v1", "v2", "v3")
    [number] = observe(settings, WEEK, field("v3", 0.5))
    process = PROCESSES.Process(target=act_and_die, args=(settings, number))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert act(settings, number).action == "none"
    assert champions(settings) == everywhere("v2")


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


def test_what_was_measured_is_stored(settings: Settings):
    published(settings, "v1")
    [seen] = observed(settings, field("v1", 0.99))
    assert seen.measurement["measured_rows"] == 6_000
    assert seen.measurement["accuracy"] == pytest.approx(0.99, abs=0.01)
    assert set(seen.measurement["psi"]) == {feature.name for feature in FEATURES}
    with connect(settings, "reader") as db, db.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM watch_observations WHERE action = 'none'")
        assert cursor.fetchone() == (1,)


def test_it_reads_the_warehouse_validated_or_not(settings: Settings, fresh_warehouse):
    own = settings_for(settings.home, fresh_warehouse)
    log = field("v2", 0.5, rows=1_500)
    day = Window.of_day(START.date())
    names = make_transfers(1).schema.names
    for number in range(7):
        part = Window.of_day((START + timedelta(days=number)).date())
        stamps = np.asarray(log["timestamp_ns"])
        rows = log.filter(pa.array((stamps >= part.start_ns) & (stamps < part.end_ns)))
        fresh_warehouse.load(rows.select(names), day=part.start.date())
    published(own, "v1", "v2")
    [seen] = observed(own, None)
    assert (seen.measurement["measured_rows"], seen.action) == (1_500, "rollback")
    assert observed(own, None, day)[0].measurement["rows"] == pytest.approx(1_500 / 7, abs=1)


def test_the_figures_of_the_release_are_those_it_had_then(settings: Settings):
    from dwcp.release.registry import register

    published(settings, "v1")
    register(settings, replace(MODEL, training_profile=PROFILE, accuracy=1.0, throughput_mbps=1e9))
    [seen] = observed(settings, field("v1", 0.98))
    assert seen.action == "none"


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
