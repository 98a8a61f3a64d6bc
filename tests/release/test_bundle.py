import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from dwcp.contract import CANDIDATES, FEATURE_SET_DIGEST
from dwcp.export.forms import FORMS, ONNX, load_form
from dwcp.release import bundle as room
from dwcp.release.bundle import BundleError, bundle_path, verify_bundle, write_bundle
from dwcp.release.signing import Signer, canonical_json, load_signer
from dwcp.settings import Settings
from dwcp.store import digest_of
from releases import NAMES, SAMPLE, bundle_of, tiny_forms, tiny_onnx

FILES = ("card.md", "manifest.json", "manifest.sig", *FORMS, "sample.json")


@pytest.fixture(scope="module", autouse=True)
def made_before_any_fork() -> None:
    """XGBoost's threads do not survive a fork."""
    tiny_forms("v1")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path)


@pytest.fixture
def signer(settings: Settings) -> Signer:
    return load_signer(settings)


def write(settings: Settings, **changes: object) -> room.Bundle:
    given = {"version": "v1", "models": tiny_forms("v1"), "card": "# card\n", "sample": SAMPLE}
    return write_bundle(settings.bundle_dir, load_signer(settings), **{**given, **changes})


def resign(path: Path, signer: Signer, **changes: object) -> None:
    """A manifest that the right key signed with something wrong in it."""
    manifest = json.loads((path / "manifest.json").read_bytes()) | changes
    data = canonical_json(manifest)
    (path / "manifest.json").write_bytes(data)
    (path / "manifest.sig").write_bytes(signer.sign(data))


def listed(path: Path) -> dict[str, dict[str, object]]:
    return json.loads((path / "manifest.json").read_bytes())["files"]


def test_a_bundle_is_whole_and_verifies(settings: Settings, signer: Signer):
    bundle = write(settings)
    assert sorted(entry.name for entry in bundle.path.iterdir()) == sorted(FILES)
    assert verify_bundle(bundle.path, signer.public_key, digest=bundle.digest) == bundle
    assert bundle.feature_names == NAMES
    assert bundle.classes == CANDIDATES
    assert bundle.feature_set_digest == FEATURE_SET_DIGEST
    manifest = json.loads((bundle.path / "manifest.json").read_bytes())
    assert [entry["name"] for entry in manifest["contract"]] == list(NAMES)
    for name, entry in manifest["files"].items():
        data = (bundle.path / name).read_bytes()
        assert (entry["size_bytes"], entry["sha256"]) == (len(data), digest_of(data))


@pytest.mark.parametrize("form", FORMS)
def test_a_node_gets_the_stored_answers(settings: Settings, form: str):
    path = write(settings).path
    stored = json.loads((path / "sample.json").read_text())
    probabilities, labels = load_form(form, (path / form).read_bytes()).predict(np.array(stored["features"]))
    assert np.array_equal(np.array(stored["features"], np.float32), SAMPLE)
    np.testing.assert_allclose(probabilities, np.array(stored["probabilities"], np.float32), atol=1e-6)
    assert labels.tolist() == stored["labels"]
    assert len(set(stored["labels"])) > 1


def test_written_twice_it_stays_as_it_was(settings: Settings):
    first = write(settings)
    assert write(settings, card="# measured on another day\n") == first
    assert (first.path / "card.md").read_text() == "# card\n"


@pytest.mark.parametrize("form", FORMS)
def test_another_model_under_the_same_version_is_refused(settings: Settings, form: str):
    write(settings)
    with pytest.raises(BundleError, match=f"another {form}") as caught:
        write(settings, models=tiny_forms("v1") | {form: tiny_forms("v2")[form]})
    assert caught.value.file == form


@pytest.mark.parametrize("form", FORMS)
def test_a_bundle_without_one_of_its_forms_is_not_written(settings: Settings, form: str):
    with pytest.raises(BundleError, match=f"comes without {form}") as caught:
        write(settings, models={name: model for name, model in tiny_forms("v1").items() if name != form})
    assert caught.value.file == form
    assert not settings.bundle_dir.exists()


