"""AlertMiddleware with an engine."""

from __future__ import annotations

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    AlertEngine,
    AlertEvent,
    AlertMiddleware,
    ExchangeMiddleware,
    Providers,
    RateLimitMiddleware,
    annotate,
    keys,
)
from tokenpulse_mw.alerts import Finding, Subject, Thresholds
from tokenpulse_mw.alerts.rules import high_latency, traffic_spike

from ..support.apps import answering
from ..support.asgi import drive, http_scope
from ..support.clock import FakeClock
from ..support.websockets import connect, proxy
from ..usage.sessions import response, responses_usage


@pytest.mark.anyio
async def test_ten_failed_requests_fire_an_error_spike() -> None:
    """The middleware passes every exchange to the engine."""
    engine = AlertEngine(sinks=[])
    app = AlertMiddleware(answering(status=500), engine=engine)

    for _ in range(10):
        await drive(app)

    events = await engine.evaluate()
    assert [(event.transition, event.fingerprint) for event in events] == [
        ("fired", "error_spike:system:0")
    ]
    assert events[0].finding.metadata == {"requests": 10, "errors": 10, "threshold": 0.1}


@pytest.mark.anyio
async def test_default_rules_see_requests_in_progress_and_quotas_of_providers() -> None:
    """The middleware fills those of its engine, if it has the rules."""
    engine, other = AlertEngine(sinks=[]), AlertEngine([], sinks=[])
    listed = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert engine.in_progress is not None
        listed.append(len(engine.in_progress))
        headers = [(b"x-ratelimit-remaining-requests", b"0")]
        await answering(headers=headers)(scope, receive, send)

    await drive(
        AlertMiddleware(AlertMiddleware(app, engine=other), engine=engine),
        http_scope("/chat", method="POST"),
    )

    events = await engine.evaluate()
    assert listed == [1]
    assert [(event.fingerprint, event.finding.severity) for event in events] == [
        ("upstream_quota_low:requests:provider:unknown", "critical")
    ]
    assert (other.in_progress, other.upstream) == (None, None)


@pytest.mark.anyio
async def test_annotations_name_the_subjects_of_alerts() -> None:
    """An alert names the annotated credential, or the annotated key.

    A key whose failures are those of its upstream gets no alert.
    """
    engine = AlertEngine(sinks=[])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k1", credential="c1", provider="claude")
        await answering(status=502)(scope, receive, send)

    async def app_without_upstream(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k2")
        await answering(status=500)(scope, receive, send)

    for _ in range(10):
        await drive(AlertMiddleware(app, engine=engine), http_scope("/v1/messages"))
        await drive(AlertMiddleware(app_without_upstream, engine=engine), http_scope("/v1/tools"))

    events = await engine.evaluate()
    assert {event.fingerprint for event in events} == {
        "error_spike:key:k2",
        "provider_down:apikey:c1",
    }


@pytest.mark.anyio
async def test_successful_requests_fire_no_alert() -> None:
    """Responses pass unchanged."""
    engine = AlertEngine(sinks=[])
    app = AlertMiddleware(answering(b"fine"), engine=engine)

    responses = [await drive(app) for _ in range(10)]

    assert {(response.status, response.body) for response in responses} == {(200, b"fine")}
    assert await engine.evaluate() == []
    assert engine.firing == list[Finding]()


@pytest.mark.anyio
async def test_alert_of_a_limited_tenant_has_the_name_that_authentication_annotated() -> None:
    """Title, message and subject are those of the seed."""
    engine = AlertEngine(sinks=[])
    limited = RateLimitMiddleware(answering(), limit="1/hour", key=keys.annotation("tenant"))
    measured = AlertMiddleware(limited, engine=engine)

    async def authenticated(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant=7, tenant_name="Acme")  # type: ignore[arg-type]
        await measured(scope, receive, send)

    statuses = [(await drive(authenticated)).status for _ in range(3)]

    (event,) = await engine.evaluate()
    assert statuses == [200, 429, 429]
    assert event.finding.subject == Subject("master", "7", "Acme")
    assert event.finding.title == "Master 'Acme' is rate limited"
    assert event.finding.message == (
        "Master 'Acme' (ID: 7) is currently being rate limited. Current QPS: 0.05"
    )


@pytest.mark.anyio
async def test_long_streams_with_an_early_first_byte_are_not_slow() -> None:
    """Only the provider whose first byte is late has an alert of its latency."""
    clock = FakeClock()
    engine = AlertEngine([high_latency], [], clock=clock, wall=clock)

    def streaming(provider: str, before: float, after: float) -> ASGIApp:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            annotate(scope, provider=provider)
            clock.advance(before)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
            clock.advance(after)
            await send({"type": "http.response.body", "body": b"data: 2\n\n"})

        return ExchangeMiddleware(
            app, observers=[engine.observe], provider=Providers(["early", "late"]), clock=clock
        )

    events: list[AlertEvent] = []
    for _ in range(40):
        await drive(streaming("early", 0.4, 7.6))
        await drive(streaming("late", 6.0, 2.0))
        events += await engine.evaluate()

    assert [(event.transition, event.fingerprint) for event in events][:1] == [
        ("fired", "high_latency:provider:late")
    ]
    assert {event.fingerprint for event in events} == {"high_latency:provider:late"}


@pytest.mark.anyio
async def test_tokens_over_websockets_fire_a_traffic_spike() -> None:
    """The tokens of models over WebSockets count for the tenant, and not as requests."""
    engine = AlertEngine([traffic_spike], [], thresholds=Thresholds(master_tpm=1000, master_rpm=2))
    frames = [response("response.completed", "r", responses_usage(read=500, written=100))] * 3

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, tenant="acme")
        await proxy(*frames)(scope, receive, send)

    await connect(AlertMiddleware(app, engine=engine))
    assert await engine.evaluate() == []
    await connect(AlertMiddleware(app, engine=engine, websocket_usage=True))

    events = await engine.evaluate()
    metrics = {event.fingerprint: event.finding.value for event in events}
    assert metrics["traffic_spike:master_tpm:master:acme"] == 1800


@pytest.mark.anyio
async def test_engine_is_an_observer() -> None:
    """An engine counts an exchange as `observe` does."""
    engine = AlertEngine(sinks=[])
    app = ExchangeMiddleware(answering(status=500), observers=[engine])

    for _ in range(10):
        await drive(app)

    assert [event.fingerprint for event in await engine.evaluate()] == ["error_spike:system:0"]
