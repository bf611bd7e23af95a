"""Requests that pass two TokenPulse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from tokenpulse_mw import (
    AlertEngine,
    Exchange,
    HttpMetrics,
    MetricsMiddleware,
    Policy,
    Settings,
    TokenPulse,
)


async def chat(request: Request) -> JSONResponse:
    """Return a response."""
    return JSONResponse({})


def application() -> Starlette:
    """Return an application with one route."""
    return Starlette(routes=[Route("/chat", chat)])


def mounted(inner: TokenPulse, outer: TokenPulse) -> ASGIApp:
    """Return an application with `outer`, in which one with `inner` is mounted at `/llm`."""
    below = application()
    inner.install(below)
    app = Starlette(routes=[Mount("/llm", below)])
    outer.install(app)
    return app


def mounted_wrapped(inner: TokenPulse, outer: TokenPulse) -> ASGIApp:
    """Return the same with `wrap`."""
    return outer.wrap(Starlette(routes=[Mount("/llm", inner.wrap(application()))]))


def wrapped_twice(inner: TokenPulse, outer: TokenPulse) -> ASGIApp:
    """Return an application with `inner` that `outer` wraps."""
    app = Starlette(routes=[Mount("/llm", application())])
    inner.install(app)
    return outer.wrap(app)


every_nesting = pytest.mark.parametrize("nest", [mounted, mounted_wrapped, wrapped_twice])


def samples(metrics: HttpMetrics, name: str) -> dict[str, float]:
    """Return the values of a family by its label `policy`, or else in total."""
    found: dict[str, float] = {}
    for series in metrics.registry.collect():
        for sample in series.samples:
            if sample.name == name:
                key = sample.labels.get("policy", "")
                found[key] = found.get(key, 0) + sample.value
    return found


@every_nesting
@pytest.mark.parametrize("shares", [False, True], ids=["own registries", "one registry"])
def test_request_is_counted_once_and_headers_are_sent_once(
    shares: bool, nest: Callable[[TokenPulse, TokenPulse], ASGIApp]
) -> None:
    """Each registry and each alert engine gets one exchange, and each header one line."""
    exchanges: dict[str, list[Exchange]] = {"inner": [], "outer": []}
    registry = CollectorRegistry()
    metrics = [HttpMetrics(registry if shares else CollectorRegistry()) for _ in range(2)]
    inner, outer = (
        TokenPulse(
            settings=Settings(limit="9/day"), metrics=own, observers=[exchanges[name].append]
        )
        for name, own in zip(exchanges, metrics, strict=True)
    )

    response = TestClient(nest(inner, outer)).get("/llm/chat")

    assert response.status_code == 200
    names = [name for name, _ in response.headers.multi_items()]
    assert sorted(names) == ["content-length", "content-type", "ratelimit", "ratelimit-policy"]
    assert {name: len(seen) for name, seen in exchanges.items()} == {"inner": 1, "outer": 1}
    for own in metrics:
        assert samples(own, "tokenpulse_http_requests_total") == {"": 1}
        assert samples(own, "tokenpulse_http_requests_in_progress") == {"": 0}


@every_nesting
def test_both_limits_apply_and_their_decisions_are_counted_by_name(
    nest: Callable[[TokenPulse, TokenPulse], ASGIApp], caplog: pytest.LogCaptureFixture
) -> None:
    """No limit is dropped; with different names and one that alerts, nothing is logged."""
    inner = TokenPulse(
        settings=Settings(alerts=False),
        policies=[Policy("2/day", name="llm")],
        metrics=HttpMetrics(CollectorRegistry()),
    )
    outer = TokenPulse(settings=Settings(limit="9/day"), metrics=HttpMetrics(CollectorRegistry()))
    client = TestClient(nest(inner, outer))

    responses = [client.get("/llm/chat") for _ in range(3)]

    assert [response.status_code for response in responses] == [200, 200, 429]
    assert responses[2].headers["ratelimit-policy"] == '"default";q=9;w=86400,"llm";q=2;w=86400'
    assert not caplog.messages
    decisions = samples(outer.metrics, "tokenpulse_rate_limit_decisions_total")
    assert decisions == {"default": 3, "llm": 3}


def test_rejection_in_a_middleware_of_the_inner_application_is_429() -> None:
    """The inner TokenPulse responds, and both count the response."""
    inner, outer = (
        TokenPulse(limit=None, metrics=HttpMetrics(CollectorRegistry())) for _ in range(2)
    )
    per_tenant = inner.limit("1/hour", name="tenant")

    async def dispatch(request: Request, call_next: RequestResponseEndpoint) -> Response:
        await inner.check(request, per_tenant, key="acme")
        return await call_next(request)

    app = application()
    app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)
    inner.install(app)
    with TestClient(outer.wrap(app)) as client:
        assert [client.get("/chat").status_code for _ in range(2)] == [200, 429]
    for pulse in (inner, outer):
        assert samples(pulse.metrics, "tokenpulse_http_requests_total") == {"": 2}


@every_nesting
@pytest.mark.parametrize(
    ("options", "overlap"),
    [
        ({}, "limit it by policies named 'default'"),
        ({"policies": [Policy("5/day", name="llm")]}, "evaluate alerts of it"),
    ],
)
def test_overlap_of_two_gateways_is_logged_once(
    options: dict[str, Any],
    overlap: str,
    nest: Callable[[TokenPulse, TokenPulse], ASGIApp],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The warning names what both do, a path, and the fix."""
    inner, outer = (
        TokenPulse(settings=Settings(), metrics=HttpMetrics(CollectorRegistry()), **more)
        for more in (options, {})
    )
    client = TestClient(nest(inner, outer))

    for _ in range(3):
        client.get("/llm/chat")

    path = "/llm/chat"
    assert caplog.messages == [
        f"two TokenPulse handle the same request and both {overlap} (seen on {path!r}, logged "
        "once): use one of them, or give their policies different names and the inner one "
        "Settings(alerts=False)"
    ]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_one_engine_of_two_gateways_counts_a_request_once() -> None:
    """The engine is an observer, and each observer is notified once."""
    exchanges: list[Exchange] = []

    class Engine(AlertEngine):
        def observe(self, exchange: Exchange) -> None:
            exchanges.append(exchange)

    engine = Engine()
    inner, outer = (
        TokenPulse(settings=Settings(), engine=engine, metrics=HttpMetrics(CollectorRegistry()))
        for _ in range(2)
    )

    TestClient(mounted(inner, outer)).get("/llm/chat")

    assert len(exchanges) == 1


def test_gateway_inside_other_middleware_of_ours_is_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A part alone around a TokenPulse shares its exchange."""
    metrics = HttpMetrics(CollectorRegistry())
    app = application()
    TokenPulse(settings=Settings(), metrics=metrics).install(app)
    app.add_middleware(MetricsMiddleware, metrics=metrics)

    TestClient(app).get("/chat")

    assert not caplog.messages
    assert samples(metrics, "tokenpulse_http_requests_total") == {"": 1}


@pytest.mark.parametrize("application", [FastAPI, Starlette])
def test_second_gateway_in_one_application_is_rejected(
    application: Callable[[], Starlette],
) -> None:
    """Each request would be limited, measured and served twice."""
    app = application()
    for number in range(2):
        pulse = TokenPulse(settings=Settings(), metrics=HttpMetrics(CollectorRegistry()))
        if number == 0:
            pulse.install(app)
            continue
        with pytest.raises(
            ValueError,
            match=r"^a TokenPulse is installed in the application already: install one, with all "
            r"policies and observers$",
        ):
            pulse.install(app)
