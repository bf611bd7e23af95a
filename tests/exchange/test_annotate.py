"""annotate(): what only the application knows."""

from __future__ import annotations

import pytest
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from tests.support.apps import answering
from tests.support.asgi import drive, http_scope
from tokenpulse_mw import Exchange, ExchangeMiddleware, TokenUsage, annotate


@pytest.mark.anyio
async def test_what_the_application_says_is_in_the_exchange() -> None:
    """Tenant, key, credential, model and usage are recorded as annotated."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(Request(scope), master="acme", key=7)  # type: ignore[arg-type]
        annotate(scope, credential="c1", model="opus", usage=TokenUsage(1, 2))
        await answering()(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    (exchange,) = seen
    assert (exchange.master, exchange.key, exchange.credential) == ("acme", "7", "c1")
    assert (exchange.model, exchange.usage) == ("opus", TokenUsage(1, 2))
    assert exchange.usage_source == "reported"


@pytest.mark.anyio
async def test_annotated_usage_and_model_go_before_what_is_metered() -> None:
    """The application knows better than the bytes it sends on."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, model="mine", usage=TokenUsage(7, 7))
        body = b'{"model":"theirs","usage":{"prompt_tokens":1,"completion_tokens":1}}'
        await answering(body)(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope(method="POST"))

    assert (seen[0].model, seen[0].usage) == ("mine", TokenUsage(7, 7))


@pytest.mark.parametrize(
    ("said", "recorded"), [("gemini", "gemini"), ("Gemini ", "gemini"), ("homegrown", "other")]
)
@pytest.mark.anyio
async def test_an_annotated_provider_goes_before_every_other_sign(said: str, recorded: str) -> None:
    """It beats the answer's header and the path, and is held to the declared ones."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, provider=said)
        await answering(headers=[(b"x-tokenpulse-provider", b"codex")])(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope("/claude/v1"))

    assert seen[0].provider == recorded


@pytest.mark.anyio
async def test_annotating_after_the_end_does_nothing() -> None:
    """What the application says once its answer is out can change no record."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        annotate(scope, master="late")

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert seen[0].master is None


def test_annotating_without_a_middleware_does_nothing() -> None:
    """An application runs the same with and without us around it."""
    scope = http_scope()

    annotate(scope, provider="claude")

    assert scope == http_scope()
