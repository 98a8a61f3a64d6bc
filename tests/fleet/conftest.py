"""A library measured in a second, from payloads that lie in a directory."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dwcp.fleet import measure as measure_module
from dwcp.fleet.library import Profiles, load_library
from dwcp.fleet.measure import measure
from dwcp.fleet.payloads import directory_objects

TYPES = ("vm_memory", "vm_disk", "database", "container", "logs", "media", "metadata", "other")


def write_payloads(root: Path, objects: int = 16, versions: int = 4) -> Path:
    """Objects of all types; half text that changes a little, half noise; sizes from 300 bytes to 600 kB."""
    rng = random.Random(3)
    for number in range(objects):
        folder = root / TYPES[number % len(TYPES)] / f"object{number}"
        folder.mkdir(parents=True)
        size = (300, 3_000, 30_000, 100_000, 600_000)[number % 5]
        if number % 2:
            payload = bytearray(rng.randbytes(size))
        else:
            payload = bytearray(b" ".join(b"%d" % rng.randrange(300) for _ in range(size))[:size])
        for version in range(versions):
            (folder / f"{version}.bin").write_bytes(payload)
            at = rng.randrange(size)
            payload[at : at + size // 20] = rng.randbytes(len(payload[at : at + size // 20]))
    return root


@pytest.fixture(autouse=True, scope="session")
def impatient() -> Iterator[None]:
    """Tests judge what a recording holds, not how good its times are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure_module, "WARM_UP_S", 0.0)
        patch.setattr(measure_module, "PATIENCE_S", 0.0)
        yield


@pytest.fixture(scope="session")
def library_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fleet")
    objects = directory_objects(write_payloads(root / "payloads"))
    measure(root / "library", objects, runs=1, allow_busy=True, command="test")
    return root / "library"


@pytest.fixture(scope="session")
def profiles(library_directory: Path) -> Profiles:
    return load_library(library_directory)[0]
