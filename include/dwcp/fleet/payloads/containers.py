"""Container layers: tars of trees of files, plain or compressed; a version rebuilds, replaces, adds, removes files."""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial

import zstandard

from dwcp.fleet.payloads.objects import Maker, Spec
from dwcp.fleet.payloads.trees import TREES, tree

_Files = list[tuple[str, bytes]]
_EPOCH = 1_700_000_000


def _tar(files: _Files, stamp: int = _EPOCH) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files:
            info = tarfile.TarInfo(f"usr/lib/app/{name}")
            info.size, info.mtime = len(data), stamp
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _gzip(files: _Files) -> bytes:
    return zlib.compress(_tar(files), 6, wbits=31)


def _zstd(files: _Files) -> bytes:
    return zstandard.ZstdCompressor(level=3).compress(_tar(files))


def _zip(files: _Files) -> bytes:
    """As wheels and jars are packed: every file compressed by itself."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            archive.writestr(zipfile.ZipInfo(f"app/{name}"), data, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _saved(files: _Files) -> bytes:
    """An exported image: a manifest and four layers, each a tar in the tar."""
    layers = [_tar(files[part::4]) for part in range(4)]
    described = [{"layer": f"{zlib.crc32(data):08x}", "size": len(data)} for data in layers]
    manifest = json.dumps({"schemaVersion": 2, "layers": described}, indent=1).encode()
    return _tar([("manifest.json", manifest), *((f"layer-{n}.tar", data) for n, data in enumerate(layers))])


def _step(files: _Files, fresh: Iterator[tuple[str, bytes]], goal: float, rng: random.Random) -> None:
    """Change about ``goal`` bytes: most are new builds of the same file, of which most stays."""
    changed = 0
    while changed < goal:
        place, chance = rng.randrange(len(files)), rng.random()
        name, old = files[place]
        if chance < 0.6:
            at = rng.randrange(max(1, len(old)))
            patch = next(fresh)[1][: max(64, len(old) // 5)]
            files[place] = (name, old[:at] + patch + old[at + len(patch) :])
            changed += len(patch)
        elif chance < 0.9:
            files[place] = (name, next(fresh)[1][: max(512, len(old))])
            changed += len(files[place][1])
        else:  # a file goes, another comes elsewhere in the archive
            removed = files.pop(place)[1]
            name, data = next(fresh)
            files.insert(rng.randrange(len(files) + 1), (name, data[: max(512, len(removed))]))
            changed += len(data[: max(512, len(removed))])


def _layer(spec: Spec, name: str, pack: Callable[[_Files], bytes], shrink: float) -> Iterator[bytes]:
    rng = spec.rng()
    target = int(spec.size * shrink)
    fresh = tree(name, target // 4, rng)
    files: _Files = []
    total = 0
    while total < target:
        label, data = next(fresh)
        files.append((label, data[: max(512, target - total)]))
        total += len(files[-1][1]) + 512
    files.sort()
    for version in range(spec.versions):
        if version:
            _step(files, fresh, total * spec.dirty, rng)
        yield pack(files)


KINDS: dict[str, Maker] = {
    **{name: partial(_layer, name=name, pack=_tar, shrink=1.0) for name in TREES},
    "saved_image": partial(_layer, name="system", pack=_saved, shrink=1.0),
    "gzip_code": partial(_layer, name="code", pack=_gzip, shrink=2.5),
    "gzip_system": partial(_layer, name="system", pack=_gzip, shrink=2.5),
    "zstd_web": partial(_layer, name="web", pack=_zstd, shrink=2.0),
    "zip_code": partial(_layer, name="code", pack=_zip, shrink=2.5),
}
