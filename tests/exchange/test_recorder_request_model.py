"""Models that only requests name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, Models, Providers, annotate

from ..support.apps import WORDS, answering, event, streaming
from ..support.asgi import drive, http_scope

pytestmark = pytest.mark.anyio

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
SILENT = json.dumps({"usage": USAGE}).encode()
NAMED = json.dumps({"model": "gpt-5-2025-08-07", "usage": USAGE}).encode()


def reading(app: ASGIApp) -> ASGIApp:
    """Return an application that reads the request before it responds as `app`."""

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).body()
        await app(scope, receive, send)

    return read


def parts(*bodies: Any) -> list[Message]:
    """Return the messages of a request whose body has these parts."""
    messages: list[Message] = [
        {"type": "http.request", "body": body, "more_body": True} for body in bodies
    ]
    messages[-1]["more_body"] = False
    return messages


async def observe(
    app: ASGIApp,
    *bodies: Any,
    path: str = "/chat",
    method: str = "POST",
    request_model: bool = True,
    providers: Providers | None = None,
) -> Exchange:
    """Return the exchange of a request to `app` whose body has these parts."""
    seen: list[Exchange] = []
    measured = ExchangeMiddleware(
        app, observers=[seen.append], request_model=request_model, provider=providers
    )
    await drive(measured, http_scope(path, method=method), received=parts(*bodies))
    [exchange] = seen
    return exchange


@pytest.mark.parametrize(
    ("response", "model", "source"),
    [(NAMED, "gpt-5-2025-08-07", "response"), (SILENT, "gpt-5", "request")],
)
async def test_model_of_the_response_precedes_that_of_the_request(
    response: bytes, model: str, source: str
) -> None:
    """The request is used if the response names no model."""
    exchange = await observe(reading(answering(response)), b'{"mod', b'el":"gpt-5"}')

    assert (exchange.model, exchange.model_source) == (model, source)
    assert Models().label_of(exchange) == "gpt-5"


async def test_annotated_model_precedes_both() -> None:
    """The application knows which model has responded."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, model="o3")
        await reading(answering(NAMED))(scope, receive, send)

    exchange = await observe(app, b'{"model":"gpt-5"}')

    assert (exchange.model, exchange.model_source) == ("o3", "annotation")


async def test_model_of_the_path_precedes_that_of_the_body() -> None:
    """Bedrock names the model in the path, and ignores other keys of the body."""
    path = "/model/amazon.nova-pro-v1:0/converse"

    exchange = await observe(reading(answering(SILENT)), b'{"model":"gpt-5"}', path=path)

    assert (exchange.model, exchange.model_source) == ("amazon.nova-pro-v1:0", "request")


async def test_body_is_not_kept_by_default() -> None:
    """Without the option, a body costs nothing, and the path still names the model."""
    body = b'{"model":"gpt-5"}'
    path = "/v1beta/models/gemini-2.0-flash:generateContent"

    assert (await observe(reading(answering(SILENT)), body, request_model=False)).model is None
    exchange = await observe(reading(answering(SILENT)), body, request_model=False, path=path)
    assert exchange.model == "gemini-2.0-flash"


@pytest.mark.parametrize(
    "bodies",
    [
        (b'{"prompt":"' + b"x" * 70_000, b'","model":"gpt-5"}'),
        (b'{"prompt":"', *[b"x"] * 600, b'","model":"gpt-5"}'),
        (b"", b"[]"),
    ],
)
async def test_model_after_the_kept_part_is_not_found(bodies: tuple[bytes, ...]) -> None:
    """At most 64 KiB in 512 pieces are kept."""
    exchange = await observe(reading(answering(SILENT)), *bodies)

    assert (exchange.model, exchange.model_source) == (None, None)


async def test_mutable_parts_are_copied() -> None:
    """The application may reuse its buffer, as some servers do."""
    body = bytearray(b'{"model":"gpt-5"}')

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        body[:] = b" " * len(body)
        await answering(SILENT)(scope, receive, send)

    assert (await observe(app, body)).model == "gpt-5"


async def test_malformed_message_reaches_the_application(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A server that breaks the protocol does not fail the request here."""
    received: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.append(await receive())
        await answering(SILENT)(scope, receive, send)

    exchange = await observe(app, "text")

    assert received[0]["body"] == "text"
    assert (exchange.status, exchange.model) == (200, None)
    assert "exchange failed with TypeError" in caplog.text


async def test_failure_has_the_provider_of_the_requested_model() -> None:
    """Errors name no model, and `provider_down` counts failures by provider."""
    body = b'{"model":"claude-sonnet-4-5"}'
    app = reading(answering(b"{}", status=503))

    exchange = await observe(app, body, providers=Providers(["openai", "claude"]))

    assert (exchange.provider, exchange.model) == ("claude", "claude-sonnet-4-5")
    assert (await observe(app, body, providers=Providers(["openai", "xai"]))).provider == "unknown"


async def test_requested_model_makes_no_response_that_of_a_model() -> None:
    """An application may have models of its own, such as cars."""
    exchange = await observe(reading(answering(b'{"id":1}')), b'{"model":"gpt-5"}')

    assert (exchange.provider, exchange.model) == ("unknown", None)
    assert exchange.usage_source is None


@pytest.mark.parametrize("path", ["/chat", "/codex/chat"])
async def test_path_precedes_the_requested_model_as_the_provider(path: str) -> None:
    """A request can name any model."""
    app = reading(answering(b"{}", status=500))

    exchange = await observe(app, b'{"model":"claude-opus-4-8"}', path=path)

    assert exchange.provider == ("codex" if path != "/chat" else "claude")


async def test_inner_middleware_can_ask_for_the_model() -> None:
    """Stacked middlewares share one recorder, which has the options of all."""
    seen: list[Exchange] = []
    inner = ExchangeMiddleware(
        reading(streaming([*WORDS, event(choices=[], usage=USAGE)])), request_model=True
    )
    outer = ExchangeMiddleware(inner, observers=[seen.append])

    await drive(outer, http_scope(method="POST"), received=parts(b'{"model":"gpt-5"}'))

    assert [exchange.model for exchange in seen] == ["gpt-5"]


async def test_disconnect_while_the_body_is_read_is_recorded() -> None:
    """The option changes neither messages nor outcomes."""
    seen: list[Exchange] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    measured = ExchangeMiddleware(app, observers=[seen.append], request_model=True)
    await drive(measured, http_scope(method="POST"), received=parts(b'{"mod', b"el")[:1])

    assert [(exchange.outcome, exchange.status) for exchange in seen] == [
        ("client_disconnect", 499)
    ]
