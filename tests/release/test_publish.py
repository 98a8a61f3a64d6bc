import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg2
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from dwcp.contract import REGIONS
from dwcp.release import channel as channel_room
from dwcp.release import publish as room
from dwcp.release.bundle import BundleError
from dwcp.release.channel import ChannelError, read_channel, sync_channel
from dwcp.release.publish import LAST_GOOD, RULES, PublishError, publish, rollback, rollback_targets
from dwcp.release.registry import RegistryError, connect, read_log
from dwcp.release.signing import load_public_key, public_key_path
from dwcp.settings import Settings
from dwcp.window import Window
from releases import bundle_of, clear, ready, settings_for

ASKED = {"who": "test", "reason": "a test"}
WEEK = Window(datetime(2026, 8, 3, tzinfo=UTC), datetime(2026, 8, 10, tzinfo=UTC))
PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    return settings_for(tmp_path, warehouse)


def served(settings: Settings) -> dict[str, str | None]:
    """What a node reads, region by region."""
    channel = read_channel(settings.channel_path, load_public_key(public_key_path(settings)))
    return {region: state.champion for region, state in channel.regions.items()}


def serial(settings: Settings) -> int:
    return read_channel(settings.channel_path, load_public_key(public_key_path(settings))).serial


def everywhere(version: str | None) -> dict[str, str | None]:
    return dict.fromkeys(REGIONS, version)


def published(settings: Settings, *versions: str) -> None:
    ready(settings, *versions)
    for version in versions:
        publish(settings, version, **ASKED)


def damage(settings: Settings, version: str) -> None:
    with (settings.bundle_dir / version / "model.onnx").open("r+b") as file:
        file.truncate(100)


# -- publish --


def test_published_it_serves_every_region(settings: Settings):
    ready(settings, "v1")
    release = publish(settings, "v1", **ASKED)
    assert (release.serial, release.changed, release.notes) == (1, everywhere("v1"), ())
    assert served(settings) == everywhere("v1")


def test_published_twice_it_is_released_once(settings: Settings):
    published(settings, "v1")
    before = settings.channel_path.read_bytes()
    again = publish(settings, "v1", **ASKED)
    assert (again.serial, again.changed) == (1, {})
    assert settings.channel_path.read_bytes() == before
    assert {entry.serial for entry in read_log(settings)} == {1}


def test_a_late_retry_brings_nothing_back(settings: Settings):
    published(settings, "v1", "v2")
    again = publish(settings, "v1", **ASKED)
    assert not again.changed
    assert "us-east: v1 was published before; it is not published again" in again.notes
    assert served(settings) == everywhere("v2")
    rollback(settings, **ASKED)
    assert not publish(settings, "v2", **ASKED).changed
    assert served(settings) == everywhere("v1")


def test_regions_may_follow_one_another(settings: Settings):
    published(settings, "v1")
    ready(settings, "v2")
    publish(settings, "v2", regions=["us-east"], **ASKED)
    assert served(settings) == everywhere("v1") | {"us-east": "v2"}
    assert set(publish(settings, "v2", **ASKED).changed) == set(REGIONS) - {"us-east"}
    assert served(settings) == everywhere("v2")


@pytest.mark.parametrize("verdict", ["FAIL", "INCONCLUSIVE"])
def test_what_the_gate_did_not_pass_stays_in(settings: Settings, verdict: str):
    ready(settings, "v1", verdict=verdict, reasons=["accuracy 0.91 < 0.98"])
    with pytest.raises(PublishError, match=f"{verdict}: accuracy 0.91 < 0.98"):
        publish(settings, "v1", **ASKED)
    assert not settings.channel_path.exists()


