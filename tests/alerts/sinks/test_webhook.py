"""WebhookSink: what a receiver gets."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from tokenpulse_mw.alerts.sinks import WebhookSink
from tokenpulse_mw.alerts.sinks.webhook import parse_secrets, sign

from ...support.clock import FakeClock
from ...support.receiver import Receiver
from .events import event

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


KEY = bytes(range(32))


SIGNING_SECRET = "whsec_" + base64.b64encode(KEY).decode()


OTHER = "whsec_" + base64.b64encode(bytes(24)).decode()


@given(st.binary(min_size=24, max_size=64), st.text(), st.booleans())
def test_a_receiver_can_check_who_sent_it(key: bytes, text: str, padded: bool) -> None:
    """Whatever the secret and the body, with the padding of base64 or without."""
    secret = "whsec_" + base64.b64encode(key).decode()
    body = text.encode()

    headers = sign(
        parse_secrets(secret if padded else secret.rstrip("=")), "evt_1", int(time.time()), body
    )

    Webhook(secret).verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers, json_parse=False)


def test_while_secrets_are_changed_both_are_good() -> None:
    """Each gives a signature, so receivers may change when they like."""
    headers = sign(parse_secrets([SIGNING_SECRET, OTHER]), "evt_1", int(time.time()), b"{}")

    for secret in (SIGNING_SECRET, OTHER):
        Webhook(secret).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(b"{}", headers)


def test_without_a_secret_nothing_is_signed() -> None:
    """The event still has its id and time."""
    assert sign(parse_secrets(None), "evt_1", 5, b"{}") == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "5",
    }


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ([], "leave secret out"),
        ("", "does not begin"),
        (SIGNING_SECRET.removeprefix("whsec_"), "does not begin"),
        ([SIGNING_SECRET, None], "does not begin"),
        (b"whsec_", "does not begin"),
        ("whsec_", "of 0 bytes"),
        ("whsec_hunter2!", "not base64"),
        ("whsec_\u00e9", "not base64"),
        ("whsec_aaaaa", "not base64"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "of 23 bytes"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "of 65 bytes"),
    ],
)
def test_a_secret_of_another_form_is_refused(secret: object, message: str) -> None:
    """The error says how to make one, and does not show the one that was given."""
    with pytest.raises(ValueError, match=message) as caught:
        parse_secrets(secret)  # type: ignore[arg-type]
    assert "urandom(32)" in str(caught.value)
    assert "hunter2" not in str(caught.value)
