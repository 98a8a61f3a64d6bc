"""What every task has unless its DAG says otherwise: retries and what is not worth one, limits, pools, and notices."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

from notifier import TellFailure, TellNotices

NO_USE_RETRYING = ExceptionRetryPolicy(
    [
        RetryRule("dwcp.pipeline.QualityGateFailed", RetryAction.FAIL, reason="the same rows fail the same checks"),
        RetryRule("dwcp.pipeline.ReconcileFailed", RetryAction.FAIL, reason="the same counts give the same sum"),
        RetryRule("dwcp.release.publish.PublishError", RetryAction.FAIL, reason="it is refused, and will be again"),
        RetryRule(
            "airflow.providers.standard.exceptions.HITLTimeoutError",
            RetryAction.FAIL,
            reason="nobody answered; the next run asks again",
        ),
        # Exactly ValueError: a subclass (say, a file half read) may well succeed the next time.
        RetryRule(ValueError, RetryAction.FAIL, reason="the request itself is wrong", match_subclasses=False),
    ]
)
DAG_DEFAULT_ARGS: dict[str, Any] = {
    "owner": "dwcp-ml",
    "retries": 3,
    "retry_delay": timedelta(seconds=30),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=10),
    "retry_policy": NO_USE_RETRYING,
    "execution_timeout": timedelta(minutes=30),
    "pool": "dwcp_light",
    "on_success_callback": TellNotices(),
    "on_failure_callback": TellFailure(),
}
LOAD: dict[str, Any] = {"pool": "dwcp_load", "execution_timeout": timedelta(hours=1)}
BACKFILL: dict[str, Any] = {**LOAD, "pool": "dwcp_backfill"}
TRAIN: dict[str, Any] = {"pool": "dwcp_train", "execution_timeout": timedelta(hours=4)}
"""Operator arguments of steps that read and write many rows, for a weekly run and by hand; that fit or run models."""
URGENT: dict[str, Any] = {"pool": "dwcp_urgent", "priority_weight": 1_000, "retry_delay": timedelta(seconds=5)}
"""Of steps that somebody waits for at night: never behind a weekly run."""