def test_refusals_change_nothing(settings: Settings):
    published(settings, "v1")
    ready(settings, "v2", "v3")
    damage(settings, "v2")
    shutil.rmtree(settings.bundle_dir / "v3")
    before = settings.channel_path.read_bytes()
    with pytest.raises(BundleError, match=r"model.onnx has 100 bytes"):
        publish(settings, "v2", **ASKED)
    with pytest.raises(BundleError, match=r"manifest.json is missing"):
        publish(settings, "v3", **ASKED)
    with pytest.raises(BundleError, match="missing"):
        publish(settings, "v9", **ASKED)
    with pytest.raises(PublishError, match="unknown region mars: choose from us-east"):
        publish(settings, "v1", regions=["mars"], **ASKED)
    with pytest.raises(PublishError, match="unknown region"):
        publish(settings, "v1", regions=[], **ASKED)
    with pytest.raises(PublishError, match="say who asks and why"):
        publish(settings, "v1", who=" ", reason="x")
    assert settings.channel_path.read_bytes() == before
    assert {entry.serial for entry in read_log(settings)} == {1}


def test_a_bundle_that_is_not_registered_is_refused(settings: Settings, warehouse):
    ready(settings, "v1")
    clear(warehouse)
    with pytest.raises(RegistryError, match="'v1' is not in the registry"):
        publish(settings, "v1", **ASKED)


def test_a_bundle_that_was_made_again_is_refused(settings: Settings):
    ready(settings, "v1")
    publish(settings, "v1", regions=["us-east"], **ASKED)
    shutil.rmtree(settings.bundle_dir / "v1")
    bundle_of(settings, "v1", card="# of another day\n")
    with pytest.raises(PublishError, match="is not the one that was released"):
        publish(settings, "v1", **ASKED)


# -- rollback --


def test_last_good_steps_back_and_never_to_what_was_taken_back(settings: Settings):
    published(settings, "v1", "v2", "v3")
    assert rollback_targets(settings)["us-east"] == ["v2", "v1"]
    for expected in ("v2", "v1", None):
        release = rollback(settings, **ASKED)
        assert release.changed == everywhere(expected)
        assert served(settings) == everywhere(expected)
    assert serial(settings) == 6
    assert rollback(settings, **ASKED).changed == {}


def test_one_region_rolls_back_alone(settings: Settings):
    published(settings, "v1", "v2")
    assert rollback(settings, region="eu-west", **ASKED).changed == {"eu-west": "v1"}
    assert served(settings) == everywhere("v2") | {"eu-west": "v1"}


def test_each_region_has_its_own_last_good(settings: Settings):
    ready(settings, "v1", "v2", "v3")
    publish(settings, "v1", regions=["us-east"], **ASKED)
    publish(settings, "v2", regions=["us-west"], **ASKED)
    publish(settings, "v3", regions=["us-east", "us-west", "eu-west"], **ASKED)
    assert rollback(settings, **ASKED).changed == {"us-east": "v1", "us-west": "v2", "eu-west": None}


def test_a_named_version_returns_even_if_it_was_taken_back(settings: Settings):
    published(settings, "v1", "v2")
    rollback(settings, **ASKED)
    assert rollback(settings, "v2", **ASKED).changed == everywhere("v2")
    assert rollback(settings, RULES, **ASKED).changed == everywhere(None)
    assert served(settings) == everywhere(None)


def test_clicked_twice_it_is_done_once(settings: Settings):
    published(settings, "v1", "v2", "v3")
    assert rollback(settings, away_from="v3", **ASKED).changed == everywhere("v2")
    again = rollback(settings, away_from="v3", **ASKED)
    assert (again.serial, again.changed) == (4, {})
    assert "us-east: v2 serves, no longer v3" in again.notes
    named = rollback(settings, "v2", **ASKED)
    assert (named.serial, named.changed) == (4, {})


def test_it_works_when_the_newest_bundle_is_corrupt_or_gone(settings: Settings):
    published(settings, "v1", "v2")
    damage(settings, "v2")
    assert rollback(settings, **ASKED).changed == everywhere("v1")
    rollback(settings, "v1", **ASKED)
    shutil.rmtree(settings.bundle_dir / "v2")
    assert rollback(settings, RULES, **ASKED).changed == everywhere(None)


