"""Airflow for tests: a home of its own, set before Airflow is first imported, and the DAGs as Airflow reads them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from airflow.sdk import DAG

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def airflow_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``AIRFLOW_HOME`` of this test session on SQLite, with its metadata database made."""
    assert "airflow" not in sys.modules, "some test module imports airflow at top level: it would use ~/airflow"
    home = tmp_path_factory.mktemp("airflow")
    os.environ |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    done = subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return home


@pytest.fixture
def dags(airflow_home: Path) -> MappingProxyType[str, DAG]:
    """Every DAG below ``dags/`` by its id, after asserting that all files were read without an error.

    Read anew for each test: a run in this process writes its params into the DAG.
    """
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(REPOSITORY / "dags"))
    assert bag.import_errors == {}
    return MappingProxyType(bag.dags)


@pytest.fixture
def weekly_runs(airflow_home: Path) -> Iterator[Callable[[], list[tuple[str, object, str]]]]:
    """The weekly runs that other runs started: id, conf and state. Nothing executes them."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    started = (DagRun.dag_id == "dwcp_weekly_retraining", DagRun.run_type == "operator_triggered")

    def runs() -> list[tuple[str, object, str]]:
        with create_session() as session:
            found = session.query(DagRun).filter(*started).order_by(DagRun.id)
            return [(run.run_id, run.conf, str(run.state)) for run in found]

    yield runs
    with create_session() as session:
        session.query(DagRun).filter(*started).delete()


def run_dag(dag: Any, **conf: Any) -> tuple[str, dict[str, str]]:
    """State of the run and of each task."""
    ended = dag.test(run_conf=conf, logical_date=None, run_after=datetime.now(UTC))
    states = {}
    for ti in ended.get_task_instances():
        states[ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]"] = str(ti.state)
    return str(ended.state), states
