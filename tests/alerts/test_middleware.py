"""AlertMiddleware: an application watched by an engine."""

from __future__ import annotations

import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw import AlertEngine, AlertMiddleware, annotate
from tokenpulse_mw.alerts import Finding

from ..support.apps import answering
from ..support.asgi import drive, http_scope


@pytest.mark.anyio
async def test_an_application_that_fails_ten_times_is_an_error_spike() -> None:
    """The middleware lets the engine see every request, and the engine judges them."""
    engine = AlertEngine(sinks=[])
    app = AlertMiddleware(answering(status=500), engine=engine)

    for _ in range(10):
        await drive(app)

    events = await engine.evaluate()
    assert [(each.transition, each.fingerprint) for each in events] == [
        ("fired", "error_spike:system:0")
    ]
    assert events[0].finding.metadata == {"requests": 10, "errors": 10, "threshold": 0.1}


@pytest.mark.anyio
async def test_alerts_are_about_whom_the_application_annotates() -> None:
    """The upstream's credential, and a tenant's key whose failures are its own.

    A key that only fares as its upstream does has none: that says no more.
    """
    engine = AlertEngine(sinks=[])

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k1", credential="c1", provider="claude")
        await answering(status=502)(scope, receive, send)

    async def no_upstream(scope: Scope, receive: Receive, send: Send) -> None:
        annotate(scope, api_key="k2")
        await answering(status=500)(scope, receive, send)

    for _ in range(10):
        await drive(AlertMiddleware(app, engine=engine), http_scope("/v1/messages"))
        await drive(AlertMiddleware(no_upstream, engine=engine), http_scope("/v1/tools"))

    events = await engine.evaluate()
    assert {each.fingerprint for each in events} == {
        "error_spike:key:k2",
        "provider_down:apikey:c1",
    }


@pytest.mark.anyio
async def test_an_application_that_works_gets_no_alert() -> None:
    """Answers pass unchanged, and there is nothing to tell of them."""
    engine = AlertEngine(sinks=[])
    app = AlertMiddleware(answering(b"fine"), engine=engine)

    answers = [await drive(app) for _ in range(10)]

    assert {(each.status, each.body) for each in answers} == {(200, b"fine")}
    assert await engine.evaluate() == []
    assert engine.firing == list[Finding]()