def test_last_good_passes_over_a_damaged_bundle_and_says_so(settings: Settings):
    published(settings, "v1", "v2", "v3")
    damage(settings, "v2")
    release = rollback(settings, **ASKED)
    assert release.changed == everywhere("v1")
    [note] = release.notes
    assert note.startswith("v2 is passed over:")
    assert "model.onnx" in note


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("v9", "cannot roll back: version 'v9' is not in the registry"),
        ("v3", "cannot roll back to v3: it was registered but never published"),
        ("v1", "cannot roll back to v1, its bundle is damaged: .*model.onnx has 100 bytes"),
    ],
)
def test_what_cannot_serve_is_refused_in_one_line(settings: Settings, to: str, message: str):
    published(settings, "v1", "v2")
    ready(settings, "v3")
    damage(settings, "v1")
    before = settings.channel_path.read_bytes()
    with pytest.raises(PublishError, match=message) as caught:
        rollback(settings, to, **ASKED)
    assert "\n" not in str(caught.value)
    assert settings.channel_path.read_bytes() == before


def test_wrong_regions_and_missing_reasons_are_refused(settings: Settings):
    with pytest.raises(PublishError, match="nothing was published yet"):
        rollback(settings, **ASKED)
    ready(settings, "v1")
    publish(settings, "v1", regions=["us-east"], **ASKED)
    with pytest.raises(PublishError, match="nothing was ever published to region eu-west: choose from us-east"):
        rollback(settings, region="eu-west", **ASKED)
    with pytest.raises(PublishError, match="say who asks and why"):
        rollback(settings, who="kim", reason="")


def test_a_release_reads_like_a_sentence(settings: Settings):
    ready(settings, "v1")
    assert str(publish(settings, "v1", regions=["us-east"], **ASKED)) == "serial 1\n  us-east is served by v1"
    assert (
        str(publish(settings, "v1", regions=["us-east"], **ASKED)) == "nothing to change; the channel stays at serial 1"
    )
    assert str(rollback(settings, **ASKED)) == "serial 2\n  us-east is served by rules"


def test_one_window_leads_to_one_rollback(settings: Settings):
    published(settings, "v1", "v2", "v3")
    assert rollback(settings, evidence=WEEK, **ASKED).changed == everywhere("v2")
    again = rollback(settings, evidence=WEEK, **ASKED)
    assert again.changed == {}
    assert "us-east: evidence up to 2026-08-10 00:00 UTC has led to a rollback already" in again.notes
    later = Window(WEEK.end, WEEK.end + timedelta(days=7))
    assert rollback(settings, evidence=later, **ASKED).changed == everywhere("v1")
    assert rollback(settings, **ASKED).changed == everywhere(None), "a person needs no evidence"


# -- two at once, killed in the middle --


def run_publish(settings: Settings, version: str) -> tuple[int, bool]:
    release = publish(settings, version, **ASKED)
    return release.serial, bool(release.changed)


def run_rollback(settings: Settings, away_from: str) -> tuple[int, bool]:
    release = rollback(settings, away_from=away_from, **ASKED)
    return release.serial, bool(release.changed)


def test_one_version_published_by_many_at_once_is_released_once(settings: Settings):
    ready(settings, "v1")
    with PROCESSES.Pool(4) as pool:
        results = pool.starmap(run_publish, [(settings, "v1")] * 6, chunksize=1)
    assert sorted(results) == [(1, False)] * 5 + [(1, True)]
    assert served(settings) == everywhere("v1")


def test_versions_published_at_once_take_a_serial_each(settings: Settings):
    versions = [f"v{n}" for n in range(6)]
    ready(settings, *versions)
    with PROCESSES.Pool(4) as pool:
        results = pool.starmap(run_publish, [(settings, version) for version in versions], chunksize=1)
    assert sorted(number for number, _ in results) == list(range(1, 7))
    newest = max(range(6), key=lambda n: results[n][0])
    assert serial(settings) == 6
    assert served(settings) == everywhere(f"v{newest}")


