"""Keys by the model that a request names."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    Exchange,
    ExchangeMiddleware,
    Models,
    Policy,
    RateLimitMiddleware,
    Settings,
    TokenPulse,
    annotate,
    keys,
    requests_to,
)

from ...support.apps import answering
from ...support.asgi import Answer, drive, http_scope

pytestmark = pytest.mark.anyio


async def post(
    app: ASGIApp, model: object = None, *, path: str = "/", body: bytes | None = None, **more: Any
) -> Answer:
    """Send a POST request whose JSON body names `model`, in two parts."""
    text = json.dumps({"messages": [], "model": model}).encode() if body is None else body
    parts = (text[:7], text[7:])
    received = [
        {"type": "http.request", "body": part, "more_body": part is parts[0]} for part in parts
    ]
    return await drive(app, http_scope(path, **{"method": "POST", **more}), received=received)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond with the body of the request."""
    await JSONResponse(await Request(scope, receive).json())(scope, receive, send)


async def test_each_model_has_its_own_limit_and_the_body_is_unchanged() -> None:
    """Other names of a model, and its versions, are the same key."""
    app = RateLimitMiddleware(echo, limit="1/minute", key=keys.model())

    first = await post(app, "gpt-5-mini")
    assert (first.status, json.loads(first.body)) == (200, {"messages": [], "model": "gpt-5-mini"})
    for name in ("gpt-5-mini", "GPT-5-mini", "openai/gpt-5-mini-2025-08-07"):
        assert (await post(app, name)).status == 429
    assert (await post(app, "gpt-5")).status == 200


@pytest.mark.parametrize(
    "request_of_client",
    [
        {"body": b'{"prompt":"' + b"x" * 70_000 + b'","model":"gpt-5"}'},
        {"body": b'\xef\xbb\xbf{"model":"gpt-5"}'},
        {"body": b'{"model":null}'},
        {"body": b""},
        {"model": "m\x00"},
        {"model": "x" * 300},
        {"model": "gpt-5", "headers": [(b"content-type", b"text/plain")], "body": b"model=gpt-5"},
        {"body": b"", "method": "DELETE"},
    ],
)
async def test_no_form_of_a_request_avoids_the_limit(request_of_client: dict[str, Any]) -> None:
    """Requests without a known model share one key."""
    app = RateLimitMiddleware(answering(b""), limit="1/minute", key=keys.model())
    await post(app, body=b"[]")

    assert (await post(app, **request_of_client)).status == 429


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_requests_that_reach_no_model_are_not_limited(method: str) -> None:
    """Lists of models and pages do not use the budget of a model."""
    app = RateLimitMiddleware(answering(b""), limit="1/minute", key=keys.model())

    assert [(await drive(app, http_scope(method=method))).status for _ in range(3)] == [200] * 3


async def test_websocket_has_the_key_of_unknown_models() -> None:
    """The messages that may name a model come after the handshake."""
    seen: list[Hashable | None] = []
    key = keys.model()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(key(scope))

    limited = RateLimitMiddleware(app, limit="9/minute", key=key)
    await drive(limited, {"type": "websocket", "path": "/", "headers": [], "client": None})

    assert seen == ["unknown"]


async def test_model_of_the_path_precedes_that_of_the_body() -> None:
    """Such vendors ignore the body, which is not read then."""
    app = RateLimitMiddleware(echo, limit="1/minute", key=keys.model())
    path = "/v1beta/models/gemini-2.0-flash-001:generateContent"
    await post(app, "gemini-2.0-flash")

    assert (await post(app, "other-model", path=path)).status == 429


async def test_annotated_model_precedes_that_of_the_request() -> None:
    """A middleware of the application may know better which model responds."""

    async def routing(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, model="gpt-5")
        await limited(scope, receive, send)

    limited = RateLimitMiddleware(answering(b""), limit="1/minute", key=keys.model())

    assert [(await post(routing, name)).status for name in ("a", "b")] == [200, 429]


async def test_declared_models_and_aliases_are_the_keys() -> None:
    """All other models share one key, so that invented names share a limit."""
    models = Models(["gpt-5"], aliases={"prod-*": "gpt-5"})
    app = RateLimitMiddleware(answering(b""), limit="1/minute", key=keys.model(models))

    statuses = [(await post(app, name)).status for name in ("gpt-5", "prod-chat", "a", "b")]

    assert statuses == [200, 429, 200, 429]


async def test_combined_key_limits_each_model_of_each_tenant() -> None:
    """A combination reads the model if one of its keys needs it."""

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant=scope["path"])
        await limited(scope, receive, send)

    key = keys.combine(keys.annotation("tenant"), keys.model())
    limited = RateLimitMiddleware(answering(b""), limit="1/minute", key=key)

    assert (await post(authenticated, "gpt-5", path="/a")).status == 200
    assert (await post(authenticated, "gpt-5", path="/a")).status == 429
    assert (await post(authenticated, "o3", path="/a")).status == 200
    assert (await post(authenticated, "gpt-5", path="/b")).status == 200