def test_a_bundle_from_before_there_were_three_forms_still_verifies(settings: Settings, signer: Signer):
    path = write(settings).path
    for form in set(FORMS) - {ONNX}:
        (path / form).unlink()
    resign(
        path, signer, files={name: entry for name, entry in listed(path).items() if name == ONNX or name not in FORMS}
    )
    assert verify_bundle(path, signer.public_key).forms == (ONNX,)


@pytest.mark.parametrize("name", FILES)
def test_every_missing_file_is_named(settings: Settings, signer: Signer, name: str):
    path = write(settings).path
    (path / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == name


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "grow", "empty"])
def test_every_damaged_file_is_named(settings: Settings, signer: Signer, name: str, damage: str):
    path = write(settings).path
    data = bytearray((path / name).read_bytes())
    data[len(data) // 2] ^= 1
    changed = {"flip": bytes(data), "cut": data[:-1], "grow": bytes(data) + b"\n", "empty": b""}[damage]
    (path / name).write_bytes(changed)
    with pytest.raises(BundleError, match=name.split(".")[0]) as caught:
        verify_bundle(path, signer.public_key)
    # A manifest and its signature can only be judged together.
    assert caught.value.file == name or {caught.value.file, name} == {"manifest.json", "manifest.sig"}


@pytest.mark.parametrize("kind", ["file", "hidden", "directory"])
def test_anything_extra_is_named(settings: Settings, signer: Signer, kind: str):
    path = write(settings).path
    extra = {"file": "extra.bin", "hidden": ".extra", "directory": "extra"}[kind]
    (path / extra).mkdir() if kind == "directory" else (path / extra).touch()
    with pytest.raises(BundleError, match="not in the manifest") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == extra


def test_links_pipes_and_directories_are_not_followed(settings: Settings, signer: Signer, tmp_path: Path):
    path = write(settings).path
    card = path / "card.md"
    (tmp_path / "card.md").write_bytes(card.read_bytes())
    card.unlink()
    card.symlink_to(tmp_path / "card.md")
    with pytest.raises(BundleError, match="cannot be read") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == "card.md"
    card.unlink()
    os.mkfifo(card)
    with pytest.raises(BundleError, match="no plain file"):
        verify_bundle(path, signer.public_key)
    card.unlink()
    card.mkdir()
    with pytest.raises(BundleError, match="no plain file"):
        verify_bundle(path, signer.public_key)


@pytest.mark.parametrize(
    "name", ["../card.md", "/etc/passwd", "a/b", "..", ".", "", "manifest.json", "x\x00y", "a" * 101]
)
def test_a_signed_manifest_cannot_lead_outside(settings: Settings, signer: Signer, name: str):
    path = write(settings).path
    resign(path, signer, files={**listed(path), name: {"size_bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="which no bundle may hold") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == name


def test_an_oversized_file_is_refused_before_it_is_read(settings: Settings, signer: Signer):
    path = write(settings).path
    with (path / "card.md").open("wb") as file:
        file.truncate(2**40)  # sparse: reading it would need a terabyte
    with pytest.raises(BundleError, match="expected at most") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == "card.md"
    resign(path, signer, files={**listed(path), "card.md": {"size_bytes": 2**40, "sha256": "0" * 64}})
    with pytest.raises(BundleError, match="the limit is") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == "card.md"
    with (path / "manifest.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(BundleError, match="expected at most") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == "manifest.json"


@pytest.mark.parametrize(
    ("changes", "file"),
    [
        ({"kind": "dwcp.channel"}, "manifest.json"),
        ({"format": 2}, "manifest.json"),
        ({"version": "v2"}, "manifest.json"),
        ({"files": []}, "manifest.json"),
        ({"files": {}}, "model.onnx"),
        ({"feature_names": [*NAMES[1:], NAMES[0]]}, "model.onnx"),
        ({"classes": ["amst", "hde", "none"]}, "model.onnx"),
        ({"feature_set_digest": "0" * 16}, "model.onnx"),
    ],
)
def test_a_signed_manifest_that_is_wrong_is_refused(settings: Settings, signer: Signer, changes: dict, file: str):
    path = write(settings).path
    resign(path, signer, **changes)
    with pytest.raises(BundleError) as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == file


def test_another_key_and_another_release_are_refused(settings: Settings, signer: Signer, tmp_path: Path):
    bundle = write(settings)
    stranger = load_signer(Settings(home=tmp_path / "stranger"))
    with pytest.raises(BundleError, match="signed by another key"):
        verify_bundle(bundle.path, stranger.public_key)
    with pytest.raises(BundleError, match="not the manifest that was released"):
        verify_bundle(bundle.path, signer.public_key, digest="0" * 64)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_that_answers_otherwise_is_refused(settings: Settings, signer: Signer, form: str):
    path = write(settings).path
    other = tiny_forms("v1", weights="another")[form]
    (path / form).write_bytes(other)
    entry = {"size_bytes": len(other), "sha256": digest_of(other)}
    resign(path, signer, files={**listed(path), form: entry})
    with pytest.raises(BundleError, match="stored sample") as caught:
        verify_bundle(path, signer.public_key)
    assert caught.value.file == form


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": {ONNX: b"no onnx"}}, "does not run"),
        ({"models": {"model.tflite": b"none"}}, "LiteRT cannot load"),
        ({"models": {"model.dwcp": b"none"}}, "cut off"),
        ({"sample": np.full((2, len(NAMES)), np.nan, np.float32)}, "not a finite float32"),
        ({"sample": SAMPLE[:0]}, "empty"),
        ({"sample": SAMPLE[:, 1:]}, "shape"),
        ({"models": {ONNX: tiny_onnx("v2")}}, "version"),
        ({"models": {ONNX: tiny_onnx("v1", metadata={"feature_names": json.dumps([*NAMES[1:], "luck"])})}}, "luck"),
        ({"version": "../v1"}, "no version"),
        ({"version": ""}, "no version"),
    ],
)
def test_what_would_not_verify_is_not_written(settings: Settings, changes: dict, message: str):
    if "models" in changes:
        changes = {"models": tiny_forms("v1") | changes["models"]}
    with pytest.raises(BundleError, match=message):
        write(settings, **changes)
    assert [entry.name for entry in settings.bundle_dir.glob("*") if entry.name != ".lock"] == []


def test_a_full_disk_leaves_no_half_bundle(settings: Settings, signer: Signer, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(room.os, "fsync", full)
    with pytest.raises(BundleError, match=r"No space left on device.*make room") as caught:
        write(settings)
    assert caught.value.file in FILES
    assert [entry.name for entry in settings.bundle_dir.iterdir()] == [".lock"]
    monkeypatch.undo()
    assert write(settings).version == "v1"


def limited_write(home: Path) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))  # the model and the sample are larger
    try:
        write(Settings(home=home))
    except BundleError as error:
        os._exit(7 if "File too large" in str(error) and error.file else 8)
    os._exit(9)


def test_the_kernel_refusing_to_write_leaves_no_half_bundle(settings: Settings, signer: Signer):
    process = multiprocessing.get_context("fork").Process(target=limited_write, args=(settings.home,))
    process.start()
    process.join()
    assert process.exitcode == 7
    assert [entry.name for entry in settings.bundle_dir.iterdir()] == [".lock"]


def stuck_write(home: Path, step: str) -> None:
    target = {"write": "_write_durably", "verify": "verify_bundle"}[step]
    setattr(room, target, lambda *_, **__: time.sleep(600))
    write(Settings(home=home))


@pytest.mark.parametrize("step", ["write", "verify"])
def test_a_killed_writer_leaves_nothing_that_counts(settings: Settings, signer: Signer, step: str):
    process = multiprocessing.get_context("fork").Process(target=stuck_write, args=(settings.home, step))
    process.start()
    while not list(settings.bundle_dir.glob(".tmp-*")):
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not bundle_path(settings.bundle_dir, "v1").exists()
    write(settings)
    assert sorted(entry.name for entry in settings.bundle_dir.iterdir()) == [".lock", "v1"]


def written_digest(home: Path, _: int) -> str:
    return bundle_of(Settings(home=home), "v1").digest


def test_writers_at_once_leave_one_bundle(settings: Settings, signer: Signer):
    with multiprocessing.get_context("fork").Pool(4) as pool:
        digests = pool.starmap(written_digest, [(settings.home, n) for n in range(8)], chunksize=1)
    assert len(set(digests)) == 1
    assert sorted(entry.name for entry in settings.bundle_dir.iterdir()) == [".lock", "v1"]