def test_two_operators_at_once_step_back_once(settings: Settings):
    published(settings, "v1", "v2", "v3")
    with PROCESSES.Pool(2) as pool:
        results = pool.starmap(run_rollback, [(settings, "v3")] * 4, chunksize=1)
    assert sorted(results) == [(4, False)] * 3 + [(4, True)]
    assert served(settings) == everywhere("v2")


def test_a_slow_writer_does_not_undo_a_quick_one(settings: Settings):
    """The first publisher sleeps between its commit and its write; the second one overtakes it."""
    ready(settings, "v1", "v2")
    process = PROCESSES.Process(target=publish_slowly, args=(settings, "v1"))
    process.start()
    wait_for(lambda: len(read_log(settings)) > 0)
    publish(settings, "v2", **ASKED)
    process.join()
    assert process.exitcode == 0
    assert (serial(settings), served(settings)) == (2, everywhere("v2"))


def publish_slowly(settings: Settings, version: str) -> None:
    written = room.sync_channel

    def late(settings: Settings) -> object:
        wait_for(lambda: settings.channel_path.exists())
        return written(settings)

    room.sync_channel = late
    publish(settings, version, **ASKED)


def test_a_writer_held_up_over_its_old_content_does_not_undo_a_newer_one(settings: Settings):
    """The first writer stops between deriving serial 1 and writing it, until serial 2 is recorded and then some."""
    ready(settings, "v1", "v2")
    process = PROCESSES.Process(target=write_slowly, args=(settings, "v1"))
    process.start()
    wait_for(lambda: len(read_log(settings)) > 0)
    publish(settings, "v2", **ASKED)
    process.join()
    assert process.exitcode == 0
    assert (serial(settings), served(settings)) == (2, everywhere("v2"))


def write_slowly(settings: Settings, version: str) -> None:
    write = channel_room.write_atomically

    def late(path: Path, data: bytes) -> None:
        wait_for(lambda: len(read_log(settings)) > len(REGIONS))
        time.sleep(0.5)
        write(path, data)

    channel_room.write_atomically = late
    publish(settings, version, **ASKED)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


BEFORE_THE_COMMIT = ("verify_bundle", "lock", "record", "recorded")
AFTER_IT = ("sync_channel", "derive_channel", "write_atomically", "written")


