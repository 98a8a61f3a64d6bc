"""Payloads are what they claim to be, form chains, and bad directories are refused."""

from __future__ import annotations

import io
import sqlite3
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from dwcp.contract import DATA_TYPES
from dwcp.features.probe import block_hashes
from dwcp.fleet.mix import DEFAULT_MIX, MixError, load_mix
from dwcp.fleet.payloads import MAKERS, PayloadError, Spec, directory_objects, made_objects

EVERY = [(data_type, kind) for data_type, kinds in MAKERS.items() for kind in kinds]


def make(data_type: str, kind: str, size: int = 150_000, dirty: float = 0.05, versions: int = 3) -> list[bytes]:
    return list(MAKERS[data_type][kind](Spec(kind, size, dirty, versions, seed=5)))


@pytest.mark.parametrize(("data_type", "kind"), EVERY, ids=["-".join(pair) for pair in EVERY])
def test_every_kind_makes_a_chain_of_about_the_size_asked(data_type: str, kind: str) -> None:
    chain = make(data_type, kind)
    assert len(chain) == 3
    for payload in chain:
        assert 30_000 < len(payload) < 800_000
    assert len(set(chain)) > 1, "no version differs from another"
    assert max(Counter(chain[0]).values()) < 0.97 * len(chain[0]), "almost all bytes are the same"


def test_a_database_is_one_and_most_of_it_stays(tmp_path: Path) -> None:
    before, after = make("database", "orders", size=400_000, dirty=0.01, versions=2)
    path = tmp_path / "copy.sqlite"
    path.write_bytes(after)
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] > 500
    connection.close()
    kept = len(set(block_hashes(before)) & set(block_hashes(after))) / len(block_hashes(after))
    assert 0.3 < kept < 1


def test_a_container_layer_is_a_tar() -> None:
    layer = make("container", "code")[1]
    stream = io.BytesIO(layer)
    with tarfile.open(fileobj=stream) as tar:
        assert len(tar.getmembers()) > 3


def test_a_disk_image_is_ext4_and_changes_in_place() -> None:
    first, second, _ = make("vm_disk", "code", size=1_000_000, dirty=0.02)
    assert first[1_024 + 0x38 : 1_024 + 0x3A] == b"\x53\xef"
    kept = len(set(block_hashes(first)) & set(block_hashes(second)))
    assert kept > 0.5 * len(set(block_hashes(second)))


@pytest.mark.parametrize("kind", ["records", "arrays", "cache"])
def test_memory_is_the_working_data_not_untouched_pages(kind: str) -> None:
    first, second = make("vm_memory", kind, size=1_000_000, dirty=0.02, versions=2)
    zero = bytes(4_096)
    blocks = [first[at : at + 4_096] for at in range(0, len(first), 4_096)]
    assert blocks.count(zero) < 0.7 * len(blocks)
    assert first != second
    assert set(block_hashes(first)) & set(block_hashes(second))


def test_objects_follow_the_mix_and_do_not_depend_on_their_number() -> None:
    mix = load_mix()
    many, few = made_objects(mix, 200, 3, seed=1), made_objects(mix, 50, 3, seed=1)
    assert [item.object_id for item in many[:50]] == [item.object_id for item in few]
    counts = Counter(item.data_type for item in many)
    assert set(counts) == set(DATA_TYPES)
    for name, entry in mix.types.items():
        assert counts[name] / 200 == pytest.approx(entry["share"], abs=0.03)


def test_directories_are_read_in_natural_order(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "syslog"
    folder.mkdir(parents=True)
    for version in range(11):
        (folder / f"{version}.log").write_bytes(b"%d" % version)
    (item,) = directory_objects(tmp_path)
    assert [int(payload) for payload in item.versions()] == list(range(11))
    assert (item.object_id, item.data_type) == ("logs-syslog", "logs")


def test_bad_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PayloadError, match="no directory"):
        directory_objects(tmp_path / "missing")
    with pytest.raises(PayloadError, match="no objects"):
        directory_objects(tmp_path)
    (tmp_path / "logs" / "a").mkdir(parents=True)
    with pytest.raises(PayloadError, match="no versions"):
        directory_objects(tmp_path)
    (tmp_path / "logs" / "a" / "0").write_bytes(b"")
    with pytest.raises(PayloadError, match="empty versions"):
        directory_objects(tmp_path)
    for version in (0, 2):
        (tmp_path / "logs" / "a" / f"{version}").write_bytes(b"x")
    with pytest.raises(PayloadError, match="lacks versions 1"):
        directory_objects(tmp_path)
    (tmp_path / "holiday" / "a").mkdir(parents=True)
    with pytest.raises(PayloadError, match="no data type"):
        directory_objects(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("share = 0.16", "share = 0.26", "sum to"),
        ("[types.media]", "[types.films]", "does not know"),
        ("[defects]", "[mistakes]", "sections"),
        ("[library]", "[library", "cannot be read"),
    ],
)
def test_a_wrong_mix_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "mix.toml"
    path.write_text(DEFAULT_MIX.read_text().replace(old, new))
    with pytest.raises(MixError, match=words):
        load_mix(path)
