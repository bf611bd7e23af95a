"""The key of a limit by annotation."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import Exchange, ExchangeMiddleware, RateLimitMiddleware, annotate, keys

from ...support.apps import Asks, answering
from ...support.asgi import drive, http_scope


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential", "provider", "model"])
@pytest.mark.anyio
async def test_what_the_application_annotated_can_be_the_key(field: str) -> None:
    """It is asked inside of whoever annotates; before that, and where nothing is, there is none."""
    seen: list[object] = []
    asks = Asks(answering(), key=keys.annotation(field), seen=seen)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, **{field: scope["path"].strip("/")})
        await asks(scope, receive, send)

    for path in ("/acme", "/", "/" + "x" * 1000):
        await drive(ExchangeMiddleware(app), http_scope(path))
    await drive(ExchangeMiddleware(asks))

    name, nothing, long, unannotated = seen
    assert (name, nothing, unannotated) == ("acme", None, None)
    assert isinstance(long, str)
    assert len(long) < 300


def test_a_limit_by_annotation_that_no_exchange_surrounds_is_told_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It limits no request, and the log says what to do."""
    key = keys.annotation("tenant")

    assert [key(http_scope()), key(http_scope())] == [None, None]
    (record,) = caplog.records
    assert record.name == "tokenpulse_mw.ratelimit"
    assert record.message == (
        "keys.annotation('tenant') found no exchange and no annotation, so it limits "
        "no request: call "
        "annotate() in a middleware that stands outside of the rate limit"
    )


@pytest.mark.anyio
async def test_whoever_annotates_may_stand_outside_of_the_exchange() -> None:
    """Such as a middleware that authenticates, and was added to the application last."""
    seen: list[object] = []
    exchanges: list[Exchange] = []
    asks = Asks(answering(), key=keys.annotation("tenant"), seen=seen)
    observed = ExchangeMiddleware(asks, observers=[exchanges.append])

    async def authenticating(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant="acme")
        await observed(scope, receive, send)

    await drive(authenticating)

    assert seen == ["acme"]
    assert [each.tenant for each in exchanges] == ["acme"]


@pytest.mark.anyio
async def test_no_exchange_is_needed_where_it_is_annotated_before(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A rate limit alone knows the tenant too, and a stranger is no mistake."""
    seen: list[object] = []
    asks = Asks(answering(), key=keys.annotation("tenant"), seen=seen)

    for tenant in ("acme", None):
        scope = http_scope()
        annotate(scope, tenant=tenant)
        await drive(asks, scope)

    assert seen == ["acme", None]
    assert not caplog.records


@pytest.mark.parametrize("field", ["tenant", "api_key", "credential"])
@pytest.mark.anyio
async def test_a_key_that_is_told_too_late_is_warned_of_once(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An endpoint is inside of the limit: what it annotates comes when the limit was asked."""

    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        facts: dict[str, Any] = {field: "acme"}
        annotate(scope, **facts)
        await answering()(scope, receive, send)

    app = ExchangeMiddleware(
        RateLimitMiddleware(endpoint, limit="1/day", key=keys.annotation(field))
    )
    answers = [await drive(app) for _ in range(3)]

    assert [each.status for each in answers] == [200, 200, 200]
    assert caplog.messages == [
        f"keys.annotation('{field}') was evaluated before the application annotated it, so "
        "it limits no request: call annotate() in a middleware that stands outside of the rate "
        "limit"
    ]


@pytest.mark.parametrize("field", ["tenant", "provider"])
@pytest.mark.anyio
async def test_who_is_never_told_is_no_mistake(
    field: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Strangers have no tenant; and the provider is told by the path as well, where it is not."""
    app = ExchangeMiddleware(RateLimitMiddleware(answering(), key=keys.annotation(field)))

    for _ in range(150):
        assert (await drive(app, http_scope("/claude/chat"))).status == 200
    assert not caplog.records


@pytest.mark.parametrize("field", ["master", "", "usage", None])
def test_what_cannot_be_annotated_is_refused(field: str) -> None:
    """The error says what can be."""
    with pytest.raises(
        ValueError, match="field must be one of tenant, api_key, credential, provider"
    ):
        keys.annotation(field)
