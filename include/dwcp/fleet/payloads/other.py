"""What else nodes move: weights, checkpoints, program builds, source trees, backups, sparse images."""

from __future__ import annotations

import bz2
import io
import lzma
import random
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

from dwcp.fleet import corpus
from dwcp.fleet.payloads.objects import Maker, Spec

_Rows = NDArray[np.float32]


# -- networks --


def _float32(rows: _Rows) -> bytes:
    return rows.tobytes()


def _float16(rows: _Rows) -> bytes:
    return rows.astype(np.float16).tobytes()


def _int8(rows: _Rows) -> bytes:
    """Quantised row by row, the scales in front."""
    scale = np.abs(rows).max(axis=1, keepdims=True) / 127
    quantised = np.round(rows / scale).astype(np.int8)
    return bytes(scale.astype(np.float32).tobytes() + quantised.tobytes())


def _checkpoint(rows: _Rows) -> bytes:
    """Weights and the optimiser's two moments, as numpy saves them."""
    buffer = io.BytesIO()
    np.savez(buffer, weights=rows, momentum=rows * np.float32(0.1), variance=np.square(rows))
    return buffer.getvalue()


def _sparse(rows: _Rows) -> bytes:
    """Nine weights in ten are pruned away."""
    return np.where(np.abs(rows) > 0.082, rows, np.float32(0)).tobytes()


def _weights(spec: Spec, save: Callable[[_Rows], bytes], bytes_each: float) -> Iterator[bytes]:
    """Weights of a network; a training step moves a share of its rows."""
    noise = np.random.default_rng(spec.rng().randrange(2**32))
    count = max(2, int(spec.size / 64 / bytes_each))
    rows = noise.standard_normal((count, 64), dtype=np.float32) * np.float32(0.05)
    for _ in range(spec.versions):
        yield save(rows)
        touched = noise.choice(count, max(1, int(count * spec.dirty)), replace=False)
        rows[touched] -= noise.standard_normal((len(touched), 64), dtype=np.float32) * np.float32(0.001)


# -- files --


def _splice(data: bytes, fresh: bytes, dirty: float, cuts: int, rng: random.Random) -> bytes:
    """``data`` with ``cuts`` stretches replaced by others of nearly their length, so that the rest moves a little."""
    run = max(8, int(len(data) * dirty / cuts))
    for _ in range(cuts):
        at, source = rng.randrange(len(data)), rng.randrange(len(fresh))
        patch = fresh[source : source + run]
        data = data[:at] + patch + data[at + max(0, len(patch) - rng.randrange(-32, 33)) :]
    return data


def _build(spec: Spec, kind: str, cuts: int) -> Iterator[bytes]:
    """One large file; a new build, or an edit, changes some of it and moves the rest by a few bytes."""
    rng = spec.rng()
    data = corpus.take(kind, spec.size, rng)
    fresh = corpus.take(kind, max(4_096, spec.size), rng)
    for _ in range(spec.versions):
        yield data
        data = _splice(data, fresh, spec.dirty, cuts, rng)


def _zlib(data: bytes) -> bytes:
    return zlib.compress(data, 6)


def _xz(data: bytes) -> bytes:
    return lzma.compress(data, preset=0)


def _backup(spec: Spec, pack: Callable[[bytes], bytes], shrink: float) -> Iterator[bytes]:
    """An archive that is compressed anew each time some of its content has changed."""
    rng = spec.rng()
    data = corpus.take("source", max(64, int(spec.size * shrink)), rng)
    fresh = corpus.take("source", max(4_096, spec.size), rng)
    for _ in range(spec.versions):
        yield pack(data)
        data = _splice(data, fresh, spec.dirty, 4, rng)


def _enciphered(spec: Spec) -> Iterator[bytes]:
    """A backup under AES-CTR with a fresh nonce each time: like noise, and nothing of it stays."""
    rng = spec.rng()
    data, key = corpus.take("source", spec.size, rng), rng.randbytes(32)
    for _ in range(spec.versions):
        nonce = rng.randbytes(16)
        encryptor = Cipher(AES(key), CTR(nonce)).encryptor()
        yield nonce + encryptor.update(data) + encryptor.finalize()


def _holes(spec: Spec) -> Iterator[bytes]:
    """An image made mostly of zeros: allocated, hardly written; versions write more real blocks here and there."""
    rng = spec.rng()
    image = bytearray(spec.size)
    source = corpus.pieces(rng.choice(["binary", "text", "media"]), rng)

    def write(goal: float) -> None:
        while goal > 0:
            data = next(source)[1][: max(64, int(min(goal, 65_536)))]
            at = rng.randrange(max(1, len(image) - len(data) + 1)) // 512 * 512
            data = data[: len(image) - at]
            image[at : at + len(data)] = data
            goal -= len(data)

    write(len(image) * rng.uniform(0.02, 0.25))
    for _ in range(spec.versions):
        yield bytes(image)
        write(len(image) * spec.dirty / 4)


KINDS: dict[str, Maker] = {
    "weights_float32": partial(_weights, save=_float32, bytes_each=4),
    "weights_float16": partial(_weights, save=_float16, bytes_each=2),
    "weights_int8": partial(_weights, save=_int8, bytes_each=1.06),
    "weights_sparse": partial(_weights, save=_sparse, bytes_each=4),
    "checkpoint": partial(_weights, save=_checkpoint, bytes_each=12),
    "program": partial(_build, kind="binary", cuts=3),
    "bytecode": partial(_build, kind="bytecode", cuts=6),
    "source_tree": partial(_build, kind="source", cuts=8),
    "backup_zlib": partial(_backup, pack=_zlib, shrink=3.5),
    "backup_bzip2": partial(_backup, pack=bz2.compress, shrink=4.5),
    "backup_xz": partial(_backup, pack=_xz, shrink=4.0),
    "backup_enciphered": _enciphered,
    "sparse_image": _holes,
}
