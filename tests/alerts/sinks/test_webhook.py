"""WebhookSink: signed requests according to Standard Webhooks."""

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

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes(24)).decode()


@pytest.mark.anyio
async def test_request_has_the_event_and_a_valid_signature() -> None:
    """The library of Standard Webhooks verifies the request that a receiver gets."""
    fired = event(message="K\u00e9y \u26a1 <k1>")
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url, secret=SECRET)
        await sink(fired)
        await sink.aclose()

    (request,) = receiver.received
    assert Webhook(SECRET).verify(request.body, dict(request.headers)) == {
        "type": "alert.fired",
        "timestamp": "2026-01-02T03:04:05.678Z",
        "data": fired.to_dict(),
    }


@pytest.mark.anyio
async def test_attempts_have_the_same_id_and_different_timestamps() -> None:
    """The id identifies duplicates, and the timestamp of each attempt is current."""
    clock = FakeClock(1000.9)
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url, secret=SECRET, wall=clock)
        await sink(event())
        clock.now = time.time()
        await sink(event())
        await sink.aclose()

    first, second = receiver.received
    assert first.headers["webhook-id"] == second.headers["webhook-id"] == event().id
    assert first.headers["webhook-timestamp"] == "1000"
    assert first.body == second.body
    Webhook(SECRET).verify(second.body, dict(second.headers))


@pytest.mark.anyio
async def test_request_without_a_secret_has_no_signature() -> None:
    """Without a secret the request has the additional headers, but no signature."""
    with Receiver() as receiver:
        sink = WebhookSink(receiver.url, headers={"X-Team": "ops"})
        await sink(event())
        await sink.aclose()

    headers = receiver.received[0].headers
    assert "webhook-signature" not in headers
    assert headers["x-team"] == "ops"


@given(st.binary(min_size=24, max_size=64), st.text(), st.booleans())
def test_signature_is_valid_for_the_signed_body_only(key: bytes, text: str, padded: bool) -> None:
    """Any secret, with or without padding, signs any body, and no other body verifies."""
    secret = "whsec_" + base64.b64encode(key).decode()
    body = text.encode()

    keys = parse_secrets(secret if padded else secret.rstrip("="))
    headers = sign(keys, "evt_1", int(time.time()), body)

    Webhook(secret).verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers, json_parse=False)


def test_several_secrets_give_a_signature_each() -> None:
    """A receiver can verify the request with any of the secrets, but not with another."""
    headers = sign(parse_secrets([SECRET, OTHER_SECRET]), "evt_1", int(time.time()), b"{}")

    for secret in (SECRET, OTHER_SECRET):
        Webhook(secret).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(b"{}", headers)


def test_headers_without_a_secret_have_id_and_timestamp() -> None:
    """Without a secret the headers are the id and the timestamp."""
    assert sign(parse_secrets(None), "evt_1", 5, b"{}") == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "5",
    }


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ([], "omit secret"),
        ("", "does not begin"),
        (SECRET.removeprefix("whsec_"), "does not begin"),
        ([SECRET, None], "does not begin"),
        (b"whsec_", "does not begin"),
        ("whsec_", "of 0 bytes"),
        ("whsec_hunter2!", "not base64"),
        ("whsec_\u00e9", "not base64"),
        ("whsec_aaaaa", "not base64"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "of 23 bytes"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "of 65 bytes"),
    ],
)
def test_invalid_secret_is_rejected_and_not_shown(secret: object, message: str) -> None:
    """The error shows how to create a secret, and does not quote the invalid one."""
    with pytest.raises(ValueError, match=message) as caught:
        parse_secrets(secret)  # type: ignore[arg-type]
    assert "urandom(32)" in str(caught.value)
    assert "hunter2" not in str(caught.value)
