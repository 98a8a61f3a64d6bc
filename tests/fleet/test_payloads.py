"""Payloads are what they claim to be, form chains, and bad directories are refused."""

from __future__ import annotations

import io
import json
import os
import sqlite3
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dwcp.contract import DATA_TYPES
from dwcp.features.probe import block_hashes
from dwcp.fleet.mix import load_mix
from dwcp.fleet.payloads import MAKERS, PayloadError, PayloadObject, Spec, directory_objects, made_objects

EVERY = [(data_type, kind) for data_type, kinds in MAKERS.items() for kind in kinds]


def make(data_type: str, kind: str, size: int = 150_000, dirty: float = 0.05, versions: int = 3) -> list[bytes]:
    return list(MAKERS[data_type][kind](Spec(kind, size, dirty, versions, seed=5)))


@pytest.mark.parametrize(("data_type", "kind"), EVERY, ids=["-".join(pair) for pair in EVERY])
def test_every_kind_makes_a_chain_of_about_the_size_asked(data_type: str, kind: str) -> None:
    # A short stretch of memory may lie idle for a while, unless much is worked on.
    chain = make(data_type, kind, dirty=0.4 if data_type == "vm_memory" else 0.05)
    assert len(chain) == 3
    for payload in chain:
        # A heartbeat is small whatever is asked.
        # A compressed layer is as small as what this machine had to put into it lets it be.
        assert 25_000 < len(payload) < 450_000 or (kind == "heartbeat" and 300 < len(payload) <= 400)
    assert len(set(chain)) > 1, "no version differs from another"
    assert max(Counter(chain[0]).values()) < 0.99 * len(chain[0]), "almost all bytes are the same"


@pytest.mark.parametrize("data_type", ["metadata", "logs", "other", "media", "container"])
def test_every_kind_can_be_small(data_type: str) -> None:
    entry = load_mix().types[data_type]
    for kind in MAKERS[data_type]:
        chain = make(data_type, kind, size=entry["min_bytes"])
        assert len(chain) == 3
        assert all(chain), kind


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


def test_packed_containers_open_with_the_usual_tools() -> None:
    with tarfile.open(fileobj=io.BytesIO(make("container", "gzip_code")[2]), mode="r:gz") as tar:
        assert tar.getmembers()
    with zipfile.ZipFile(io.BytesIO(make("container", "zip_code")[2])) as archive:
        assert archive.testzip() is None
    with tarfile.open(fileobj=io.BytesIO(make("container", "saved_image")[2])) as tar:
        manifest = json.load(tar.extractfile("usr/lib/app/manifest.json") or io.BytesIO())
    assert len(manifest["layers"]) == 4


def test_exports_of_a_database_are_read_by_others() -> None:
    before, after = (pq.read_table(io.BytesIO(data)) for data in make("database", "parquet_plain", versions=2))
    assert before.column_names == after.column_names == list("iabcd")
    assert not before.equals(after)
    assert pa.ipc.open_file(make("database", "arrow")[1]).read_all().num_rows > 100
    with sqlite3.connect(":memory:") as connection:
        connection.executescript(make("database", "dump")[1].decode())
        assert connection.execute("SELECT count(*) FROM t").fetchone()[0] > 100
    connection.close()


