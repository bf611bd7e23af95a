"""annotate(): what only the application knows."""

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

CHAT = b'{"usage":{"prompt_tokens":3,"completion_tokens":5}}'


async def annotated(app: ASGIApp | None = None, *observers: HttpMetrics, **said: Any) -> Exchange:
    """The exchange of which the application has said this."""
    inner, seen = app or answering(), list[Exchange]()

    async def saying(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **said)
        await inner(scope, receive, send)

    await drive(
        ExchangeMiddleware(saying, observers=[seen.append, *observers]),
        http_scope("/x", method="POST"),
    )
    return seen[0]


@pytest.mark.anyio
async def test_what_the_application_says_is_in_the_exchange() -> None:
    """Tenant, key, credential, model and usage are recorded as annotated."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(Request(scope), tenant="acme", api_key=7)  # type: ignore[arg-type]
        annotate(scope, credential="c1", model="opus", usage=TokenUsage(1, 2))
        await answering()(scope, receive, send)

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    (exchange,) = seen
    assert (exchange.tenant, exchange.api_key, exchange.credential) == ("acme", "7", "c1")
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
        annotate(scope, tenant="late")

    await drive(ExchangeMiddleware(app, observers=[seen.append]))

    assert seen[0].tenant is None


def test_annotating_without_a_middleware_changes_nothing_that_others_see() -> None:
    """An application runs the same with and without us around it."""
    scope = http_scope()

    annotate(scope, provider="claude")

    assert {name: scope[name] for name in http_scope()} == http_scope()


class Vendor(str, Enum):  # noqa: UP042 - as many write it, and written otherwise
    """Providers, as path parameters of FastAPI are often declared."""

    CLAUDE = "claude"


@pytest.mark.anyio
async def test_members_of_an_enum_are_their_values() -> None:
    """However they would be written, which is up to the Enum."""
    exchange = await annotated(provider=Vendor.CLAUDE, tenant=Vendor.CLAUDE)

    assert (type(exchange.provider), exchange.provider) == (str, "claude")
    assert (type(exchange.tenant), exchange.tenant) == (str, "claude")


@pytest.mark.anyio
async def test_nothing_said_is_nothing_heard() -> None:
    """An empty name does not hide what the answer says."""
    exchange = await annotated(
        answering(headers=[(b"x-tokenpulse-provider", b"codex")]), provider="", model=""
    )

    assert (exchange.provider, exchange.model) == ("codex", None)


class Unspeakable:
    """What has no text."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "said",
    [
        {"usage": TokenUsage(input=-5)},
        {"usage": TokenUsage(output=2**60)},
        {"usage": TokenUsage(input=10**9, output=1)},
        {"usage": TokenUsage(input=float("nan"))},  # type: ignore[arg-type]
        {"usage": {"input": 5}},
        {"tenant": Unspeakable()},
    ],
    ids=["below 0", "beyond counting", "a sum beyond counting", "no number", "no usage", "no text"],
)
@pytest.mark.anyio
async def test_what_cannot_be_told_is_reported_and_harms_nobody(
    said: dict[str, Any], metrics: HttpMetrics, caplog: pytest.LogCaptureFixture
) -> None:
    """The request goes on, and what its answer says of its usage counts."""
    exchange = await annotated(answering(CHAT), metrics, **said)

    assert exchange.usage == TokenUsage(3, 5)
    assert exchange.tenant is None
    name = "tokenpulse_internal_errors_total"
    assert metrics.registry.get_sample_value(name, {"component": "annotate"}) == 1
    assert len(caplog.records) == 1


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential", "model"])
@pytest.mark.anyio
async def test_what_is_long_is_known_by_its_beginning_and_a_hash(field: str) -> None:
    """Names that tenants choose are remembered, and must not fill memory."""
    longest, longer = "x" * 256, "x" * 60_000
    recorded = [
        getattr(await annotated(None, **{field: said}), field)
        for said in (longest, longer, longer + "1", longer, "\ud800" * 300)
    ]

    assert recorded[0] == longest
    assert recorded[1] == recorded[3] != recorded[2]
    assert [each[:256] for each in recorded[1:3]] == [longest, longest]
    assert max(map(len, recorded)) == 289


@given(text=st.text(max_size=300))
def test_no_short_name_is_taken_for_a_long_one(text: str) -> None:
    """Nobody can call itself as another one is known."""
    assert (truncate_with_hash(text) == text) == (len(text) <= MAX_TEXT_CHARS)
    assert len(truncate_with_hash(text)) <= MAX_TEXT_CHARS or len(text) > MAX_TEXT_CHARS


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
        annotate(scope, api_key="k2")
        await answering()(scope, receive, send)

    def say(scope: Scope) -> None:
        annotate(scope, tenant="acme", provider="claude")
        annotate(scope, api_key="k1", usage=TokenUsage(input=3))

    await drive(around(ExchangeMiddleware(endpoint, observers=[seen.append]), say))

    (exchange,) = seen
    assert (exchange.tenant, exchange.api_key, exchange.provider) == ("acme", "k2", "claude")
    assert (exchange.usage, exchange.usage_source) == (TokenUsage(input=3), "reported")


@pytest.mark.anyio
async def test_what_is_said_of_one_request_is_not_said_of_the_next() -> None:
    """It lives in the scope."""
    seen: list[Exchange] = []
    app = ExchangeMiddleware(answering(), observers=[seen.append])

    await drive(around(app, lambda scope: annotate(scope, tenant="acme")))
    await drive(app)

    assert [each.tenant for each in seen] == ["acme", None]


@pytest.mark.anyio
async def test_what_cannot_be_told_is_reported_when_the_exchange_begins(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As if it had been said within; the request, and the rest of what was said, go on."""
    failed: list[str] = []

    class Counts:
        def __call__(self, exchange: Exchange) -> None:
            assert exchange.tenant == "acme"

        def on_error(self, component: str) -> None:
            failed.append(component)

    def say(scope: Scope) -> None:
        annotate(scope, tenant="acme")
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

    await drive(around(app, lambda scope: annotate(scope, tenant="acme")), scope)

    assert [(each.status, each.tenant) for each in seen] == [(101, "acme")]
