import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwcp.contract import REGIONS
from dwcp.release import channel as room
from dwcp.release.channel import Channel, ChannelError, derive_channel, parse_channel, read_channel, sync_channel
from dwcp.release.publish import publish, rollback
from dwcp.release.registry import RegionState, connect
from dwcp.release.rollout import advance
from dwcp.release.signing import PublicKey, Signer, load_public_key, load_signer, public_key_path, sign_document
from dwcp.settings import Settings
from dwcp.store import digest_of
from releases import clear, ready, settings_for


@pytest.fixture
def settings(tmp_path: Path, warehouse) -> Settings:
    clear(warehouse)
    return settings_for(tmp_path, warehouse)


def node_key(settings: Settings) -> PublicKey:
    return load_public_key(public_key_path(settings))


def test_the_document_says_what_serves_where(settings: Settings):
    ready(settings, "v1", "v2")
    publish(settings, "v1", who="test", reason="test")
    publish(settings, "v2", who="test", reason="test", regions=["us-east", "eu-west"])
    found = read_channel(settings.channel_path, node_key(settings))
    assert found.serial == 2
    assert found.regions == {r: RegionState("v2" if r in ("us-east", "eu-west") else "v1") for r in REGIONS}
    manifest = (settings.bundle_dir / "v2" / "manifest.json").read_bytes()
    assert found.bundles["v2"] == digest_of(manifest)
    assert found.issued_at.utcoffset() is not None


def test_a_challenger_and_its_share_survive_the_way_through(settings: Settings):
    ready(settings, "v1", "v2")
    publish(settings, "v1", who="test", reason="test", regions=["us-east"])
    staged = settings.model_copy(update={"rollout_immediate": False, "rollout_next_shadow_soak": timedelta(0)})
    publish(staged, "v2", who="test", reason="test", regions=["us-east"])
    assert read_channel(settings.channel_path, node_key(settings)).regions == {"us-east": RegionState("v1", "v2", 0)}
    advance(staged, "us-east", who="test", evidence=None)
    found = read_channel(settings.channel_path, node_key(settings))
    assert found.regions == {"us-east": RegionState("v1", "v2", 500)}
    assert set(found.bundles) == {"v1", "v2"}


def test_it_is_derived_again_byte_for_byte(settings: Settings):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    first = settings.channel_path.read_bytes()
    settings.channel_path.unlink()
    sync_channel(settings)
    assert settings.channel_path.read_bytes() == first


def test_in_step_it_is_not_written_again(settings: Settings):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    inode = settings.channel_path.stat().st_ino
    sync_channel(settings)
    assert settings.channel_path.stat().st_ino == inode


def test_before_the_first_release_there_is_no_document(settings: Settings):
    assert sync_channel(settings) is None
    with pytest.raises(ChannelError, match="nothing was published yet"):
        read_channel(settings.channel_path, node_key(settings))


@pytest.mark.parametrize("damage", [b"", b"garbage", b"{}"])
def test_a_damaged_document_is_refused_and_repaired(settings: Settings, damage: bytes):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    good = settings.channel_path.read_bytes()
    settings.channel_path.write_bytes(damage)
    with pytest.raises(ChannelError, match="no signed document"):
        read_channel(settings.channel_path, node_key(settings))
    sync_channel(settings)
    assert settings.channel_path.read_bytes() == good


def test_an_old_document_replayed_is_refused(settings: Settings):
    ready(settings, "v1", "v2")
    publish(settings, "v1", who="test", reason="test")
    old = settings.channel_path.read_bytes()
    publish(settings, "v2", who="test", reason="test")
    seen = read_channel(settings.channel_path, node_key(settings)).serial
    settings.channel_path.write_bytes(old)
    with pytest.raises(ChannelError, match="serial 1, but serial 2 was seen before: an old document was replayed"):
        read_channel(settings.channel_path, node_key(settings), min_serial=seen)
    rollback(settings, "v1", who="test", reason="test")
    found = read_channel(settings.channel_path, node_key(settings), min_serial=seen)
    assert (found.serial, found.regions["us-east"].champion) == (3, "v1")


def test_a_strangers_document_is_refused(settings: Settings, tmp_path: Path):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    stranger = load_signer(Settings(home=tmp_path / "stranger"))
    with pytest.raises(ChannelError, match="signed by key"):
        read_channel(settings.channel_path, stranger.public_key)


