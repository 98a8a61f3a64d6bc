"""The rollout as a state machine, on a real Postgres and real bundles: legal moves only, whatever the order."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import psycopg2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from dwcp.contract import REGIONS
from dwcp.release import channel as channel_room
from dwcp.release import rollout as room
from dwcp.release.bundle import BundleError
from dwcp.release.channel import derive_channel, read_channel, sync_channel
from dwcp.release.publish import RULES, PublishError, publish, rollback
from dwcp.release.registry import RegionState, connect, list_versions, read_log, register
from dwcp.release.rollout import Outcome, advance, decide, pause, resume, revert, status
from dwcp.release.signing import load_public_key, public_key_path
from dwcp.release.states import MOVES, STATES, render_states, sql_rows
from dwcp.settings import Settings
from dwcp.warehouse import server
from dwcp.warehouse.migrate import migrate
from dwcp.watch.verdict import verdict_for
from dwcp.window import Window
from fixtures_airflow import REPOSITORY
from releases import MODEL, clear, ready, settings_for
from rollouts import NO_SOAK, let_pass, look

ASKED = {"who": "test", "reason": "a test"}
HERE = "us-east"
PROCESSES = multiprocessing.get_context("fork")
EVER = Window(datetime(2026, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@dataclass(frozen=True)
class Said:
    """A verdict of the watch."""

    status: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    reasons: tuple[str, ...] = ("the test says so",)
    window: Window | None = EVER
    digest: str | None = "e" * 64


PASS, FAIL, UNKNOWN = Said("PASS"), Said("FAIL"), Said("INCONCLUSIVE", ("too few rows",))


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    return settings_for(tmp_path, warehouse, rollout_immediate=False, **NO_SOAK)


def at_once(settings: Settings) -> Settings:
    return settings.model_copy(update={"rollout_immediate": True})


def enter(settings: Settings, *versions: str) -> None:
    for version in versions:
        ready(settings, version)
        publish(settings, version, regions=[HERE], **ASKED)


def step(settings: Settings, evidence: Said | None = PASS, region: str = HERE) -> Outcome:
    return advance(settings, region, who="test", evidence=evidence)


def told(settings: Settings, region: str = HERE) -> RegionState:
    """What a node reads."""
    return read_channel(settings.channel_path, load_public_key(public_key_path(settings))).regions[region]


def state(settings: Settings, version: str, region: str = HERE) -> str | None:
    rows = query(settings, "SELECT state FROM rollout_now WHERE (region, version) = (%s, %s)", (region, version))
    return rows[0][0] if rows else None


def query(settings: Settings, statement: str, parameters: object = None) -> list[tuple]:
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall()


# -- the table --


def test_sql_enforces_the_table_that_the_code_has(settings: Settings):
    states, moves = sql_rows()
    assert set(query(settings, "SELECT state, role, share_buckets FROM rollout_states")) == states
    found = query(settings, "SELECT move, from_state, to_state, ladder, forward FROM rollout_moves")
    assert set(found) == moves


def test_the_page_is_current():
    page = (REPOSITORY / "docs" / "rollout_states.md").read_text()
    assert all(f"`{name}`" in page for name in STATES)
    assert page == render_states(), "run: make generate"


def test_the_calendar_is_the_seeds():
    defaults = Settings()
    soaks = [move.soak for move in MOVES if move.name == "advance" and move.ladder == "first"]
    weeks = [getattr(defaults, str(soak)) / timedelta(weeks=1) for soak in soaks]
    assert weeks == [2, 2, 1, 1, 1]
    short = [move.soak for move in MOVES if move.name == "advance" and move.ladder == "next"]
    assert sum((getattr(defaults, str(soak)) for soak in short), timedelta(0)) < timedelta(weeks=1)


# -- the two ladders --


def test_a_regions_first_model_climbs_the_whole_ladder(settings: Settings):
    enter(settings, "v1")
    assert told(settings) == RegionState(None, "v1", 0)
    for share in (500, 2_500, 5_000, 7_500):
        outcome = step(settings)
        assert outcome.done
        assert told(settings) == RegionState(None, "v1", share)
    step(settings)
    assert told(settings) == RegionState("v1")
    assert not step(settings).done
    rows = query(
        settings,
        "SELECT to_state, share_buckets, who, evidence_digest, serial FROM rollout_transitions ORDER BY number",
    )
    assert [row[0] for row in rows] == ["registered", "shadow", "canary", "share_25", "share_50", "share_75", "full"]
    assert [row[1] for row in rows] == [0, 0, 500, 2_500, 5_000, 7_500, 10_000]
    assert [row[4] for row in rows] == [None, 1, 2, 3, 4, 5, 6]
    assert {row[3] for row in rows[2:]} == {"e" * 64}
    assert {entry.action for entry in read_log(settings)} == {"publish", "advance"}


def test_later_versions_take_the_short_way_and_the_old_champion_retires(settings: Settings):
    ready(settings, "v1")
    publish(at_once(settings), "v1", **ASKED)
    enter(settings, "v2")
    assert told(settings) == RegionState("v1", "v2", 0)
    # Nodes ask a challenger beside a champion within its share only: its shadow has no rows, and needs none.
    assert step(settings, None).done
    assert told(settings) == RegionState("v1", "v2", 500)
    assert not step(settings, None).done
    assert step(settings, PASS).done
    assert told(settings) == RegionState("v2")
    assert (state(settings, "v1"), state(settings, "v1", "eu-west")) == ("retired", "full")
    assert rollback(settings, region=HERE, **ASKED).changed == {HERE: "v1"}


@pytest.mark.parametrize("evidence", [None, UNKNOWN, FAIL, Said("PASS", window=None)])
def test_without_a_pass_a_first_model_holds(settings: Settings, evidence: Said | None):
    enter(settings, "v1")
    before = settings.channel_path.read_bytes()
    assert not step(settings, evidence).done
    assert settings.channel_path.read_bytes() == before


def test_a_look_from_before_the_stage_is_none(settings: Settings):
    enter(settings, "v1")
    old = Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2020, 1, 8, tzinfo=UTC))
    outcome = step(settings, Said("PASS", window=old))
    assert "the newest look ended before v1 came to shadow" in str(outcome.decision)


def test_each_stage_soaks_by_the_databases_clock(settings: Settings, warehouse):
    slow = settings.model_copy(update={"rollout_shadow_soak": timedelta(days=14)})
    enter(slow, "v1")
    assert "v1 stays in shadow for 14.0 days more" in str(step(slow).decision)
    let_pass(warehouse, timedelta(days=13, hours=23))
    assert "v1 stays in shadow for 1.0 hours more" in str(step(slow).decision)
    let_pass(warehouse, timedelta(hours=1))
    assert step(slow).done


def test_fail_is_to_be_reverted_and_the_champion_stays(settings: Settings):
    ready(settings, "v1")
    publish(at_once(settings), "v1", **ASKED)
    enter(settings, "v2")
    step(settings)
    [position] = status(settings, [HERE])
    assert decide(position, settings, FAIL).action == "revert"
    release = revert(settings, HERE, who="watch", reason="FAIL", version="v2", evidence=FAIL)
    assert (release.changed, told(settings), state(settings, "v2")) == ({HERE: "v1"}, RegionState("v1"), "rolled_back")
    assert not revert(settings, HERE, who="watch", reason="FAIL", version="v2", evidence=FAIL).changed
    assert read_log(settings)[0].action == "revert"
    assert {model.version: model.state for model in list_versions(settings)} == {"v1": "champion", "v2": "rolled_back"}
    # Nothing brings it back but a person's word; published again it stays out.
    publish(settings, "v2", regions=[HERE], **ASKED)
    assert (told(settings), status(settings, [HERE])[0].version) == (RegionState("v1"), None)


# -- one challenger at a time --


def test_a_newer_version_replaces_one_in_shadow_and_takes_over_its_time(settings: Settings, warehouse):
    slow = settings.model_copy(update={"rollout_shadow_soak": timedelta(days=14)})
    enter(slow, "v1")
    let_pass(warehouse, timedelta(days=8))
    enter(slow, "v2")
    assert (told(slow), state(slow, "v1")) == (RegionState(None, "v2", 0), "retired")
    assert not step(slow).done
    let_pass(warehouse, timedelta(days=6))
    assert step(slow).done, "else weekly retraining would begin the ladder anew for ever"
    assert told(slow) == RegionState(None, "v2", 500)


def test_behind_a_canary_only_the_newest_waits_and_then_has_its_turn(settings: Settings):
    enter(settings, "v1")
    step(settings)
    enter(settings, "v2", "v3")
    assert told(settings) == RegionState(None, "v1", 500)
    assert [state(settings, v) for v in ("v1", "v2", "v3")] == ["canary", "retired", "registered"]
    revert(settings, HERE, version="v1", **ASKED)
    assert told(settings) == RegionState(None)
    step(settings, None)
    assert told(settings) == RegionState(None, "v3", 0)


def test_a_version_of_older_weeks_never_replaces_a_newer_one(settings: Settings):
    enter(settings, "v2")
    ready(settings, "v1", window=Window.parse("2026-05-01", "2026-06-01"))
    release = publish(settings, "v1", regions=[HERE], **ASKED)
    assert release.notes == (f"{HERE}: v1 learned from older weeks than v2 and gives way to it",)
    assert (told(settings), state(settings, "v1")) == (RegionState(None, "v2", 0), "retired")


# -- pause --


def test_a_paused_region_stays_paused_but_harm_is_taken_back(settings: Settings):
    enter(settings, "v1")
    assert pause(settings, [HERE], who="kim", reason="an incident") == [HERE]
    assert pause(settings, [HERE], **ASKED) == []
    outcome = step(settings)
    assert not outcome.done
    assert "paused by kim on" in str(outcome.decision)
    with pytest.raises(psycopg2.errors.RaiseException, match="us-east is paused"):
        insert(settings, HERE, "v1", "advance", "shadow", "canary", serial=1)
    ready(settings, "v2")
    publish(settings, "v2", regions=[HERE], **ASKED)
    publish(at_once(settings), "v2", regions=[HERE], **ASKED)
    assert (state(settings, "v1"), state(settings, "v2")) == ("shadow", "registered")
    revert(settings, HERE, to=RULES, **ASKED)
    assert (state(settings, "v1"), told(settings)) == ("rolled_back", RegionState(None))
    assert not step(settings, None).done
    assert resume(settings, None, **ASKED) == [HERE]
    assert resume(settings, None, **ASKED) == []
    step(settings, None)
    assert told(settings) == RegionState(None, "v2", 0)


def test_pauses_are_for_known_regions_with_a_reason(settings: Settings):
    with pytest.raises(PublishError, match="unknown region mars"):
        pause(settings, ["mars"], **ASKED)
    with pytest.raises(PublishError, match="say who asks and why"):
        pause(settings, None, who="kim", reason=" ")


# -- approval --


def test_where_a_person_has_to_approve_nothing_moves_without_one(settings: Settings):
    asking = settings.model_copy(update={"rollout_approve_canary": True, "rollout_approve_full": True})
    enter(asking, "v1")
    outcome = step(asking)
    assert (outcome.done, outcome.decision.approval) == (False, True)
    assert "waits for a person's approval" in str(outcome.decision)
    advance(asking, HERE, who="test", evidence=PASS, approved_by="kim")
    assert told(asking) == RegionState(None, "v1", 500)
    for _ in range(3):
        assert step(asking).done, "the steps between need none"
    assert not step(asking).done
    advance(asking, HERE, who="test", evidence=PASS, approved_by="kim")
    assert told(asking) == RegionState("v1")
    assert query(settings, "SELECT count(*) FROM rollout_transitions WHERE reason LIKE '%%approved by kim'") == [(2,)]


def test_what_was_approved_is_what_happens_or_nothing(settings: Settings):
    enter(settings, "v1")
    step(settings)
    late = advance(settings, HERE, who="test", evidence=PASS, version="v1", target="canary", approved_by="kim")
    assert not late.done
    assert "asked too late, or twice" in str(late.decision)
    assert told(settings) == RegionState(None, "v1", 500)


def test_a_damaged_bundle_gets_no_more_traffic(settings: Settings):
    enter(settings, "v1")
    (settings.bundle_dir / "v1" / "model.onnx").write_bytes(b"rubbish")
    with pytest.raises(BundleError):
        step(settings)
    assert told(settings) == RegionState(None, "v1", 0)


# -- rollback in the middle of a ladder --


def test_last_good_takes_back_the_canary_and_only_then_the_champion(settings: Settings):
    ready(settings, "v1", "v2", "v3")
    for version in ("v1", "v2"):
        publish(at_once(settings), version, **ASKED)
    publish(settings, "v3", **ASKED)
    step(settings)
    release = rollback(settings, **ASKED)
    assert told(settings) == RegionState("v2")
    # Elsewhere v3 has no say yet, so it is the champion that leaves; the shadow goes on.
    assert told(settings, "eu-west") == RegionState("v1", "v3", 0)
    assert set(release.changed) == set(REGIONS)
    rollback(settings, region=HERE, **ASKED)
    assert told(settings) == RegionState("v1")


def test_last_good_takes_back_a_canary_of_which_nodes_were_not_told_yet(settings: Settings):
    """Somebody takes the step at this moment: recorded it is, the document follows."""
    ready(settings, "v1")
    publish(at_once(settings), "v1", **ASKED)
    enter(settings, "v2")
    before = settings.channel_path.read_bytes()
    step(settings)
    assert state(settings, "v2") == "canary"
    settings.channel_path.write_bytes(before)
    rollback(settings, region=HERE, **ASKED)
    assert told(settings) == RegionState("v1")


def test_a_champion_is_taken_back_and_its_challenger_goes_on(settings: Settings):
    ready(settings, "v1", "v2")
    publish(at_once(settings), "v1", **ASKED)
    enter(settings, "v2")
    step(settings)
    rollback(settings, region=HERE, away_from="v1", **ASKED)
    assert told(settings) == RegionState(None, "v2", 500)
    rollback(settings, RULES, region=HERE, **ASKED)
    assert told(settings) == RegionState(None)


def test_a_named_version_serves_alone(settings: Settings):
    ready(settings, "v1", "v2", "v3")
    for version in ("v1", "v2"):
        publish(at_once(settings), version, **ASKED)
    enter(settings, "v3")
    step(settings)
    assert rollback(settings, "v1", region=HERE, **ASKED).changed == {HERE: "v1"}
    assert (told(settings), state(settings, "v3")) == (RegionState("v1"), "rolled_back")
    with pytest.raises(PublishError, match="v3: it was registered but never published in full"):
        rollback(settings, "v3", **ASKED)


def test_last_good_asked_twice_within_minutes_is_done_once(settings: Settings):
    ready(settings, "v1", "v2", "v3")
    for version in ("v1", "v2", "v3"):
        publish(at_once(settings), version, **ASKED)
    assert set(rollback(settings, once=True, **ASKED).changed.values()) == {"v2"}
    again = rollback(settings, once=True, **ASKED)
    assert not again.changed
    assert "by test already; name a version to go further back" in again.notes[0]
    patient = settings.model_copy(update={"rollout_repeat_within": timedelta(0)})
    assert set(rollback(patient, once=True, **ASKED).changed.values()) == {"v1"}


# -- SQL refuses what the code would never ask --


def insert(
    settings: Settings, region: str, version: str, move: str, origin: str, target: str, serial: int | None = None
) -> None:
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute(
            "INSERT INTO rollout_transitions (region, version, move, from_state, to_state, who, reason, serial)"
            " VALUES (%s, %s, %s, %s, %s, 'test', 'test', %s)",
            (region, version, move, origin, target, serial),
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((HERE, "v1", "advance", "registered", "full", 1), "no legal move"),
        ((HERE, "v1", "advance", "canary", "share_25", 1), "v1 in us-east is shadow, not canary"),
        ((HERE, "v2", "start", "registered", "shadow", 1), "us-east has a challenger already: v1"),
        ((HERE, "v2", "recall", "registered", "full", 1), "v2 was never published in full"),
        ((HERE, "v3", "register", "none", "registered", None), "v3 did not pass the gate or has no bundle"),
        ((HERE, "v1", "advance", "shadow", "canary", None), "a serial belongs to what nodes see"),
        ((HERE, "v2", "replace", "registered", "retired", 1), "a serial belongs to what nodes see"),
    ],
)
def test_sql_refuses(settings: Settings, arguments: tuple, message: str):
    enter(settings, "v1")
    ready(settings, "v2")
    ready(settings, "v3", verdict="FAIL")
    with connect(settings) as db, db.cursor() as cursor:
        cursor.execute("UPDATE model_versions SET bundle_digest = %s WHERE version = 'v2'", ("b" * 64,))
    insert(settings, HERE, "v2", "register", "none", "registered")
    with pytest.raises(psycopg2.errors.RaiseException, match=message):
        insert(settings, *arguments)


def test_the_short_way_is_no_way_for_a_first_model(settings: Settings):
    enter(settings, "v1")
    step(settings)
    with pytest.raises(psycopg2.errors.RaiseException, match="the region follows the first ladder"):
        insert(settings, HERE, "v1", "advance", "canary", "full", serial=1)


def test_times_numbers_and_shares_are_the_databases(settings: Settings):
    enter(settings, "v1")
    for column, value in (("number", 9), ("share_buckets", 9), ("at", datetime(2020, 1, 1, tzinfo=UTC))):
        with connect(settings) as db, db.cursor() as cursor, pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute(f"INSERT INTO rollout_transitions ({column}) VALUES (%s)", (value,))


# -- two at once, and killed --


def advance_in_a_process(settings: Settings) -> bool:
    return advance(settings, HERE, who="test", evidence=PASS, version="v1", target="canary").done


def test_two_at_once_take_one_step(settings: Settings):
    enter(settings, "v1")
    with PROCESSES.Pool(3) as pool:
        done = pool.map(advance_in_a_process, [settings] * 6, chunksize=1)
    assert sorted(done) == [False] * 5 + [True]
    assert told(settings) == RegionState(None, "v1", 500)


def publish_in_a_process(settings: Settings, version: str) -> None:
    publish(settings, version, **ASKED)


def test_two_models_at_once_leave_one_challenger(settings: Settings):
    ready(settings, "v1", "v2", "v3")
    with PROCESSES.Pool(3) as pool:
        pool.starmap(publish_in_a_process, [(settings, v) for v in ("v1", "v2", "v3")] * 2, chunksize=1)
    states = sorted(str(state(settings, version)) for version in ("v1", "v2", "v3"))
    assert states == ["retired", "retired", "shadow"]
    with connect(settings) as db:
        assert read_channel(settings.channel_path, load_public_key(public_key_path(settings))) == derive_channel(db)


@pytest.mark.parametrize("place", ["room.record", "room.announce", "channel_room.write_atomically"])
def test_killed_at_any_step_it_is_repaired_by_the_next_run(settings: Settings, place: str):
    enter(settings, "v1")

    def act() -> None:
        owner, name = place.split(".")
        setattr({"room": room, "channel_room": channel_room}[owner], name, die)
        step(settings)

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    process = PROCESSES.Process(target=act)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert told(settings) == RegionState(None, "v1", 0)
    committed = place != "room.record"
    assert state(settings, "v1") == ("canary" if committed else "shadow")
    advance(settings, HERE, who="test", evidence=PASS, version="v1", target="canary")
    assert told(settings) == RegionState(None, "v1", 500)
    assert query(settings, "SELECT count(*) FROM rollout_transitions WHERE to_state = 'canary'") == [(1,)]


# -- properties --

VERSIONS = ("v1", "v2", "v3")
PLACES = REGIONS[:2]
acts = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(VERSIONS), st.sampled_from(PLACES)),
    st.tuples(st.just("at once"), st.sampled_from(VERSIONS), st.sampled_from(PLACES)),
    st.tuples(st.just("advance"), st.sampled_from([PASS, PASS, FAIL, UNKNOWN, None]), st.sampled_from(PLACES)),
    st.tuples(st.just("revert"), st.sampled_from(VERSIONS), st.sampled_from(PLACES)),
    st.tuples(
        st.just("rollback"), st.sampled_from(["last-good", RULES, *VERSIONS]), st.none() | st.sampled_from(PLACES)
    ),
    st.tuples(st.sampled_from(["pause", "resume"]), st.none(), st.sampled_from(PLACES)),
    st.tuples(st.just("lose"), st.none(), st.none()),
)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory, warehouse) -> Settings:
    clear(warehouse)
    made = settings_for(tmp_path_factory.mktemp("home"), warehouse, rollout_immediate=False, **NO_SOAK)
    ready(made, *VERSIONS)
    return made


@hypothesis(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(acts, max_size=12))
def test_whatever_is_done_only_legal_moves_happen_and_the_document_follows(bundled: Settings, warehouse, steps):
    clear(warehouse)
    settings = bundled
    settings.channel_path.unlink(missing_ok=True)
    for version in VERSIONS:
        register(settings, replace(MODEL, version=version))
    key, seen, paused = load_public_key(public_key_path(settings)), 0, set[str]()
    for act, what, where in steps:
        before = query(settings, "SELECT region, count(*) FROM rollout_transitions GROUP BY region")
        try:
            if act in ("publish", "at once"):
                publish(at_once(settings) if act == "at once" else settings, what, regions=[where], **ASKED)
            elif act == "advance":
                step(settings, what, where)
            elif act == "revert":
                revert(settings, where, version=what, **ASKED)
            elif act == "rollback":
                rollback(settings, what, region=where, **ASKED)
            elif act in ("pause", "resume"):
                (pause if act == "pause" else resume)(settings, [where], **ASKED)
                paused = paused | {where} if act == "pause" else paused - {where}
            else:
                settings.channel_path.unlink(missing_ok=True)
                sync_channel(settings)
        except PublishError:
            after = query(settings, "SELECT region, count(*) FROM rollout_transitions GROUP BY region")
            assert sorted(after) == sorted(before), "a refusal changes nothing"
        if settings.channel_path.exists():
            channel = read_channel(settings.channel_path, key, min_serial=seen)
            seen = channel.serial
            with connect(settings) as db:
                assert channel == derive_channel(db)
        check_log(settings)
        assert {region for (region,) in query(settings, "SELECT region FROM rollout_paused")} == paused


def check_log(settings: Settings) -> None:
    """Replays the log: every row a legal move from where the version was; at most one champion and one challenger."""
    _, legal = sql_rows()
    pairs = {row[:3] for row in legal}
    now: dict[tuple[str, str], str] = {}
    counts: dict[str, int] = {}
    columns = "region, number, version, move, from_state, to_state, serial"
    for region, number, version, move, origin, target, serial in query(
        settings, f"SELECT {columns} FROM rollout_transitions ORDER BY region, number"
    ):
        counts[region] = counts.get(region, 0) + 1
        assert number == counts[region]
        assert (move, origin, target) in pairs
        assert now.get((region, version), "none") == origin
        assert (serial is None) == (STATES[origin].role == STATES[target].role == "none")
        now[region, version] = target
        for role in ("champion", "challenger"):
            assert sum(STATES[s].role == role for (r, _), s in now.items() if r == region) <= 1
    serials = query(settings, "SELECT serial FROM releases ORDER BY serial")
    assert [serial for (serial,) in serials] == list(range(1, len(serials) + 1))
    # What the release log says of each serial is what replaying gives.
    latest = query(
        settings,
        "SELECT region, champion, challenger, share_buckets FROM (SELECT DISTINCT ON (region) * FROM release_regions"
        " ORDER BY region, serial DESC) AS newest ORDER BY region",
    )
    assert latest == query(
        settings, "SELECT region, champion, challenger, share_buckets FROM channel_state ORDER BY region"
    )


# -- an emulated calendar --


def test_day_by_day_from_rules_to_ml_and_on(settings: Settings, warehouse):
    """A model a week, a run of the staged rollout a day, the seed's soak times: what serves changes on these days."""
    usual = settings.model_copy(update={name: Settings.model_fields[name].default for name in NO_SOAK})
    changes: list[tuple[int, RegionState]] = []
    for day in range(63):
        week, weekday = divmod(day, 7)
        if weekday == 0:
            window = Window(MODEL.window.start, MODEL.window.end + timedelta(weeks=week))
            ready(usual, f"w{week}", window=window)
            publish(usual, f"w{week}", regions=[HERE], **ASKED)
        [position] = status(usual, [HERE])
        evidence = None
        if position.version and position.state != "registered":
            look(usual, position.version, "none", regions=[HERE])
            evidence = verdict_for(usual, HERE, position.version)
        advance(usual, HERE, who="daily", evidence=evidence)
        if not changes or changes[-1][1] != told(usual):
            changes.append((day, told(usual)))
        let_pass(warehouse, timedelta(days=1))
    assert changes == [
        (0, RegionState(None, "w0", 0)),
        (7, RegionState(None, "w1", 0)),
        # Two weeks of shadow, whichever version was in it; the newest of them climbs.
        (14, RegionState(None, "w2", 500)),
        (28, RegionState(None, "w2", 2_500)),
        (35, RegionState(None, "w2", 5_000)),
        (42, RegionState(None, "w2", 7_500)),
        (49, RegionState("w2")),
        # w3 to w6 waited and were overtaken; w7 has its turn the day after, and each week's model within the week.
        (50, RegionState("w2", "w7", 0)),
        (51, RegionState("w2", "w7", 500)),
        (54, RegionState("w7")),
        (56, RegionState("w7", "w8", 0)),
        (57, RegionState("w7", "w8", 500)),
        (60, RegionState("w8")),
    ]


