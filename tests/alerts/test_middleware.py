"""AlertMiddleware with an engine."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import AlertEngine, AlertMiddleware, annotate
from tokenpulse_mw.alerts import Finding

from ..support.apps import answering
from ..support.asgi import drive, http_scope


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
