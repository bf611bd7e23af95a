"""WebhookSink: what a receiver gets."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks import Webhook

from tests.alerts.sinks.events import event
from tests.support.clock import FakeClock
from tests.support.receiver import Receiver
from tokenpulse_mw.alerts.sinks import WebhookSink

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


@pytest.mark.anyio
async def test_a_receiver_gets_the_event_and_can_check_it() -> None:
    """The official verifier takes what a real server was sent."""
    told = event(message="K\u00e9y \u26a1 <k1>")
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url, secret=SECRET)
        await sink(told)
        await sink.aclose()

    (request,) = receiver.received
    assert Webhook(SECRET).verify(request.body, dict(request.headers)) == {
        "type": "alert.fired",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "data": told.to_dict(),
    }


@pytest.mark.anyio
async def test_each_attempt_has_the_same_id_and_its_own_time() -> None:
    """A receiver knows the id of what it has already, and refuses signatures that are old."""
    now = FakeClock(1000.9)
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url, secret=SECRET, wall=now)
        await sink(event())
        now.now = time.time()
        await sink(event())
        await sink.aclose()

    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event().id
    assert first.headers["webhook-timestamp"] == "1000"
    assert first.body == second.body
    Webhook(SECRET).verify(second.body, dict(second.headers))


@pytest.mark.anyio
async def test_without_a_secret_there_is_no_signature() -> None:
    """What cannot be checked does not look as if it could."""
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url, headers={"X-Team": "ops"})
        await sink(event())
        await sink.aclose()

    headers = receiver.received[0].headers
    assert "webhook-signature" not in headers
    assert headers["x-team"] == "ops"
