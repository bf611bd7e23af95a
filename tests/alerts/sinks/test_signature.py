"""Signatures, checked by the package that Standard Webhooks has for receivers."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from tokenpulse_mw.alerts.sinks.signature import parse_secrets, signed

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER = "whsec_" + base64.b64encode(bytes(24)).decode()


@given(st.binary(min_size=24, max_size=64), st.text(), st.booleans())
def test_a_receiver_can_check_who_sent_it(key: bytes, text: str, padded: bool) -> None:
    """Whatever the secret and the body, with the padding of base64 or without."""
    secret = "whsec_" + base64.b64encode(key).decode()
    body = text.encode()

    headers = signed(
        parse_secrets(secret if padded else secret.rstrip("=")), "evt_1", int(time.time()), body
    )

    Webhook(secret).verify(body, headers, json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(body + b" ", headers, json_parse=False)


def test_while_secrets_are_changed_both_are_good() -> None:
    """Each gives a signature, so receivers may change when they like."""
    headers = signed(parse_secrets([SECRET, OTHER]), "evt_1", int(time.time()), b"{}")

    for secret in (SECRET, OTHER):
        Webhook(secret).verify(b"{}", headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(base64.b64encode(b"x" * 32).decode()).verify(b"{}", headers)


def test_without_a_secret_nothing_is_signed() -> None:
    """The event still has its id and time."""
    assert signed(parse_secrets(None), "evt_1", 5, b"{}") == {
        "webhook-id": "evt_1",
        "webhook-timestamp": "5",
    }


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        ([], "leave secret out"),
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
def test_a_secret_of_another_form_is_refused(secret: object, message: str) -> None:
    """The error says how to make one, and does not show the one that was given."""
    with pytest.raises(ValueError, match=message) as caught:
        parse_secrets(secret)  # type: ignore[arg-type]
    assert "urandom(32)" in str(caught.value)
    assert "hunter2" not in str(caught.value)
