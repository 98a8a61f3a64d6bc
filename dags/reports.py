"""The way from a task to the report it wrote: a button on the task, and a line in its log.

``plugins/dwcp_reports.py`` serves the reports.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

log = logging.getLogger(__name__)
REPORT_KEY = "report"
REPORTS_URL = "/dwcp/reports/"


class ReportLink(BaseOperatorLink):  # type: ignore[misc]
    """A button on the task that opens its report."""

    name = "Report"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        """Its address below the web server, or nothing if the task ended before it wrote one."""
        from airflow.sdk.bases.xcom import BaseXCom

        report = BaseXCom.get_value(ti_key=ti_key, key=REPORT_KEY)
        return f"{REPORTS_URL}{report}" if report else ""


def keep_report(ti: Any, report: str | None) -> None:
    """Leave the report's name for ``ReportLink``, also if there is none, and its address in the log."""
    from airflow.sdk.configuration import conf

    ti.xcom_push(REPORT_KEY, report or "")
    if report:
        log.info("report: %s%s%s", conf.get("api", "base_url", fallback="").rstrip("/"), REPORTS_URL, report)
