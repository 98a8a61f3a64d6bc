"""The bundle: one directory with everything that a node loads, described by a signed manifest.

``bundles/<version>/`` holds ``manifest.json`` (canonical JSON: digests and sizes of every other file, feature names,
classes, feature-set digest, the features' contract), ``manifest.sig`` (64 raw bytes over ``manifest.json``), the
model's forms (``model.onnx``, ``model.tflite``, ``model.dwcp``), ``card.md`` and ``sample.json`` (stored inputs with
the outputs that each form must give). Bundles from before there were three forms hold ``model.onnx`` alone and still
verify, so that a rollback can reach them; new ones are written with all.
It is written whole under a temporary name and renamed; what stands under a version's name is complete.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dwcp.contract import FEATURES
from dwcp.export.forms import FORMS, ONNX, load_form
from dwcp.release.signing import PublicKey, Signer, SigningError, canonical_json
from dwcp.store import digest_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from dwcp.export.model import Model

FORMAT = 1
KIND = "dwcp.bundle"
MANIFEST, SIGNATURE, CARD, SAMPLE = "manifest.json", "manifest.sig", "card.md", "sample.json"
MAX_FILE_BYTES = 64 * 2**20
"""No file of a bundle may be larger, whatever its manifest says: a reader's memory is bounded by it."""
MAX_MANIFEST_BYTES = 2**20
PROBABILITY_TOLERANCE = 1e-5
"""How far the stored sample's probabilities may be off in another form, or on another CPU."""
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class BundleError(RuntimeError):
    """A bundle is damaged, incomplete, hostile or cannot be written. ``file`` names the file at fault, if one is."""

    def __init__(self, message: str, file: str | None = None) -> None:
        super().__init__(message)
        self.file = file


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. ``digest`` is the SHA-256 of its manifest and thereby names every byte of it.

    ``forms`` are the files of ``FORMS`` that it holds.
    """

    path: Path
    version: str
    digest: str
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    feature_set_digest: str
    forms: tuple[str, ...]


def bundle_path(bundle_dir: Path, version: str) -> Path:
    """The directory of ``version``. Raises ``BundleError`` if the version could name a place outside."""
    if not _VERSION.fullmatch(version):
        raise BundleError(f"{version!r} is no version: letters, digits, - and _ only")
    return bundle_dir / version


def write_bundle(
    bundle_dir: Path,
    signer: Signer,
    *,
    version: str,
    models: Mapping[str, bytes],
    card: str,
    sample: NDArray[np.float32],
) -> Bundle:
    """Write, verify and name the bundle of ``version``; return it. ``sample`` (n, f) float32 is run and stored.

    ``models`` are the files of ``FORMS``. Names, classes and feature set come from the ONNX form's own metadata, and
    the others must say the same. If the bundle is already there it is verified
    and returned as it is (a model card may hold another day's latencies: the first one stays). A crash, a full disk or
    a kill leaves no half bundle. Raises ``BundleError``.
    """
    final = bundle_path(bundle_dir, version)
    if absent := [name for name in FORMS if name not in models]:
        raise BundleError(f"version {version} comes without {', '.join(absent)}: export every form", absent[0])
    try:
        bundle_dir.mkdir(parents=True, exist_ok=True)
        with _one_writer(bundle_dir):
            if final.exists():
                found = verify_bundle(final, signer.public_key)
                for name, model in models.items():
                    if name not in found.forms or digest_of((final / name).read_bytes()) != digest_of(model):
                        raise BundleError(
                            f"{final} holds another {name} under the same version: it was made elsewhere", name
                        )
                return found
            _write_whole(final, signer, version, {**models, CARD: card.encode()}, sample)
    except OSError as error:
        raise BundleError(
            f"cannot write {final} ({error.strerror or error}): nothing half-made was left behind; "
            "make room and run again",
            Path(error.filename).name if isinstance(error.filename, str) else None,
        ) from error
    return verify_bundle(final, signer.public_key)


def verify_bundle(
    path: Path, public_key: PublicKey, *, version: str | None = None, digest: str | None = None
) -> Bundle:
    """The bundle at ``path`` if a node may trust it: signature, digests, sizes, names, and each form's stored outputs.

    ``version`` defaults to the directory's name; ``digest``, if given, is the manifest digest that the channel or the
    registry names. Raises ``BundleError`` naming the file at fault. Memory is bounded by ``MAX_FILE_BYTES``.
    """
    version = version or path.name
    manifest, manifest_digest = _read_manifest(path, public_key)
    if digest is not None and manifest_digest != digest:
        raise BundleError(
            f"{path / MANIFEST} is not the manifest that was released ({manifest_digest[:12]}, not {digest[:12]})",
            MANIFEST,
        )
    if manifest.version != version:
        raise BundleError(f"{path / MANIFEST} describes version {manifest.version!r}, not {version!r}", MANIFEST)
    _check_listing(path, manifest)
    contents = {name: _read_listed(path / name, *expected) for name, expected in manifest.files.items()}
    forms = tuple(name for name in FORMS if name in contents)
    for name in forms:
        model = _load(path, name, contents[name])
        _check_model(path, manifest, name, model)
        _run_sample(path, contents[SAMPLE], name, model)
    return Bundle(
        path, version, manifest_digest, manifest.feature_names, manifest.classes, manifest.feature_set_digest, forms
    )


def _load(path: Path, name: str, content: bytes) -> Model:
    from dwcp.export.model import ModelError

    try:
        return load_form(name, content)
    except ModelError as error:
        raise BundleError(f"{path / name}: {error}", name) from error


@dataclass(frozen=True, slots=True)
class _Manifest:
    version: str
    files: dict[str, tuple[int, str]]
    feature_names: tuple[str, ...]
    classes: tuple[str, ...]
    feature_set_digest: str


def _write_whole(
    final: Path, signer: Signer, version: str, contents: dict[str, bytes], sample: NDArray[np.float32]
) -> None:
    temporary = Path(tempfile.mkdtemp(dir=final.parent, prefix=".tmp-"))
    try:
        _write_files(temporary, signer, version, contents, sample)
        verify_bundle(temporary, signer.public_key, version=version)
        temporary.chmod(0o755)
        temporary.rename(final)
        _sync_directory(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_files(
    directory: Path, signer: Signer, version: str, contents: dict[str, bytes], sample: NDArray[np.float32]
) -> None:
    from dwcp.export.model import ModelError

    try:
        model = load_form(ONNX, contents[ONNX])
        probabilities, labels = model.predict(sample)
    except ModelError as error:
        raise BundleError(f"{ONNX} of version {version} does not run: {error}", ONNX) from error
    if len(sample) == 0:
        raise BundleError(f"the sample of version {version} is empty: a node could not try the model", SAMPLE)
    stored = {"features": sample.tolist(), "probabilities": probabilities.tolist(), "labels": labels.tolist()}
    contents = {**contents, SAMPLE: json.dumps(stored, separators=(",", ":")).encode()}
    manifest = canonical_json(
        {
            "kind": KIND,
            "format": FORMAT,
            "version": version,
            "files": {
                name: {"size_bytes": len(data), "sha256": digest_of(data)} for name, data in sorted(contents.items())
            },
            "feature_names": list(model.feature_names),
            "classes": list(model.classes),
            "feature_set_digest": model.feature_set_digest,
            "contract": _contract_of(model.feature_names),
        }
    )
    for name, data in {**contents, MANIFEST: manifest, SIGNATURE: signer.sign(manifest)}.items():
        _write_durably(directory / name, data)
    _sync_directory(directory)


def _contract_of(feature_names: Sequence[str]) -> list[dict[str, object]]:
    """Unit, legal range and cold-start default of each input; numbers as texts, since signed JSON has no floats."""
    known = {feature.name: feature for feature in FEATURES}
    unknown = [name for name in feature_names if name not in known]
    if unknown:
        raise BundleError(f"the model takes features that the contract does not have: {', '.join(unknown)}", ONNX)
    return [
        {
            "name": name,
            "unit": known[name].unit,
            "default": repr(known[name].default),
            "minimum": repr(known[name].minimum),
            "maximum": repr(known[name].maximum),
            "codes": list(known[name].codes or ()),
        }
        for name in feature_names
    ]


def _read_manifest(path: Path, public_key: PublicKey) -> tuple[_Manifest, str]:
    data = _read_bounded(path / MANIFEST, MAX_MANIFEST_BYTES)
    signature = _read_bounded(path / SIGNATURE, 64)
    try:
        public_key.verify(data, signature, str(path / MANIFEST))
    except SigningError as error:
        raise BundleError(str(error), SIGNATURE) from error
    try:
        body = json.loads(data)
        if (body["kind"], body["format"]) != (KIND, FORMAT):
            raise BundleError(
                f"{path / MANIFEST} has kind {body['kind']!r} and format {body['format']!r}; "
                f"this program reads {KIND!r} {FORMAT}: update it",
                MANIFEST,
            )
        manifest = _Manifest(
            version=body["version"],
            files={name: (int(entry["size_bytes"]), str(entry["sha256"])) for name, entry in body["files"].items()},
            feature_names=tuple(body["feature_names"]),
            classes=tuple(body["classes"]),
            feature_set_digest=body["feature_set_digest"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path / MANIFEST} lacks or garbles {error}", MANIFEST) from None
    for name in manifest.files:
        # A signature does not make a name harmless: the signer may have been fooled.
        if not _FILE_NAME.fullmatch(name) or name in (MANIFEST, SIGNATURE):
            raise BundleError(f"{path / MANIFEST} names the file {name!r}, which no bundle may hold", name)
    for name in (ONNX, CARD, SAMPLE):
        if name not in manifest.files:
            raise BundleError(f"{path / MANIFEST} does not list {name}", name)
    return manifest, digest_of(data)


def _check_listing(path: Path, manifest: _Manifest) -> None:
    extra = sorted({entry.name for entry in path.iterdir()} - {*manifest.files, MANIFEST, SIGNATURE})
    if extra:
        raise BundleError(f"{path / extra[0]} is not in the manifest: a bundle holds nothing else", extra[0])


def _read_listed(path: Path, size_bytes: int, sha256: str) -> bytes:
    if size_bytes > MAX_FILE_BYTES:
        raise BundleError(f"{path} is said to have {size_bytes:,} bytes; the limit is {MAX_FILE_BYTES:,}", path.name)
    data = _read_bounded(path, size_bytes)
    if len(data) != size_bytes:
        raise BundleError(
            f"{path} has {len(data):,} bytes, the manifest says {size_bytes:,}: it was cut off", path.name
        )
    if digest_of(data) != sha256:
        raise BundleError(f"{path} was changed: its SHA-256 is not the manifest's", path.name)
    return data


def _read_bounded(path: Path, limit_bytes: int) -> bytes:
    """At most ``limit_bytes``; one byte more, a link, a directory or a device is refused before it is read."""
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would wait for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing", path.name) from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror})", path.name) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is no plain file", path.name)
        if status.st_size > limit_bytes:
            raise BundleError(f"{path} has {status.st_size:,} bytes, expected at most {limit_bytes:,}", path.name)
        with os.fdopen(handle, "rb", closefd=False) as file:
            return file.read(limit_bytes)
    finally:
        os.close(handle)


def _check_model(path: Path, manifest: _Manifest, name: str, model: Model) -> None:
    for part in ("version", "feature_names", "classes", "feature_set_digest"):
        said, found = getattr(manifest, part), getattr(model, part)
        if said != found:
            raise BundleError(f"{path / name} has {part} {found!r}, the manifest says {said!r}", name)


def _run_sample(path: Path, sample: bytes, name: str, model: Model) -> None:
    import numpy as np

    from dwcp.export.model import ModelError

    try:
        stored = json.loads(sample)
        features = np.asarray(stored["features"], np.float32)
        expected = np.asarray(stored["probabilities"], np.float32)
        expected_labels = np.asarray(stored["labels"], np.int64)
        probabilities, labels = model.predict(features)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, ModelError):
            raise BundleError(f"{path / name} does not take its stored sample: {error}", name) from error
        raise BundleError(f"{path / SAMPLE} lacks or garbles {error}", SAMPLE) from None
    if len(features) == 0 or expected.shape != probabilities.shape or expected_labels.shape != labels.shape:
        raise BundleError(f"{path / SAMPLE} holds no complete sample", SAMPLE)
    worst = float(np.abs(probabilities - expected).max())
    # Where rounding alone can turn the order, either label is right.
    ranked = np.sort(expected, axis=1)
    differs = (labels != expected_labels) & (ranked[:, -1] - ranked[:, -2] > 2 * PROBABILITY_TOLERANCE)
    if not worst <= PROBABILITY_TOLERANCE or differs.any():
        raise BundleError(
            f"{path / name} answers its stored sample otherwise than it should: "
            f"probabilities off by up to {worst:.2g}, {differs.sum()} labels differ",
            name,
        )


def _write_durably(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A write that fails names no file of its own accord.
        raise OSError(error.errno, error.strerror, str(path)) from error


def _sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _one_writer(bundle_dir: Path) -> Iterator[None]:
    """Hold the directory's lock, and clear what a killed writer left: nobody else writes while it is held."""
    with (bundle_dir / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in bundle_dir.glob(".tmp-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield
