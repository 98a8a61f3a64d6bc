"""What the DAG files share: the factory that makes a task of a pure function, and a run's window.

Imported at parse time by every DAG and every task, so it knows ``airflow.sdk`` and ``dwcp.settings`` and nothing heavy:
a step names its function (``"weekly.load_day"``) and imports it inside the running task.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

from airflow.sdk import (
    Asset,
    XComArg,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException

from connections import settings_from_connections
from reports import REPORT_KEY, ReportLink, keep_report

log = logging.getLogger(__name__)

TRAINING_TABLE = Asset("dwcp_training_table", uri="dwcp://warehouse/compression_training_data")
MODEL = Asset("dwcp_model", uri="dwcp://channel/compression_selector")

FROM_CONTEXT = object()
"""An argument of a step that Airflow's context has under the same name, as ``run_id``."""


def call(function: str, **arguments: Any) -> Any:
    """Run ``dwcp.pipeline.<function>`` with this installation's settings; only here is it imported.

    What mapped tasks returned arrives as a lazy sequence and is handed on as a list.
    """
    module, name = function.rsplit(".", 1)
    pure = getattr(import_module(f"dwcp.pipeline.{module}"), name)
    given = {key: list(value) if _is_lazy(value) else value for key, value in arguments.items()}
    return pure(settings_from_connections(), **given)


def step(
    function: str,
    operator: Mapping[str, Any] | None = None,
    *,
    each: Mapping[str, XComArg | list[str]] | None = None,
    skip: Callable[[dict[str, Any]], str | None] | None = None,
    outlet: Asset | None = None,
    report: bool = False,
    **arguments: Any,
) -> XComArg:
    """Make a task of the pure function ``dwcp.pipeline.<function>``, called with ``arguments`` (or ``FROM_CONTEXT``).

    ``each`` maps the task over a list. ``skip`` looks at the arguments and may give the reason for doing nothing.
    ``outlet`` is the asset that a success changes; its event carries window and result. ``report`` adds a button, and a
    line in the log, that lead to the report which the result, or the exception, names.
    """
    name = function.rsplit(".", 1)[1]

    def run(**given: Any) -> Any:
        context = get_current_context()
        reason = skip(given) if skip else None
        if reason:
            # The exception's text lands in a part of the log that starts folded; these lines are seen at once.
            for line in reason.split("; "):
                log.warning("%s", line)
            context["ti"].xcom_push("skipped_because", reason)
            raise AirflowSkipException(reason)
        try:
            made = call(function, **given)
        except Exception as error:
            if report:
                keep_report(context["ti"], getattr(error, REPORT_KEY, None))
            raise
        if report:
            keep_report(context["ti"], made[REPORT_KEY])
        if outlet:
            span = {bound: given[bound] for bound in ("start", "end") if bound in given}
            context["outlet_events"][outlet].extra = {**span, **made}
        return made

    parameters = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY) for key in (*arguments, *(each or {}))]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__name__ = run.__qualname__ = name
    make = task(outlets=[outlet] if outlet else [], **(operator or {}))(run)
    bound = {key: value for key, value in arguments.items() if value is not FROM_CONTEXT}
    placed: XComArg = make.partial(**bound).expand(**each) if each else make(**bound)
    if report:
        placed.operator.operator_extra_links = (ReportLink(),)
    return placed


def chosen_window(
    params: Mapping[str, Any], data_interval_start: datetime | None, data_interval_end: datetime | None
) -> tuple[str, str]:
    """The window that the form asks for, else the run's data interval, cut to whole UTC days as loads replace these.

    A schedule of Monday 03:00 thus takes Monday to Sunday, and its three hours let late rows arrive. Raises
    ``ValueError`` if only one bound was given, or if there is neither: a run by hand may have no data interval.
    """
    start, end = params.get("start"), params.get("end")
    if bool(start) != bool(end):
        raise ValueError("only one of From and To was given: give both, or leave both empty for the last full week")
    if start and end:
        return start, end
    if data_interval_start is None or data_interval_end is None or data_interval_start == data_interval_end:
        raise ValueError("this run has no week of its own: give From and To")
    return _midnight(data_interval_start), _midnight(data_interval_end)


def _midnight(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0).isoformat()


def _is_lazy(value: object) -> bool:
    """Whether ``value`` is what Airflow gives for a mapped task's results: a sequence that is no list."""
    return hasattr(value, "__getitem__") and not isinstance(value, (str, bytes, list, tuple, dict))