def test_a_write_ahead_log_is_sqlites() -> None:
    for log in make("database", "log"):
        assert log[:4] in (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


def test_a_disk_image_is_ext4_and_changes_in_place() -> None:
    first, second, _ = make("vm_disk", "code", size=1_000_000, dirty=0.02)
    assert first[1_024 + 0x38 : 1_024 + 0x3A] == b"\x53\xef"
    kept = len(set(block_hashes(first)) & set(block_hashes(second)))
    assert kept > 0.5 * len(set(block_hashes(second)))


@pytest.mark.parametrize("kind", ["records", "arrays", "cache"])
def test_memory_is_the_working_data_not_untouched_pages(kind: str) -> None:
    first, *_, second = make("vm_memory", kind, size=1_000_000, dirty=0.2, versions=4)
    zero = bytes(4_096)
    blocks = [first[at : at + 4_096] for at in range(0, len(first), 4_096)]
    assert blocks.count(zero) < 0.7 * len(blocks)
    assert first != second
    assert set(block_hashes(first)) & set(block_hashes(second))


def specs(count: int) -> list[tuple[PayloadObject, Spec]]:
    """Objects of the frozen mix and what their makers are told; nothing is made."""
    mix = load_mix()
    objects = made_objects(mix, count, mix.library["versions"], mix.library["seed"])
    return [(item, item.versions.args[0]) for item in objects]  # type: ignore[attr-defined]


def test_objects_follow_the_mix_and_do_not_depend_on_their_number() -> None:
    many, few = specs(1_000), specs(200)
    assert [(item.object_id, item.kind, spec) for item, spec in many[:200]] == [
        (item.object_id, item.kind, spec) for item, spec in few
    ]
    for objects in (many, few):
        counts = Counter(item.data_type for item, _ in objects)
        assert set(counts) == set(DATA_TYPES)
        for name, entry in load_mix().types.items():
            assert counts[name] / len(objects) == pytest.approx(entry["share"], abs=0.015)


def test_the_fleet_is_wide() -> None:
    objects = specs(1_000)
    assert {(item.data_type, item.kind) for item, _ in objects} == set(EVERY)
    sizes = sorted(spec.size for _, spec in objects)
    assert sizes[0] < 200
    assert sizes[-1] >= 64 << 20
    assert 16 << 10 < sizes[len(sizes) // 2] < 512 << 10
    tail = [(item, spec) for item, spec in objects if spec.size >= 24 << 20]
    assert 0.005 < len(tail) / len(objects) < 0.02
    assert {item.data_type for item, _ in tail} == {"vm_memory", "vm_disk", "database"}
    assert {spec.versions for _, spec in tail} == {3}
    assert {spec.versions for _, spec in objects if spec.size < 1 << 20} == {10}
    assert sum(spec.size * spec.versions for _, spec in objects) < 8e9, "recording them would take too long"


def test_an_object_keeps_its_dirty_share_and_others_have_their_own() -> None:
    for name, entry in load_mix().types.items():
        shares = [spec.dirty for item, spec in specs(300) if item.data_type == name]
        assert len(set(shares)) == len(shares)
        assert all(entry["min_dirty"] <= share <= entry["max_dirty"] for share in shares)
        assert max(shares) > 5 * min(shares)


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
    (tmp_path / "logs" / "a" / "1").write_bytes(b"x")
    (tmp_path / "logs" / "a" / "0").write_bytes(b"x")
    assert len(directory_objects(tmp_path)) == 1
    (tmp_path / "holiday" / "a").mkdir(parents=True)
    with pytest.raises(PayloadError, match="no data type"):
        directory_objects(tmp_path)


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "logs" / "a"
    folder.mkdir(parents=True)
    for version in range(2):
        (folder / str(version)).write_bytes(b"x")
    closed: set[Path] = set()
    # Rights do not bind root, under whom tests may run: the system's answers are given here.
    real_iterdir, real_access, real_read = Path.iterdir, os.access, Path.read_bytes

    def iterdir(path: Path) -> Iterator[Path]:
        if path in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real_iterdir(path)

    def read_bytes(path: Path) -> bytes:
        if path in closed:
            raise PermissionError(13, "Permission denied", str(path))
        return real_read(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(os, "access", lambda path, mode: path not in closed and real_access(path, mode))
    for path in (tmp_path, tmp_path / "logs", folder):
        closed = {path}
        with pytest.raises(PayloadError, match=rf"directory {path} cannot be read: Permission denied"):
            directory_objects(tmp_path)
    closed = {folder / "1"}
    with pytest.raises(PayloadError, match=r"versions that may not be read \(1\)"):
        directory_objects(tmp_path)
    closed = set()
    (item,) = directory_objects(tmp_path)
    closed = {folder / "1"}
    with pytest.raises(PayloadError, match="cannot be read: Permission denied"):
        list(item.versions())


@pytest.mark.skipif(os.geteuid() == 0, reason="rights do not bind root")
def test_closed_directories_are_refused_by_the_system(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "a"
    folder.mkdir(parents=True)
    (folder / "0").write_bytes(b"x")
    folder.chmod(0)
    try:
        with pytest.raises(PayloadError, match="cannot be read"):
            directory_objects(tmp_path)
    finally:
        folder.chmod(0o700)