def test_a_manifest_is_no_channel_document(settings: Settings):
    signer = load_signer(settings)
    with pytest.raises(ChannelError, match=r"kind 'dwcp.bundle'"):
        parse_channel(sign_document(signer, {"kind": "dwcp.bundle", "format": 1}), signer.public_key, "it")


GOOD = {
    "kind": "dwcp.channel",
    "format": 1,
    "serial": 1,
    "issued_at": "2026-01-01T00:00:00+00:00",
    "regions": {"us-east": {"champion": "v1", "challenger": None, "share_buckets": 0}},
    "bundles": {"v1": "0" * 64},
}


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"serial": 0},
        {"serial": "1"},
        {"issued_at": "yesterday"},
        {"regions": None},
        {"regions": {"us-east": None}},
        {"regions": {"us-east": {"champion": "v1"}}},
        {"regions": {"us-east": {"champion": "v9", "challenger": None, "share_buckets": 0}}},
        {"regions": {"us-east": {"champion": "v1", "challenger": None, "share_buckets": 10_001}}},
        {"bundles": {}},
    ],
)
def test_a_signed_document_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict):
    signer = load_signer(Settings(home=tmp_path))
    assert parse_channel(sign_document(signer, GOOD), signer.public_key, "it").serial == 1
    with pytest.raises(ChannelError, match=r"^it "):
        parse_channel(sign_document(signer, GOOD | changes), signer.public_key, "it")


def test_a_huge_document_is_not_read(tmp_path: Path):
    signer = load_signer(Settings(home=tmp_path))
    path = tmp_path / "channel.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ChannelError, match="larger than"):
        read_channel(path, signer.public_key)


def test_a_database_from_an_old_backup_is_noticed_and_left_behind(settings: Settings):
    ready(settings, "v1", "v2")
    publish(settings, "v1", who="test", reason="test")
    ahead = Channel(40, datetime(2026, 1, 1, tzinfo=UTC), {"us-east": RegionState(None)}, {})
    settings.channel_path.write_bytes(sign_document(load_signer(settings), ahead.to_document()))
    with pytest.raises(ChannelError, match="serial 40, Postgres only 1: the database was restored"):
        sync_channel(settings)
    assert read_channel(settings.channel_path, node_key(settings)).serial == 40
    # Already serving by the database, yet no node would believe it without a higher serial.
    assert rollback(settings, "v1", who="test", reason="restored").serial == 41
    assert read_channel(settings.channel_path, node_key(settings), min_serial=40).regions["us-east"].champion == "v1"
    assert publish(settings, "v2", who="test", reason="test").serial == 42


def test_a_full_disk_keeps_the_old_document(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    ready(settings, "v1", "v2")
    publish(settings, "v1", who="test", reason="test")
    before = settings.channel_path.read_bytes()

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(room, "write_atomically", full)
    with pytest.raises(ChannelError, match=r"No space left on device.*is recorded.*same command again"):
        publish(settings, "v2", who="test", reason="test")
    assert settings.channel_path.read_bytes() == before
    monkeypatch.undo()
    assert not publish(settings, "v2", who="test", reason="test").changed
    assert read_channel(settings.channel_path, node_key(settings)).regions["us-east"].champion == "v2"


texts = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)


@given(
    serial=st.integers(1, 2**62),
    issued_at=st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    champions=st.dictionaries(texts, st.none() | texts, max_size=6),
    challenger=texts,
    share=st.integers(0, 10_000),
)
def test_any_channel_reads_back_as_it_was(signer: Signer, serial, issued_at, champions, challenger, share):
    regions = {region: RegionState(version, challenger, share) for region, version in champions.items()}
    bundles = {v: "0" * 64 for state in regions.values() for v in (state.champion, state.challenger) if v}
    channel = Channel(serial, issued_at, regions, bundles)
    assert parse_channel(sign_document(signer, channel.to_document()), signer.public_key, "it") == channel


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return load_signer(Settings(home=tmp_path_factory.mktemp("signer")))


def test_the_document_holds_no_secret(settings: Settings):
    ready(settings, "v1")
    publish(settings, "v1", who="test", reason="test")
    with connect(settings) as db:
        derived = derive_channel(db)
    assert derived is not None
    document = json.loads(settings.channel_path.read_bytes())["document"]
    assert document == derived.to_document()
    assert set(document) == {"kind", "format", "serial", "issued_at", "regions", "bundles"}
