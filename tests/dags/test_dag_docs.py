"""``docs/dags.md`` says what the DAGs say."""

from __future__ import annotations

import importlib.util

from fixtures_airflow import REPOSITORY


def test_the_page_is_current(dags) -> None:
    spec = importlib.util.spec_from_file_location("dag_docs", REPOSITORY / "tools" / "dag_docs.py")
    dag_docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(dag_docs)
    written = dag_docs.TARGET.read_text()
    assert written.count("\n## ") == len(dags) == 5
    assert written == dag_docs.render(dags), "run: python tools/dag_docs.py"
