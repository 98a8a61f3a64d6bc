"""Artifacts are named by their content, whole or absent, and never trusted unseen."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dwcp.store import Store, StoreError, digest_of, write_atomically


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@settings(deadline=None)
@given(data=st.binary(max_size=2_000))
def test_what_is_put_is_got(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    store = Store(tmp_path_factory.mktemp("store"))
    reference = store.put("model.onnx", data)
    assert reference == f"sha256:{digest_of(data)}/model.onnx"
    assert store.get(reference) == data


def test_the_same_content_leaves_one_copy(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.put("a.bin", b"x") == store.put("a.bin", b"x")
    assert len(files(tmp_path)) == 1


def test_many_writers_of_the_same_content_leave_one_copy(tmp_path: Path) -> None:
    store, data = Store(tmp_path), os.urandom(1 << 16)
    references: list[str] = []
    threads = [threading.Thread(target=lambda: references.append(store.put("a.bin", data))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(references) == 8
    assert {store.get(reference) for reference in references} == {data}
    assert len(files(tmp_path)) == 1


def test_a_missing_artifact_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="rerun the task"):
        Store(tmp_path).get(f"sha256:{digest_of(b'gone')}/a.bin")


def test_a_changed_artifact_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    reference = store.put("a.bin", b"right")
    (path,) = files(tmp_path)
    path.write_bytes(b"wrong")
    with pytest.raises(StoreError, match="was changed"):
        store.get(reference)


def test_a_damaged_artifact_is_repaired_by_putting_it_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    reference = store.put("a.bin", b"right")
    (path,) = files(tmp_path)
    path.write_bytes(b"wrong")
    assert store.put("a.bin", b"right") == reference
    assert store.get(reference) == b"right"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".", "a b", "/etc/passwd", "a\n"])
def test_names_that_could_leave_the_store_are_refused(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path / "store")
    with pytest.raises(StoreError, match="no artifact reference"):
        store.put(name, b"x")
    with pytest.raises(StoreError, match="no artifact reference"):
        store.get(f"sha256:{digest_of(b'x')}/{name}")
    assert files(tmp_path) == []


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "channel.json"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert files(tmp_path) == [path]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "channel.json"
    contents = [bytes([n]) * 200_000 for n in range(20)]
    write_atomically(path, contents[0])
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for content in contents:
        write_atomically(path, content)
    done.set()
    reader.join()
    assert seen
    assert seen <= set(contents)
