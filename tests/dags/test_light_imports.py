"""DAG files and plugins are read again by every task, so nothing heavy may be imported at parse time."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

from fixtures_airflow import REPOSITORY

HEAVY = {
    "pandas", "numpy", "pyarrow", "xgboost", "tensorflow", "keras", "sklearn", "scipy", "great_expectations",
    "onnx", "onnxruntime", "matplotlib", "influxdb_client", "lz4", "zstandard",
}  # fmt: skip
FILES = sorted([*(REPOSITORY / "dags").rglob("*.py"), *(REPOSITORY / "plugins").rglob("*.py")])


DAG_FILES = {
    "dwcp_weekly_retraining.py", "dwcp_manual_backfill.py", "dwcp_staged_rollout.py", "dwcp_manual_rollback.py",
    "dwcp_drift_watch.py",
}  # fmt: skip


def test_there_are_files_to_look_at() -> None:
    helpers = {"wiring", "connections", "reports", "approval", "defaults", "notifier", "retraining"}
    plugins = {"dwcp_console", "dwcp_reports"}
    assert {path.name for path in FILES} == {*DAG_FILES, *(f"{name}.py" for name in (*helpers, *plugins))}


def test_airflow_reads_the_dags_and_no_helper(airflow_home: Path) -> None:
    from airflow.utils.file import list_py_file_paths

    assert {Path(path).name for path in list_py_file_paths(REPOSITORY / "dags", safe_mode=False)} == DAG_FILES


def test_no_heavy_import_is_written_at_top_level() -> None:
    found = [(path.name, name) for path in FILES for name in _top_level_imports(ast.parse(path.read_text()))]
    assert len(found) > 10
    assert [pair for pair in found if pair[1].split(".")[0] in HEAVY] == []


def test_the_check_itself_finds_a_heavy_import() -> None:
    assert _top_level_imports(ast.parse("if True:\n    import pandas as pd\ndef f():\n    import numpy")) == ["pandas"]


def test_files_are_short_and_import_no_dag() -> None:
    for path in FILES:
        if path.parent.name == "dags":
            assert len(path.read_text().splitlines()) <= 150, path.name
            imported = _top_level_imports(ast.parse(path.read_text()))
            assert [name for name in imported if name.startswith("dwcp_")] == [], path.name


def test_nothing_heavy_is_loaded_while_dags_and_plugins_are_read(airflow_home: Path) -> None:
    code = (
        "import importlib.util, json, sys\n"
        "import airflow.sdk, airflow.plugins_manager\n"
        "before = set(sys.modules)\n"
        "sys.path[:0] = [sys.argv[1]]\n"
        "for path in sys.argv[2:]:\n"
        "    spec = importlib.util.spec_from_file_location('read_' + str(len(sys.modules)), path)\n"
        "    spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in set(sys.modules) - before})))\n"
    )
    paths = [str(path) for path in FILES]
    done = subprocess.run(
        [sys.executable, "-c", code, str(REPOSITORY / "dags"), *paths], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "dwcp" in loaded
    assert loaded & (HEAVY | {"fastapi"}) == set()


def _top_level_imports(tree: ast.AST) -> list[str]:
    """Modules imported when the file is read: outside functions and outside ``if TYPE_CHECKING``."""
    names: list[str] = []
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        else:
            names += _top_level_imports(node)
    return names
