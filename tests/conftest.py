"""Shared fixtures live in one module a server, so that a test file names what it needs."""

import pytest

pytest_plugins = ["fixtures_postgres", "fixtures_influx", "fixtures_airflow", "fixtures_browser", "fixtures_webhook"]

LONGEST = (
    *("dags/test_airflow_site.py", "training/test_train.py", "release/test_ladder.py", "node/test_go_node.py"),
    *("fleet/test_measure.py", "pipeline/test_weekly.py", "export/test_go_bundle.py", "training/test_tune.py"),
    *("release/test_evaluate.py", "dags/test_dag_runs.py", "pipeline/test_watch.py"),
)
"""Files that take a minute or more. A file runs on one worker: begun last, it would run on alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        place = item.path.relative_to(item.config.rootpath / "tests").as_posix()
        return LONGEST.index(place) if place in LONGEST else len(LONGEST)

    items.sort(key=rank)
