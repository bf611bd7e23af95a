"""Keys by annotations."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, RateLimitMiddleware, annotate, keys

from ...support.apps import KeyRecorder, answering
from ...support.asgi import drive, http_scope


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential", "provider", "model"])
@pytest.mark.anyio
async def test_annotation_is_the_key(field: str) -> None:
    """A long annotation is shortened; without an annotation the key is None."""
    seen: list[object] = []
    recorder = KeyRecorder(answering(), key=keys.annotation(field), seen=seen)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **{field: scope["path"].strip("/")})
        await recorder(scope, receive, send)

    for path in ("/acme", "/", "/" + "x" * 1000):
        await drive(ExchangeMiddleware(app), http_scope(path))
    await drive(ExchangeMiddleware(recorder))

    name, empty, long, unannotated = seen
    assert (name, empty, unannotated) == ("acme", None, None)
    assert isinstance(long, str)
    assert len(long) < 300


def test_key_without_an_exchange_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The key is None, and the warning states the fix."""
    key = keys.annotation("tenant")

    assert [key(http_scope()), key(http_scope())] == [None, None]
    (record,) = caplog.records
    assert record.name == "tokenpulse_mw.ratelimit"
    assert record.message == (
        "keys.annotation('tenant') found no exchange and no annotation, so no request is limited: "
        "call annotate() in a middleware outside the rate limit, or give the policy to "
        "TokenPulse(inner_policies=[...])"
    )


@pytest.mark.anyio
async def test_annotation_outside_the_exchange_is_the_key() -> None:
    """A middleware outside the exchange may annotate, such as one that authenticates."""
    seen: list[object] = []
    exchanges: list[Exchange] = []
    recorder = KeyRecorder(answering(), key=keys.annotation("tenant"), seen=seen)
    observed = ExchangeMiddleware(recorder, observers=[exchanges.append])

    async def authenticating(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant="acme")
        await observed(scope, receive, send)

    await drive(authenticating)

    assert seen == ["acme"]
    assert [exchange.tenant for exchange in exchanges] == ["acme"]


@pytest.mark.anyio
async def test_annotation_without_an_exchange_is_the_key(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The annotation None is valid and not logged."""
    seen: list[object] = []
    recorder = KeyRecorder(answering(), key=keys.annotation("tenant"), seen=seen)

    for tenant in ("acme", None):
        scope = http_scope()
        annotate(scope, tenant=tenant)
        await drive(recorder, scope)

    assert seen == ["acme", None]
    assert not caplog.records


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential"])
@pytest.mark.anyio
async def test_late_annotation_is_logged_once(field: str, caplog: pytest.LogCaptureFixture) -> None:
    """An endpoint annotates after the limit was evaluated, so no request is limited."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        annotations: dict[str, Any] = {field: "acme"}
        annotate(scope, **annotations)
        await answering()(scope, receive, send)

    app = ExchangeMiddleware(
        RateLimitMiddleware(endpoint, limit="1/day", key=keys.annotation(field))
    )
    responses = [await drive(app) for _ in range(3)]

    assert [response.status for response in responses] == [200, 200, 200]
    assert caplog.messages == [
        f"keys.annotation('{field}') was evaluated before the application annotated it, so "
        "no request is limited: call annotate() in a middleware outside the rate limit, or give "
        "the policy to TokenPulse(inner_policies=[...])"
    ]


@pytest.mark.parametrize("field", ["tenant", "provider"])
@pytest.mark.anyio
async def test_missing_annotation_is_not_logged(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Anonymous requests have no tenant, and a provider may follow from the path."""
    app = ExchangeMiddleware(RateLimitMiddleware(answering(), key=keys.annotation(field)))

    for _ in range(150):
        assert (await drive(app, http_scope("/claude/chat"))).status == 200
    assert not caplog.records


@pytest.mark.parametrize("field", ["master", "", "usage", None])
def test_unknown_field_is_rejected(field: str) -> None:
    """The error lists the fields."""
    with pytest.raises(
        ValueError, match="field must be one of tenant, api_key, credential, provider"
    ):
        keys.annotation(field)
