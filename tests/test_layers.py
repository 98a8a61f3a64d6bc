"""Imports run downwards only: the layout shows the architecture, and this test keeps it so."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "include" / "dwcp"
ROOMS = {
    "contract": 0,
    "settings": 0,
    "window": 0,
    "units": 0,
    "store": 0,
    "supervisor": 0,
    "sources": 1,
    "oracle": 1,
    "rules": 1,
    "decision": 1,
    "label_worth": 1,
    "notify": 1,
    "features": 1,
    "warehouse": 1,
    "quality": 2,
    "training": 2,
    "export": 2,
    "release": 3,
    "watch": 3,
    "console": 4,
    "pipeline": 4,
    "airflow_client": 4,
    "airflow_services": 4,
    "fleet": 4,
    "cli": 5,
    "demo": 5,
}
"""A room may import rooms of its own height or below; ``fleet`` stands aside, see below."""
MAY_USE_FLEET = {"fleet", "cli", "demo"}


def rooms_imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("dwcp.")}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_room_has_a_height():
    assert len(modules()) > 20
    assert {room_of(path) for path in modules()} <= set(ROOMS)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path):
    room = room_of(path)
    for imported in rooms_imported(path):
        assert ROOMS[imported] <= ROOMS[room], f"{room} imports {imported}, which stands above it"
        assert imported != "fleet" or room in MAY_USE_FLEET, f"{room} imports the emulated fleet"
        assert room != "fleet" or imported not in {"pipeline", "release", "watch"}, "the fleet knows nothing of models"
