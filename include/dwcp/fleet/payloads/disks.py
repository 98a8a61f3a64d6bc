"""Disk images: ext4 file systems that files are written to and removed from in place; free space is part of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from dwcp.fleet.payloads.objects import Maker, PayloadError, Spec, run_tool
from dwcp.fleet.payloads.trees import TREES, tree

_LEAST_BYTES = 128 << 10
_SMALL_BYTES = 4 << 20


def _tool(name: str) -> str:
    """Where the program is; Debian keeps it in a folder that only root's PATH names."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise PayloadError(f"{name} is needed to make disk images: install e2fsprogs")
    return found


def _disk(spec: Spec, name: str, fill: tuple[float, float]) -> Iterator[bytes]:
    """An image that is ``fill`` full; a version overwrites about ``dirty`` of it with new files."""
    rng = spec.rng()
    mkfs, debugfs = _tool("mkfs.ext4"), _tool("debugfs")
    with tempfile.TemporaryDirectory() as folder:
        root, image = Path(folder, "root"), Path(folder, "disk.img")
        root.mkdir()
        block = 1_024 if spec.size < _SMALL_BYTES else 4_096
        size = max(spec.size, _LEAST_BYTES) // block * block
        budget = size * rng.uniform(*fill)
        fresh_files = tree(name, int(size / 8), rng)
        names: list[tuple[str, int]] = []
        used = 0
        inodes = min(2_048, max(16, size // block // 4))
        while used < budget and len(names) < inodes - 16:
            label, data = next(fresh_files)
            if used + len(data) > budget:
                break
            (root / label).write_bytes(data)
            names.append((label, len(data)))
            used += len(data) + block
        with image.open("wb") as file:
            file.truncate(size)
        # No journal and no reserve: small images would hold little else.
        options = ["-q", "-F", "-b", str(block), "-m", "0", "-O", "^has_journal", "-N", str(inodes), "-d", str(root)]
        run_tool([mkfs, *options, str(image)])
        yield image.read_bytes()
        fresh = Path(folder, "fresh")
        for version in range(1, spec.versions):
            commands: list[str] = []
            changed = 0
            fresh.mkdir()
            while changed < size * spec.dirty and len(commands) < 2 * inodes:
                freed = int(budget / 2)
                if names:
                    label, freed = names.pop(rng.randrange(len(names)))
                    commands.append(f"rm /{label}")
                label, data = next(fresh_files)
                label, data = f"v{version}-{label}", data[: max(block, freed)]
                (fresh / label).write_bytes(data)
                commands.append(f"write {fresh / label} /{label}")
                names.append((label, len(data)))
                changed += len(data) + block
            script = Path(folder, "commands")
            script.write_text("\n".join(commands) + "\n")
            run_tool([debugfs, "-w", "-f", str(script), str(image)])
            shutil.rmtree(fresh)
            yield image.read_bytes()


KINDS: dict[str, Maker] = {
    **{name: partial(_disk, name=name, fill=(0.25, 0.75)) for name in TREES},
    "nearly_empty": partial(_disk, name="system", fill=(0.02, 0.15)),
    "nearly_full": partial(_disk, name="code", fill=(0.75, 0.88)),
}
