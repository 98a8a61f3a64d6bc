"""Airflow's way to ``dwcp.notify``: a task's notices when it succeeds, one line when it fails for good.

A notifier of our own: the HTTP provider's sends one fixed body, logs the answer, imports aiohttp at parse time, and
does not try again. Called as a task's callback, in the task's own process; a DAG's callbacks come some 12 s later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseNotifier

from connections import settings_from_connections

if TYPE_CHECKING:
    from airflow.sdk import Context

NOTICES_KEY = "notices"
"""Where a step's result has its lines for people: what happened, what was done, what to look at."""


class TellNotices(BaseNotifier):  # type: ignore[misc]
    """On success: the lines that the task's result has under ``NOTICES_KEY``, if any."""

    def notify(self, context: Context) -> None:
        """Send each."""
        ti = context["ti"]
        made: Any = ti.xcom_pull(task_ids=ti.task_id, map_indexes=ti.map_index)
        for line in made.get(NOTICES_KEY, ()) if isinstance(made, dict) else ():
            _send(line, about=line)


class TellFailure(BaseNotifier):  # type: ignore[misc]
    """When a task has failed for good: which, why, and where its log is."""

    def notify(self, context: Context) -> None:
        """Send it."""
        ti = context["ti"]
        index = f"[{ti.map_index}]" if ti.map_index is not None and ti.map_index >= 0 else ""
        why = " ".join(str(context.get("exception") or "no exception was kept").split())[:300]
        line = f"{ti.dag_id}: {ti.task_id}{index} failed: {why} → what follows it waits; look at {ti.log_url}"
        _send(line, about=f"{ti.dag_id} {ti.task_id}{index}")


def _send(line: str, *, about: str) -> None:
    from dwcp.notify import notify

    notify(settings_from_connections(), line, about=about)
