"""ASGI scopes: headers, and servers that raise after a disconnect."""

from __future__ import annotations

import anyio
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import ExchangeMiddleware, Limiter, Providers, RateLimitMiddleware, keys
from tokenpulse_mw.exchange import request_headers
from tokenpulse_mw.exchange.scope import send_may_raise
from tokenpulse_mw.logs import RequestIdMiddleware

from ..support.asgi import drive, http_scope


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


@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_request_headers_can_be_read_again(kind: type) -> None:
    """ASGI allows an iterable that can be read only once; lists and tuples stay as they are."""
    pairs = [(b"host", b"a.example"), (b"x-api-key", b"k1")]
    scope = {"type": "http", "headers": kind(pairs)}
    stored = scope["headers"]

    assert list(request_headers(scope)) == list(request_headers(scope)) == pairs
    assert (scope["headers"] is stored) is (kind is not iter)
    assert request_headers({"type": "http"}) == ()


def test_request_headers_that_can_be_read_once_reach_the_application() -> None:
    """Request ids, keys of limits and providers read the headers before the application does."""
    limiter = Limiter("9/day")

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        key = Request(scope).headers["x-api-key"]
        await PlainTextResponse(key)(scope, receive, send)

    limited = RateLimitMiddleware(application, limiter=limiter, key=keys.header("x-api-key"))
    measured = ExchangeMiddleware(limited, provider=Providers(["claude"], request_header=True))
    pairs = [(b"x-request-id", b"r1"), (b"x-api-key", b"k1")]
    scope = {**http_scope("/chat"), "headers": iter(pairs)}

    response = anyio.run(drive, RequestIdMiddleware(measured), scope)

    assert response.body == b"k1"
    assert response.headers["x-request-id"] == "r1"
    assert len(limiter) == 1