async def test_condition_on_models_limits_these_models_only() -> None:
    """A limit for expensive models counts what it cannot recognize, too."""
    when = requests_to("/v1/*", methods=["POST"], models=["gpt-5*", "claude-opus-*"])
    app = RateLimitMiddleware(answering(b""), policies=[Policy("1/minute", when=when)])

    async def statuses(*names: object) -> list[int]:
        return [(await post(app, name, path="/v1/chat")).status for name in names]

    assert await statuses("gpt-4o", "gpt-4o", "claude-sonnet-5") == [200, 200, 200]
    assert await statuses("gpt-5-mini", "openai/GPT-5", "gpt-4o") == [200, 429, 200]
    assert await statuses(None, "gpt\x005", "us.anthropic.claude-opus-4-1-v1:0") == [429] * 3
    assert (await post(app, "gpt-5", path="/v2/chat")).status == 200
    assert (await drive(app, http_scope("/v1/models"))).status == 200


async def test_condition_on_models_without_methods_ignores_reads() -> None:
    """A request that reaches no model has none, and does not match."""
    when = requests_to("/v1/*", models=["gpt-5*"])
    app = RateLimitMiddleware(answering(b""), policies=[Policy("1/minute", when=when)])

    assert [(await drive(app, http_scope("/v1/models"))).status for _ in range(2)] == [200, 200]
    assert [(await post(app, "gpt-5", path="/v1/chat")).status for _ in range(2)] == [200, 429]


async def test_limit_that_is_awaited_counts_by_model() -> None:
    """The model is read before a plan is loaded or a storage is asked."""

    async def rate(model: Hashable) -> str | None:
        return "1/minute" if model == "o3" else None

    app = RateLimitMiddleware(answering(b""), policies=[Policy(rate, key=keys.model())])

    assert [(await post(app, name)).status for name in ("o3", "o3", "o4", "o4")] == [
        200,
        429,
        200,
        200,
    ]


async def test_second_limit_uses_the_model_that_the_first_has_read() -> None:
    """The body is read once, also by nested middleware."""
    inner = RateLimitMiddleware(echo, limit="1/minute", key=keys.model())
    outer = RateLimitMiddleware(inner, limit="9/minute", key=keys.model())

    assert [(await post(outer, "o3")).status for _ in range(2)] == [200, 429]


async def test_exchange_has_the_model_that_the_limit_has_read() -> None:
    """A response that names no model is that of the requested one."""
    seen: list[Exchange] = []
    usage = b'{"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
    app = answering(usage, headers=[(b"content-type", b"application/json")])
    limited = RateLimitMiddleware(app, limit="9/minute", key=keys.model())

    await post(ExchangeMiddleware(limited, observers=[seen.append]), "gpt-5")

    assert [(exchange.model, exchange.model_source) for exchange in seen] == [("gpt-5", "request")]


def test_token_limit_by_model_counts_the_usage() -> None:
    """A policy of an installed gateway reads the model, and its tokens are settled."""

    async def chat(request: Request) -> JSONResponse:
        return JSONResponse({"usage": {"prompt_tokens": 60, "completion_tokens": 0}})

    app = Starlette(routes=[Route("/chat", chat, methods=["POST"])])
    policy = Policy("100/minute", name="tokens", key=keys.model(), tokens=1)
    TokenPulse(policies=[policy], settings=Settings(alerts=False)).install(app)
    client = TestClient(app)

    statuses = [client.post("/chat", json={"model": "o3"}).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert client.post("/chat", json={"model": "gpt-5"}).status_code == 200


def test_limit_at_a_route_uses_the_model_of_the_body() -> None:
    """FastAPI has read the body before it calls dependencies."""
    app = FastAPI()
    pulse = TokenPulse(limit=None, settings=Settings(alerts=False))
    pulse.install(app)
    limit = pulse.limit("1/minute", key=keys.model())

    @app.post("/chat", dependencies=[Depends(limit)])
    async def chat(body: dict[str, str]) -> PlainTextResponse:
        return PlainTextResponse(body["model"])

    client = TestClient(app)
    statuses = [client.post("/chat", json={"model": name}).status_code for name in ("a", "b", "a")]
    assert statuses == [200, 200, 429]


def test_models_of_another_type_are_rejected() -> None:
    """A list would have no aliases and no bound."""
    with pytest.raises(ValueError, match=r"^models must be a Models\(\.\.\.\), got \['gpt-5'\]"):
        keys.model(["gpt-5"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ("gpt-5", "^models must be a list of strings"),
        ([], "^models must not be empty: leave it out for all models"),
        (["gpt 5"], "^model must be the name of a model or a pattern"),
    ],
)
def test_invalid_models_of_a_condition_are_rejected(models: Any, message: str) -> None:
    """An error names the argument and what is valid."""
    with pytest.raises(ValueError, match=message):
        requests_to("/v1/*", models=models)
