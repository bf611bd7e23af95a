"""Annotations of exchanges by the application."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, HttpMetrics, TokenUsage, annotate
from tokenpulse_mw.exchange import MAX_TEXT_CHARS, truncate_with_hash

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from .routes import websocket_scope

CHAT = b'{"usage":{"prompt_tokens":3,"completion_tokens":5}}'


async def exchange_annotated_with(
    app: ASGIApp | None = None, *observers: HttpMetrics, **facts: Any
) -> Exchange:
    """Return the exchange of a request whose application annotates `facts`."""
    inner, seen = app or answering(), list[Exchange]()

    async def annotating(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **facts)
        await inner(scope, receive, send)

    await drive(
        ExchangeMiddleware(annotating, observers=[seen.append, *observers]),
        http_scope("/x", method="POST"),
    )
    return seen[0]


@pytest.mark.anyio
async def test_annotated_facts_are_in_the_exchange() -> None:
    """Tenant, key, credential, model and usage are recorded as annotated."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(Request(scope), tenant="acme", tenant_name="Acme", api_key=7)  # type: ignore[arg-type]
        annotate(scope, credential="c1", credential_group="claude-prod")
        annotate(scope, model="opus", usage=TokenUsage(1, 2))
        await answering()(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    (exchange,) = seen
    assert (exchange.tenant, exchange.tenant_name) == ("acme", "Acme")
    assert (exchange.api_key, exchange.credential) == ("7", "c1")
    assert exchange.credential_group == "claude-prod"
    assert (exchange.model, exchange.usage) == ("opus", TokenUsage(1, 2))
    assert exchange.usage_source == "reported"


@pytest.mark.anyio
async def test_annotated_usage_and_model_override_the_metered_ones() -> None:
    """Usage and model of the response do not replace annotated ones."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, model="mine", usage=TokenUsage(7, 7))
        body = b'{"model":"theirs","usage":{"prompt_tokens":1,"completion_tokens":1}}'
        await answering(body)(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope(method="POST"))

    assert (seen[0].model, seen[0].usage) == ("mine", TokenUsage(7, 7))


@pytest.mark.parametrize(
    ("provider", "recorded"), [("gemini", "gemini"), ("Gemini ", "gemini"), ("homegrown", "other")]
)
@pytest.mark.anyio
async def test_annotated_provider_overrides_every_other_source(
    provider: str, recorded: str
) -> None:
    """An annotated provider overrides the response header and the path, and must be declared."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, provider=provider)
        await answering(headers=[(b"x-tokenpulse-provider", b"codex")])(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]), http_scope("/claude/v1"))

    assert seen[0].provider == recorded


@pytest.mark.anyio
async def test_annotation_after_the_end_is_ignored() -> None:
    """An annotation after the end of the response does not change the exchange."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answering()(scope, receive, send)
        annotate(scope, tenant="late")

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert seen[0].tenant is None


def test_annotation_without_a_middleware_leaves_the_scope_unchanged() -> None:
    """Without a middleware, an annotation changes no key that a server sets."""
    scope = http_scope()

    annotate(scope, provider="claude")

    assert {name: scope[name] for name in http_scope()} == http_scope()


class Vendor(str, Enum):  # noqa: UP042 - the form that many applications use
    """Providers as an Enum, as path parameters of FastAPI often are."""

    CLAUDE = "claude"


@pytest.mark.anyio
async def test_annotated_enum_member_is_recorded_as_its_value() -> None:
    """A member of an Enum is recorded by its value, not by its `str`."""
    exchange = await exchange_annotated_with(provider=Vendor.CLAUDE, tenant=Vendor.CLAUDE)

    assert (type(exchange.provider), exchange.provider) == (str, "claude")
    assert (type(exchange.tenant), exchange.tenant) == (str, "claude")


@pytest.mark.anyio
async def test_annotated_empty_string_is_ignored() -> None:
    """An empty name does not hide the provider that the response header names."""
    exchange = await exchange_annotated_with(
        answering(headers=[(b"x-tokenpulse-provider", b"codex")]), provider="", model=""
    )

    assert (exchange.provider, exchange.model) == ("codex", None)


class Unprintable:
    """An object whose `str` raises."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "facts",
    [
        {"usage": TokenUsage(input=-5)},
        {"usage": TokenUsage(output=2**60)},
        {"usage": TokenUsage(input=10**9, output=1)},
        {"usage": TokenUsage(input=float("nan"))},  # type: ignore[arg-type]
        {"usage": {"input": 5}},
        {"tenant": Unprintable()},
    ],
    ids=["negative", "implausible", "implausible sum", "NaN", "dict", "not printable"],
)
@pytest.mark.anyio
async def test_invalid_annotation_is_reported_and_the_request_continues(
    facts: dict[str, Any], metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """An invalid annotation is logged and counted, and the metered usage is recorded."""
    exchange = await exchange_annotated_with(answering(CHAT), metrics, **facts)

    assert exchange.usage == TokenUsage(3, 5)
    assert exchange.tenant is None
    name = "tokenpulse_internal_errors_total"
    assert metrics.registry.get_sample_value(name, {"component": "annotate"}) == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "field", ["tenant", "tenant_name", "api_key", "credential", "credential_group", "model"]
)
@pytest.mark.anyio
async def test_long_annotation_is_truncated_with_a_hash(field: str) -> None:
    """A text longer than 256 characters is recorded as its beginning and a hash of it."""
    accepted, truncated = "x" * 256, "x" * 60_000
    recorded = [
        getattr(await exchange_annotated_with(None, **{field: text}), field)
        for text in (accepted, truncated, truncated + "1", truncated, "\ud800" * 300)
    ]

    assert recorded[0] == accepted
    assert recorded[1] == recorded[3] != recorded[2]
    assert [text[:256] for text in recorded[1:3]] == [accepted, accepted]
    assert max(map(len, recorded)) == 289


