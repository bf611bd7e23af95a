"""What is said of an exchange before it has begun."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tests.support.apps import answering
from tests.support.asgi import drive, http_scope
from tokenpulse_mw import Exchange, ExchangeMiddleware, TokenUsage, annotate


def around(app: ASGIApp, say: Callable[[Scope], None]) -> ASGIApp:
    """An application that says something before it calls `app`, and again afterwards."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        say(scope)
        await app(scope, receive, send)
        say(scope)

    return outer


@pytest.mark.anyio
async def test_what_is_said_before_an_exchange_is_in_it() -> None:
    """Whoever authenticates may be the outermost; what is said within overrides it."""
    seen: list[Exchange] = []

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, key="k2")
        await answering()(scope, receive, send)

    def say(scope: Scope) -> None:
        annotate(scope, master="acme", provider="claude")
        annotate(scope, key="k1", usage=TokenUsage(input=3))

    await drive(around(ExchangeMiddleware(endpoint, observers=[seen.append]), say))

    (exchange,) = seen
    assert (exchange.master, exchange.key, exchange.provider) == ("acme", "k2", "claude")
    assert (exchange.usage, exchange.usage_source) == (TokenUsage(input=3), "reported")


@pytest.mark.anyio
async def test_what_is_said_of_one_request_is_not_said_of_the_next() -> None:
    """It lives in the scope."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(), observers=[seen.append])

    await drive(around(app, lambda scope: annotate(scope, master="acme")))
    await drive(app)

    assert [each.master for each in seen] == ["acme", None]


@pytest.mark.anyio
async def test_what_cannot_be_told_is_reported_when_the_exchange_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As if it had been said within; the request, and the rest of what was said, go on."""
    failed: list[str] = []

    class Counts:
        def __call__(self, exchange: Exchange) -> None:
            assert exchange.master == "acme"

        def failed(self, component: str) -> None:
            failed.append(component)

    def say(scope: Scope) -> None:
        annotate(scope, master="acme")
        annotate(scope, usage=TokenUsage(input=-1))

    answer = await drive(around(ExchangeMiddleware(answering(), observers=[Counts()]), say))

    assert answer.status == 200
    assert failed == ["annotate"]
    assert [each.levelname for each in caplog.records] == ["ERROR"]


@pytest.mark.anyio
async def test_a_websocket_is_annotated_before_its_handshake_as_well() -> None:
    """A handshake is an exchange like others."""
    seen: list[Exchange] = []

    async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    app = ExchangeMiddleware(accepting, observers=[seen.append])
    scope = {**http_scope("/ws"), "type": "websocket"}
    del scope["method"]

    await drive(around(app, lambda scope: annotate(scope, master="acme")), scope)

    assert [(each.status, each.master) for each in seen] == [(101, "acme")]
