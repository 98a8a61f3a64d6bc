"""Watch two nodes on loopback decide by the model that the last ``make demo`` published: ``python tools/nodes.py``.

Payloads are made on the spot by the fleet's makers: databases, logs, memory of processes and archives that programs
really wrote, each a chain of versions. They go over three links, one after the other, that loopback is made to be. What
the nodes keep (versions held, history, their log) lies in ``<home>/nodes``; the next call goes on from it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dwcp.contract import REGIONS
from dwcp.fleet.payloads import MAKERS, Spec
from dwcp.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

MODULE = Path(__file__).parent.parent / "go" / "node"
VERSIONS = 4
OBJECTS = (
    ("logs", "application_growing", 400_000, 0.05),
    ("logs", "structured_rotated", 150_000, 0.3),
    ("database", "orders", 2_000_000, 0.02),
    ("database", "dump", 600_000, 0.05),
    ("vm_memory", "records", 4_000_000, 0.05),
    ("vm_disk", "documents", 6_000_000, 0.01),
    ("container", "code", 1_500_000, 0.1),
    ("container", "gzip_code", 1_000_000, 0.1),
    ("media", "jpeg", 500_000, 0.2),
    ("metadata", "json_lines", 40_000, 0.1),
    ("metadata", "heartbeat", 400, 0.5),
    ("other", "weights_float32", 2_000_000, 0.1),
)
"""Type, kind, bytes of the first version, share that each version changes."""

LINKS = {
    "dc": ("-mbps", "5000", "-rtt", "400us"),
    "metro": ("-mbps", "1000", "-rtt", "3ms"),
    "wan": ("-mbps", "100", "-rtt", "40ms"),
}
"""Within the rates and round trips of the fleet's mix."""


def main() -> None:
    """Build, make payloads, and let two nodes talk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--links", nargs="+", choices=LINKS, default=list(LINKS), help="kinds of link, in turn")
    parser.add_argument("--objects", type=Path, help="a directory of <type>/<object>/<version> of your own")
    parser.add_argument("--rounds", type=int, default=1, help="how often all versions are sent over each link")
    parser.add_argument("--region", choices=REGIONS, default=REGIONS[0], help="whose release the sender follows")
    parser.add_argument("--measure", type=float, default=0.2, help="least share that is measured with every engine")
    parser.add_argument(
        "--metrics", help="InfluxDB's http(s) address; DWCP_INFLUX_TOKEN has the token. Default: a file"
    )
    given = parser.parse_args()
    settings = Settings()
    if not settings.channel_path.exists():
        sys.exit(f"nothing is published in {settings.home}: run `make demo` first")
    for tool in ("go", "gcc"):
        if shutil.which(tool) is None:
            sys.exit(f"{tool} is not installed: the node is written in Go, its codecs are C")
    home = settings.home.resolve() / "nodes"
    home.mkdir(exist_ok=True)
    program = build(home)
    objects = given.objects or make_objects(home / "objects")
    with receiver(program, home) as address:
        for link in given.links:
            print(f"\n== {link}: {' '.join(LINKS[link])} ==", flush=True)
            flags = [*LINKS[link], "-link", link, "-rounds", str(given.rounds), "-measure", str(given.measure)]
            command = [
                *(program, "send", "-to", address, "-objects", objects, "-channel", settings.home.resolve()),
                *("-key", settings.home.resolve() / "keys" / "signing.pub.pem", "-state", home / "state"),
                *("-node-id", "node-a", "-region", given.region, *flags),
                *(("-metrics", given.metrics) if given.metrics else ()),
            ]
            if code := subprocess.run(command, check=False).returncode:
                sys.exit(code)


def build(home: Path) -> Path:
    """The program; a first build compiles libzstd, which takes a minute or two."""
    program = home / "dwcpnode"
    print("building dwcpnode ...", flush=True)
    subprocess.run(["go", "build", "-o", str(program), "./cmd/dwcpnode"], cwd=MODULE, check=True)
    return program


def make_objects(root: Path) -> Path:
    """Write ``OBJECTS`` below ``root``, unless these lie there already."""
    made = root / "made.json"
    recipe = json.dumps([OBJECTS, VERSIONS])
    if made.exists() and made.read_text() == recipe:
        return root
    shutil.rmtree(root, ignore_errors=True)
    print(f"making {len(OBJECTS)} objects of {VERSIONS} versions ...", flush=True)
    for data_type, kind, size, dirty in OBJECTS:
        folder = root / data_type / kind
        folder.mkdir(parents=True)
        for version, payload in enumerate(MAKERS[data_type][kind](Spec(kind, size, dirty, VERSIONS, seed=5))):
            (folder / f"{version}.bin").write_bytes(payload)
    made.write_text(recipe)
    return root


@contextmanager
def receiver(program: Path, home: Path) -> Iterator[str]:
    """The receiving node on a free port; its address."""
    command = [program, "serve", "-listen", "127.0.0.1:0", "-store", home / "held", "-node-id", "node-b", "-quiet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = process.stdout.readline() if process.stdout else ""
        if " listens on " not in said:
            sys.exit(f"the receiving node did not start: exit code {process.wait()}")
        yield said.split()[-1]
    finally:
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate()
        if rest:
            print(f"the receiving node said:\n{rest}")


if __name__ == "__main__":
    main()