@given(text=st.text(max_size=300))
def test_truncated_text_never_equals_a_short_text(text: str) -> None:
    """A truncated text is longer than every text that is not truncated."""
    assert (truncate_with_hash(text) == text) == (len(text) <= MAX_TEXT_CHARS)
    assert len(truncate_with_hash(text)) <= MAX_TEXT_CHARS or len(text) > MAX_TEXT_CHARS


def annotated_around(app: ASGIApp, add_facts: Callable[[Scope], None]) -> ASGIApp:
    """Return an application that annotates before it calls `app`, and again afterwards."""

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        add_facts(scope)
        await app(scope, receive, send)
        add_facts(scope)

    return outer


@pytest.mark.anyio
async def test_annotation_before_the_exchange_is_recorded() -> None:
    """Facts of an outer middleware are recorded, and inner ones override them."""
    seen: list[Exchange] = []

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k2")
        await answering()(scope, receive, send)

    def add_facts(scope: Scope) -> None:
        annotate(scope, tenant="acme", provider="claude")
        annotate(scope, api_key="k1", usage=TokenUsage(input=3))

    await drive(annotated_around(ExchangeMiddleware(endpoint, observers=[seen.append]), add_facts))

    (exchange,) = seen
    assert (exchange.tenant, exchange.api_key, exchange.provider) == ("acme", "k2", "claude")
    assert (exchange.usage, exchange.usage_source) == (TokenUsage(input=3), "reported")


@pytest.mark.anyio
async def test_annotation_of_one_request_is_not_in_the_next() -> None:
    """Annotations before an exchange are kept in the scope of its request only."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(), observers=[seen.append])

    await drive(annotated_around(app, lambda scope: annotate(scope, tenant="acme")))
    await drive(app)

    assert [exchange.tenant for exchange in seen] == ["acme", None]


@pytest.mark.anyio
async def test_invalid_annotation_before_the_exchange_is_reported_at_its_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An invalid fact is reported at the start of the exchange, and valid ones are recorded."""
    components: list[str] = []

    class ErrorRecorder:
        def __call__(self, exchange: Exchange) -> None:
            assert exchange.tenant == "acme"

        def on_error(self, component: str) -> None:
            components.append(component)

    def add_facts(scope: Scope) -> None:
        annotate(scope, tenant="acme")
        annotate(scope, usage=TokenUsage(input=-1))

    response = await drive(
        annotated_around(ExchangeMiddleware(answering(), observers=[ErrorRecorder()]), add_facts)
    )

    assert response.status == 200
    assert components == ["annotate"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.anyio
async def test_annotation_before_a_websocket_handshake_is_recorded() -> None:
    """Facts of an outer middleware are recorded for WebSocket handshakes too."""
    seen: list[Exchange] = []

    async def accepting(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})

    app = ExchangeMiddleware(accepting, observers=[seen.append])
    annotated = annotated_around(app, lambda scope: annotate(scope, tenant="acme"))
    await drive(annotated, websocket_scope("/ws"))

    assert [(exchange.status, exchange.tenant) for exchange in seen] == [(101, "acme")]
