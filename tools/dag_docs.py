"""Write ``docs/dags.md`` from the DAGs themselves: ``python tools/dag_docs.py``. A test compares the file with this."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parent.parent
TARGET = REPOSITORY / "docs" / "dags.md"
HEAD = """# The DAGs

Generated from `dags/` by `python tools/dag_docs.py`; change the DAG, not this page.
"""


def render(dags: Mapping[str, Any]) -> str:
    """The page: for each DAG its facts, its own explanation, its form and its tasks."""
    return "\n".join([HEAD, *(_dag(dags[dag_id]) for dag_id in sorted(dags))]).rstrip() + "\n"


def _dag(dag: Any) -> str:
    form = [(name, dag.params.get_param(name)) for name in dag.params]
    return "\n".join(
        [
            f"## {dag.dag_display_name}: `{dag.dag_id}`\n",
            f"{dag.description}.\n",
            _table(
                ("", ""),
                [
                    ("schedule", f"`{dag.timetable.expression}` UTC" if dag.schedule else "by hand only"),
                    ("tags", ", ".join(sorted(dag.tags))),
                    ("owner", dag.owner),
                    ("runs at a time", str(dag.max_active_runs)),
                ],
            ),
            dag.doc_md.strip().replace("\n### ", "\n\n### ").replace("\n\n\n", "\n\n") + "\n",
            "### The form\n",
            _table(
                ("field", "name", "default", "choices", "meaning"),
                [
                    (
                        param.schema["title"],
                        f"`{name}`",
                        f"`{param.value}`" if param.has_value and param.value is not None else "",
                        ", ".join(param.schema.get("enum") or param.schema.get("items", {}).get("enum", [])),
                        param.description or "",
                    )
                    for name, param in form
                ],
            ),
            "### The tasks\n",
            _table(
                ("task", "after", "pool", "time limit", "retries", "changes"),
                [
                    (
                        f"`{task.task_id}`" + (" (mapped)" if task.is_mapped else ""),
                        ", ".join(f"`{name}`" for name in sorted(task.upstream_task_ids)),
                        f"`{task.pool}`",
                        f"{task.execution_timeout.total_seconds() / 60:.0f} min",
                        str(task.retries),
                        ", ".join(f"`{asset.uri}`" for asset in task.outlets),
                    )
                    for task in dag.topological_sort()
                ],
            ),
        ]
    )


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main() -> None:
    """Read the DAGs with an Airflow home of no consequence, and write the page."""
    for name in [name for name in os.environ if name.startswith(("DWCP_", "AIRFLOW"))]:
        del os.environ[name]  # the page says the defaults
    os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    sys.path.insert(0, str(REPOSITORY / "dags"))
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(REPOSITORY / "dags"))
    if bag.import_errors:
        sys.exit(f"the DAGs cannot be read: {bag.import_errors}")
    TARGET.write_text(render(bag.dags))


if __name__ == "__main__":
    main()