def die_at(settings: Settings, step: str, act: Callable[[Settings], object]) -> None:
    """Run ``act`` and kill the process, as kill -9 would, when it comes to ``step``."""

    def die(*_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def after(function: Callable[..., object]) -> Callable[..., object]:
        def called(*args: object, **kwargs: object) -> None:
            function(*args, **kwargs)
            die()

        return called

    if step == "recorded":
        room.record = after(room.record)
    elif step == "written":
        channel_room.write_atomically = after(channel_room.write_atomically)
    elif step in ("derive_channel", "write_atomically"):
        setattr(channel_room, step, die)
    else:
        setattr(room, step, die)
    act(settings)


ACTS: dict[str, Callable[[Settings], object]] = {
    "publish": lambda settings: publish(settings, "v3", **ASKED),
    "rollback": lambda settings: rollback(settings, away_from="v2", **ASKED),
}


@pytest.mark.parametrize("name", ACTS)
@pytest.mark.parametrize("step", BEFORE_THE_COMMIT + AFTER_IT)
def test_killed_at_any_step_nodes_see_the_old_document_or_the_new_one(settings: Settings, step: str, name: str):
    published(settings, "v1", "v2")
    ready(settings, "v3")
    new = everywhere({"publish": "v3", "rollback": "v1"}[name])
    process = PROCESSES.Process(target=die_at, args=(settings, step, ACTS[name]))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    committed = step in AFTER_IT
    assert max(entry.serial for entry in read_log(settings)) == (3 if committed else 2)
    assert served(settings) == (new if step == "written" else everywhere("v2"))

    sync_channel(settings)
    assert served(settings) == (new if committed else everywhere("v2"))
    ACTS[name](settings)
    assert (serial(settings), served(settings)) == (3, new)


@pytest.mark.parametrize("step", AFTER_IT[:-1])
def test_last_good_run_again_after_a_kill_finishes_and_steps_back_no_further(settings: Settings, step: str):
    published(settings, "v1", "v2", "v3")
    act = lambda settings: rollback(settings, **ASKED)  # noqa: E731
    process = PROCESSES.Process(target=die_at, args=(settings, step, act))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert served(settings) == everywhere("v3")
    again = act(settings)
    assert again.changed == {}
    assert "us-east: v2 serves, no longer v3" in again.notes
    assert (serial(settings), served(settings)) == (4, everywhere("v2"))
    assert act(settings).changed == everywhere("v1"), "once told, it is a new wish"


def test_killed_in_the_middle_of_the_write_the_old_document_stays(settings: Settings):
    published(settings, "v1")
    ready(settings, "v2")
    before = settings.channel_path.read_bytes()

    def die(source: Path, target: Path) -> None:
        assert source.exists(), "the new document stands beside the old one"
        os.kill(os.getpid(), signal.SIGKILL)

    def act() -> None:
        Path.replace = die  # type: ignore[method-assign,assignment]
        publish(settings, "v2", **ASKED)

    process = PROCESSES.Process(target=act)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert settings.channel_path.read_bytes() == before
    sync_channel(settings)
    assert served(settings) == everywhere("v2")


@pytest.mark.parametrize("name", ACTS)
def test_postgres_gone_in_the_middle_changes_nothing(settings: Settings, warehouse, name: str, monkeypatch):
    published(settings, "v1", "v2")
    ready(settings, "v3")
    before = settings.channel_path.read_bytes()
    record = room.record

    def cut(db, *args: object, **kwargs: object) -> int:
        number = record(db, *args, **kwargs)
        with psycopg2.connect(warehouse.registry_dsn) as other, other.cursor() as cursor:
            cursor.execute("SELECT pg_terminate_backend(%s)", (db.info.backend_pid,))
        return number

    monkeypatch.setattr(room, "record", cut)
    with pytest.raises(RegistryError, match=r"Postgres went away.*run the same command again"):
        ACTS[name](settings)
    monkeypatch.undo()
    assert settings.channel_path.read_bytes() == before
    assert max(entry.serial for entry in read_log(settings)) == 2
    ACTS[name](settings)
    assert serial(settings) == 3


# -- properties --

VERSIONS = ("v1", "v2", "v3")
acts = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(VERSIONS), st.sets(st.sampled_from(REGIONS[:3]), min_size=1)),
    st.tuples(
        st.just("rollback"), st.sampled_from([LAST_GOOD, RULES, *VERSIONS]), st.none() | st.sampled_from(REGIONS[:3])
    ),
    st.tuples(st.just("lose"), st.none(), st.none()),
)


@hypothesis(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(acts, max_size=8))
def test_whatever_is_done_serials_rise_and_the_document_follows_postgres(settings: Settings, warehouse, steps):
    clear(warehouse)
    settings.channel_path.unlink(missing_ok=True)
    ready(settings, *VERSIONS)
    key = load_public_key(public_key_path(settings))
    seen, before = 0, None
    for act, version, where in steps:
        try:
            if act == "publish":
                publish(settings, version, regions=sorted(where), **ASKED)
            elif act == "rollback":
                rollback(settings, version, region=where, **ASKED)
            else:
                settings.channel_path.unlink(missing_ok=True)
                sync_channel(settings)
        except PublishError:
            pass
        try:
            channel = read_channel(settings.channel_path, key, min_serial=seen)
        except ChannelError:
            assert seen == 0, "a node that saw a document must never be left without one"
            continue
        assert (channel == before) is (channel.serial == seen)
        seen, before = channel.serial, channel
        with connect(settings) as db:
            assert channel == channel_room.derive_channel(db)
    assert [*range(seen, 0, -1)] == sorted({entry.serial for entry in read_log(settings)}, reverse=True)
