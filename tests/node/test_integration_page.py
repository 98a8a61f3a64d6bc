"""A node engineer follows docs/compression_selector_integration.md: so does this test, in a fresh module."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import trained
from dwcp.contract import ALGORITHMS, ARMS, FEATURES, REASONS
from dwcp.export.forms import ONNX, TFLITE, build_forms
from dwcp.release.bundle import write_bundle
from dwcp.release.channel import Channel
from dwcp.release.registry import RegionState
from dwcp.release.signing import load_signer, sign_document
from dwcp.settings import Settings
from go_bench import Absent, compiler, library

# The first test builds Go programs, C libraries among them: minutes on a busy machine.
pytestmark = pytest.mark.timeout(1_200)

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "compression_selector_integration.md"
BUILD_S = 600


@dataclass(frozen=True)
class Section:
    """What one heading's part of the page shows."""

    title: str
    commands: tuple[str, ...]
    program: str
    prints: str


@cache
def sections() -> dict[str, Section]:
    found = {}
    for part in re.split(r"(?m)^## ", PAGE.read_text())[1:]:
        title, blocks = part.partition("\n")[0], re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", part)
        by_kind = {kind: [text for language, text in blocks if language == kind] for kind in ("sh", "go", "text")}
        if by_kind["go"]:
            assert len(by_kind["go"]) == 1, f"{title} has two programs: this test runs one a section"
            prints = by_kind["text"][0] if by_kind["text"] else ""
            found[title] = Section(title, tuple(by_kind["sh"]), by_kind["go"][0], prints)
    return found


def test_every_program_of_the_page_is_run() -> None:
    assert len(re.findall(r"(?m)^```go$", PAGE.read_text())) == len(sections()) == 5


@pytest.mark.parametrize(("title", "words"), [("What a decision says", REASONS), ("Rollout", ARMS)])
def test_tables_have_a_row_for_each_word_of_the_contract(title: str, words: tuple[str, ...]) -> None:
    part = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"(?m)^\| `([a-z_]+)` \|", part)
    assert sorted(rows) == sorted(words)


def test_the_choices_are_those_of_the_contract() -> None:
    row = re.search(r"(?m)^\| `Choice` \|(.*)$", PAGE.read_text())
    assert row is not None
    assert set(re.findall(r"`([a-z]+)`", row[1])) == set(ALGORITHMS)


def run(command: str, folder: Path, **variables: object) -> str:
    """What ``command`` prints; fails where it does."""
    environment = {**os.environ, "DWCP": ROOT, **variables}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={name: str(value) for name, value in environment.items()},
        capture_output=True,
        text=True,
        timeout=BUILD_S,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """The module that the page begins with."""
    if shutil.which("go") is None:
        pytest.skip("Go is not installed: the page's programs cannot be built")
    begin = sections()["First decision"].commands[0]
    run(begin, tmp_path)
    return tmp_path / "first"


def needs_compiler() -> None:
    if compiler() is None:
        pytest.skip("gcc is not installed: this program of the page needs it")


def follow(section: Section, folder: Path, **variables: object) -> str:
    """Run a section's commands, then vet and run its program."""
    for command in section.commands:
        if not command.startswith("mkdir") and command != "go run .\n":
            run(command, folder)
    (folder / "main.go").write_text(section.program)
    formatted = run("gofmt -l .", folder)
    assert formatted == "", "gofmt would change the page's program"
    run("go vet .", folder)
    return run("go run .", folder, **variables)


@pytest.mark.parametrize("title", ["First decision", "When something is wrong"])
def test_programs_that_need_nothing(first: Path, title: str) -> None:
    section = sections()[title]
    assert section.prints
    assert follow(section, first) == section.prints


def test_the_module_can_be_vendored(first: Path) -> None:
    section = sections()["First decision"]
    follow(section, first)
    run("go mod vendor && go mod edit -dropreplace dwcp.internal/selector && go mod edit -json", first)
    run(f"go mod edit -replace dwcp.internal/selector={ROOT}/go && go build -mod=vendor .", first)
    assert (first / "vendor" / "dwcp.internal" / "selector" / "doc.go").exists()


@pytest.fixture
def published(tmp_path: Path) -> Settings:
    """A pipeline's home with one release for every region."""
    settings = Settings(home=tmp_path / "home")
    signer = load_signer(settings)
    forms = build_forms(trained.ensemble(), version="v1")
    sample = np.array([[feature.default for feature in FEATURES]], np.float32)
    bundle = write_bundle(settings.bundle_dir, signer, version="v1", models=forms, card="# card\n", sample=sample)
    channel = Channel(1, datetime.now(UTC), {"us-east": RegionState("v1")}, {"v1": bundle.digest})
    settings.channel_path.parent.mkdir(parents=True)
    settings.channel_path.write_bytes(sign_document(signer, channel.to_document()))
    return settings


def with_key(folder: Path, settings: Settings) -> None:
    shutil.copy(settings.home / "keys" / "signing.pub.pem", folder)


@contextmanager
def serving(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def test_updates(first: Path, published: Settings) -> None:
    section = sections()["Updates"]
    with_key(first, published)
    with serving(partial(Quiet, directory=str(published.home))) as address:
        assert follow(section, first, DWCP_CHANNEL=address) == section.prints


def test_a_whole_transfer(first: Path) -> None:
    needs_compiler()
    section, bodies = sections()["A whole transfer"], []

    class Influx(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append((self.path, self.rfile.read(int(self.headers["Content-Length"])).decode()))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Influx) as address:
        assert follow(section, first, DWCP_INFLUX=address, DWCP_INFLUX_TOKEN="secret") == section.prints
    [(path, body)] = bodies
    assert path.startswith("/api/v2/write?")
    [line] = body.splitlines()
    assert line.startswith("compression_metrics,region=us-east,")
    assert 'reason_code="model_missing"' in line
    assert (first / "history").exists()


def test_interpreters(first: Path, published: Settings) -> None:
    try:
        libraries = {"DWCP_ONNXRUNTIME_LIBRARY": library(ONNX), "DWCP_LITERT_LIBRARY": library(TFLITE)}
    except Absent as absent:
        pytest.skip(str(absent))
    with_key(first, published)
    said = follow(sections()["Interpreters"], first, DWCP_BUNDLE=published.bundle_dir / "v1", **libraries)
    one, other = said.splitlines()
    assert one == other
    assert re.fullmatch(r"v1 (model|not_worth_it|low_confidence) <nil>", one)