# -- what was released before there was a rollout --


def test_releases_from_before_become_transitions(postgres_server, tmp_path: Path):
    """A database with the registry of before: its champions, what was taken back and its log survive."""
    database = "from_before"
    server.create_database(postgres_server, database)
    owner = postgres_server.dsn("dwcp_owner", database)
    old = tmp_path / "migrations"
    old.mkdir()
    for file in (REPOSITORY / "sql" / "migrations").glob("*.sql"):
        if file.name <= "0100_registry.sql":
            (old / file.name).write_bytes(file.read_bytes())
    migrate(owner, old)
    with psycopg2.connect(owner) as db, db.cursor() as cursor:
        for version in ("v1", "v2", "v3"):
            cursor.execute(
                """
                INSERT INTO model_versions (version, run_id, window_start, window_end, dataset_digest, code_digest,
                    lock_digest, settings_digest, weights_digest, feature_set_digest, artifacts, metrics, verdict,
                    training_profile, bundle_digest)
                VALUES (%s, 'r', '2026-01-01', '2026-01-08', 'd', 'c', 'l', 's', 'w', 'f', '{}', '{}', 'PASS', '{}', %s)
                """,
                (version, "a" * 64),
            )
        log = [
            ("publish", "us-east", "v1", None),
            ("publish", "us-east", "v2", "v1"),
            ("rollback", "us-east", "v1", "v2"),
            ("publish", "eu-west", "v2", None),
            ("publish", "us-east", "v3", "v1"),
            ("rollback", "us-east", "v2", "v3"),
            ("rollback", "eu-west", None, "v2"),
        ]
        for serial, (action, region, champion, previous) in enumerate(log, 1):
            cursor.execute(
                "INSERT INTO releases (serial, action, released_by, reason) VALUES (%s, %s, 'kim', 'then')",
                (serial, action),
            )
            cursor.execute(
                "INSERT INTO release_regions (serial, region, champion, previous_champion) VALUES (%s, %s, %s, %s)",
                (serial, region, champion, previous),
            )
        before = ask(cursor)
    db.close()
    migrate(owner)
    with psycopg2.connect(owner) as db, db.cursor() as cursor:
        assert ask(cursor) == before
        cursor.execute("SELECT version, state FROM rollout_now WHERE region = 'us-east' ORDER BY version")
        assert cursor.fetchall() == [("v1", "retired"), ("v2", "full"), ("v3", "rolled_back")]
        cursor.execute("SELECT at = released_at FROM rollout_transitions JOIN releases USING (serial)")
        assert {same for (same,) in cursor.fetchall()} == {True}
    db.close()


def ask(cursor: psycopg2.extensions.cursor) -> list[list[tuple]]:
    answers = []
    for question in (
        "SELECT serial, region, champion, previous_champion FROM release_regions ORDER BY serial, region",
        "SELECT region, champion, challenger, share_buckets, serial FROM channel_state ORDER BY region",
    ):
        cursor.execute(question)
        answers.append(cursor.fetchall())
    return answers
