"""``docs/watch_policy.md``: the policy as the code has it, with what keeps the watch's hand still."""

from __future__ import annotations

from datetime import timedelta

from dwcp.settings import Settings
from dwcp.watch.decide import policy_table


def policy_page() -> str:
    """The page, Markdown."""
    fields = Settings.model_fields
    hours = fields["watch_cooldown"].default.total_seconds() / 3_600
    retrain: timedelta = fields["watch_retrain_cooldown"].default
    evidence: timedelta = fields["watch_evidence"].default
    recent: timedelta = fields["watch_recent"].default
    alpha = fields["watch_alpha"].default
    return f"""# What the watch does about what it sees

Generated from `dwcp.watch.decide` by `make generate`; change the code, not this page.

Every hour, for each region and each version that has a say or runs in the shadow there, the watch measures, judges,
stores and acts. Read from the top: every rule that holds gives its reason, the strongest action is taken.

{policy_table()}

* **Surely** means the whole interval. It holds at every look at once (`DWCP_WATCH_ALPHA`, default {alpha:g}: the chance
  that one rule ever acts wrongly on a version in a region), so that looking every hour raises no false alarms.
* **FAIL** is surely beyond the threshold, **PASS** surely within it, **INCONCLUSIVE** neither: too little data
  (`DWCP_WATCH_MIN_ROWS`, default {fields["watch_min_rows"].default}, effective fully measured rows;
  `DWCP_WATCH_MIN_ARM_ROWS`, default {fields["watch_min_arm_rows"].default}, rows of canary and of control), or labels
  that repeat less often than the threshold. INCONCLUSIVE does nothing and says why.
* A throughput **regression** is surely slower than control while a loss of the threshold is not ruled out; a canary
  that surely loses less than the threshold passes.
* Evidence reaches back {evidence.days} days (`DWCP_WATCH_EVIDENCE`), in a busy region as many whole days as hold
  {fields["watch_max_rows"].default:,} rows (`DWCP_WATCH_MAX_ROWS`), which bounds a look's memory. Drift is looked for
  in the last {recent.days} days (`DWCP_WATCH_RECENT`), against the training window's stored profile.
* **No flapping.** What stands is cleared by a PASS only. Within {hours:.0f} hours (`DWCP_WATCH_COOLDOWN`) an alert is
  said once and a region is rolled back by the watch once; retraining is asked for at most every {retrain.days} days
  (`DWCP_WATCH_RETRAIN_COOLDOWN`). Rows that led to a rollback are no evidence a second time, so one rollback never
  chases another.
* Without a canary nothing is compared with control: a champion is judged by its accuracy and by what its choices lose
  against the best of the same transfers, which a change of traffic does not move.
* In the shadow the model harms nobody: its verdict is told to the rollout, which does not advance on a FAIL.
"""
