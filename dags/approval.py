"""A person's word before a step of the rollout, where the settings ask for one: Airflow's own operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowSkipException

if TYPE_CHECKING:
    from airflow.sdk import Context, XComArg


class ApproveStep(ApprovalOperator):  # type: ignore[misc]
    """Ask whether what was ``judged`` may be done; skipped if nobody has to be asked.

    There is no default answer: a question that nobody answers in time fails and approves nothing.
    """

    template_fields = (*ApprovalOperator.template_fields, "judged")

    def __init__(self, *, judged: XComArg, **kwargs: Any) -> None:
        """``judged`` is the result of ``rollout.judge_region``."""
        super().__init__(**kwargs)
        self.judged: Any = judged

    def execute(self, context: Context) -> Any:
        """Ask, with the decision as the question."""
        if not self.judged["approval"]:
            raise AirflowSkipException("nothing to approve")
        self.subject = self.judged["line"]
        self.body = "\n".join(f"* {reason}" for reason in self.judged["reasons"])
        return super().execute(context)
