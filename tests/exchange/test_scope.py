"""ASGI scopes: servers that raise after a disconnect."""

from __future__ import annotations

import pytest

from tokenpulse_mw.exchange.scope import send_may_raise


@pytest.mark.parametrize(
    ("asgi", "raises"),
    [
        ({"version": "3.0"}, False),
        ({"spec_version": "2.0"}, False),
        ({"spec_version": "2.3"}, False),
        ({"spec_version": "2.4"}, True),
        ({"spec_version": "2.10"}, True),
        ({"spec_version": "3.0"}, True),
        ({"spec_version": "next"}, True),
    ],
)
def test_send_may_raise_since_asgi_2_4(asgi: dict[str, str], raises: bool) -> None:
    """A scope without a version has the oldest, and an unknown version may raise."""
    assert send_may_raise({"type": "http", "asgi": asgi}) is raises


def test_send_does_not_raise_without_an_asgi_version() -> None:
    """A scope without `asgi` is from a server of the oldest version."""
    assert not send_may_raise({"type": "http"})
