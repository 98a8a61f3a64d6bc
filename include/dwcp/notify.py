"""One line to whoever is on call, through a webhook that the user configures.

The body is JSON with ``text``, which Slack and most chat tools take. With a routing key it is an event of PagerDuty's
Events API v2, deduplicated by what it is about, so that a task that runs twice rings once. The address and the key are
secrets (whoever has them can write there): they appear in no log and no error.
"""

from __future__ import annotations

import json
import logging
import re
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from dwcp.settings import Settings

ATTEMPTS = 3
TIMEOUT_S = 10.0
SUMMARY_MAX = 1_024
"""PagerDuty refuses a longer summary."""
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2})?)?")
_log = logging.getLogger(__name__)


def notify(settings: Settings, line: str, *, about: str, pause_s: float = 1.0) -> bool:
    """Send ``line``; True if it was taken, False if no webhook is configured or it did not answer well.

    ``about`` names the matter: lines about the same, whatever moment they name, are one incident. What does not arrive
    is logged and not raised: the act that it speaks of has happened, and must not be repeated for want of a message.
    """
    if settings.notify_webhook is None:
        _log.info("no webhook is configured (DWCP_NOTIFY_WEBHOOK, connection dwcp_webhook): not sent: %s", line)
        return False
    address = settings.notify_webhook.get_secret_value()
    host = _host(address)
    if host is None:
        _log.error("the webhook is no http or https address: not sent: %s", line)
        return False
    body = json.dumps(_body(settings, line, about)).encode()
    for attempt in range(1, ATTEMPTS + 1):
        trouble = _post(address, body)
        if trouble is None:
            _log.info("told %s: %s", host, line)
            return True
        _log.warning("%s did not take the line (%s), attempt %d of %d", host, trouble, attempt, ATTEMPTS)
        time.sleep(pause_s * attempt)
    _log.error("not sent to %s: %s", host, line)
    return False


def _host(address: str) -> str | None:
    """Whom it names, if it is an address that one can post to."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return None
    return parts.hostname if parts.scheme in ("http", "https") else None


def _body(settings: Settings, line: str, about: str) -> dict[str, Any]:
    if settings.notify_routing_key is None:
        return {"text": line}
    return {
        "routing_key": settings.notify_routing_key.get_secret_value(),
        "event_action": "trigger",
        "dedup_key": _MOMENT.sub("…", about)[:255],
        "payload": {"summary": line[:SUMMARY_MAX], "source": "dwcp", "severity": "warning"},
    }


def _post(address: str, body: bytes) -> str | None:
    """What went wrong, without the address; None if nothing did."""
    request = urllib.request.Request(  # noqa: S310  (the scheme was checked)
        address, data=body, headers={"Content-Type": "application/json", "User-Agent": "dwcp"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            answer.read(1_024)
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return type(error).__name__
    return None
