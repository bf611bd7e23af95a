"""Servers: which of them raise when the client has left."""

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
def test_servers_may_raise_from_asgi_2_4_on(asgi: dict[str, str], raises: bool) -> None:
    """One that names no version has the oldest, and one that nobody knows is listened to."""
    assert send_may_raise({"type": "http", "asgi": asgi}) is raises


def test_a_scope_without_a_version_is_of_the_oldest() -> None:
    """As ASGI has it."""
    assert not send_may_raise({"type": "http"})
