"""One line to a webhook: what arrives, what is tried again, what is never said."""

from __future__ import annotations

import logging

import pytest

from dwcp.notify import ATTEMPTS, SUMMARY_MAX, notify
from dwcp.settings import Settings

LINE = "eu-west: v2: accuracy 80% → rolled back; look at field_verdicts"
ABOUT = {"about": "eu-west v2", "pause_s": 0.0}


def test_a_chat_gets_a_text(sink) -> None:
    assert notify(Settings(notify_webhook=sink.url), LINE, **ABOUT)
    assert sink.bodies == [{"text": LINE}]


def test_pagerduty_gets_an_event_that_rings_once(sink) -> None:
    settings = Settings(notify_webhook=sink.url, notify_routing_key="key")
    assert notify(settings, LINE * 100, **ABOUT)
    [body] = sink.bodies
    assert (body["routing_key"], body["event_action"], body["dedup_key"]) == ("key", "trigger", "eu-west v2")
    assert len(body["payload"]["summary"]) == SUMMARY_MAX
    assert (body["payload"]["source"], body["payload"]["severity"]) == ("dwcp", "warning")


def test_the_same_an_hour_later_is_the_same_incident(sink) -> None:
    settings = Settings(notify_webhook=sink.url, notify_routing_key="key")
    for about in ("blind to 2026-09-21 03:00 UTC", "blind to 2026-09-21 04:00 UTC", "blind since v2"):
        assert notify(settings, LINE, about=about)
    first, later, other = (body["dedup_key"] for body in sink.bodies)
    assert first == later != other


def test_without_a_webhook_the_log_has_the_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert not notify(Settings(), LINE, **ABOUT)
    assert LINE in caplog.text


@pytest.mark.parametrize("status", [404, 500])
def test_what_is_refused_is_tried_again_and_raises_nothing(sink, caplog: pytest.LogCaptureFixture, status: int) -> None:
    sink.status = status
    assert not notify(Settings(notify_webhook=sink.url, notify_routing_key="key-1"), LINE, **ABOUT)
    assert len(sink.bodies) == ATTEMPTS
    assert f"HTTP {status}" in caplog.text
    assert LINE in caplog.text
    assert sink.secret not in caplog.text
    assert "key-1" not in caplog.text


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:9/{secret}", "file:///etc/{secret}", "{secret}", "http://[{secret}"]
)
def test_an_address_that_cannot_be_is_said_without_itself(caplog: pytest.LogCaptureFixture, address: str) -> None:
    secret = "a-long-secret"
    assert not notify(Settings(notify_webhook=address.format(secret=secret)), LINE, **ABOUT)
    assert LINE in caplog.text
    assert secret not in caplog.text
