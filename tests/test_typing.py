"""Types of the public functions, as mypy checks them in an application."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_type_hints

import pytest
from fastapi import APIRouter, FastAPI
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Router
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Scope

from tokenpulse_mw import (
    AlertEngine,
    AlertMiddleware,
    Exchange,
    ExchangeMiddleware,
    HealthRouter,
    HttpMetrics,
    MetricsMiddleware,
    Policy,
    Prices,
    RateLimitMiddleware,
    Rates,
    Settings,
    TokenPulse,
    TokenUsage,
    keys,
    metrics_routes,
    problem_details,
)
from tokenpulse_mw.alerts.admin import alert_routes
from tokenpulse_mw.logs import RequestIdMiddleware, settings_routes

from .support.apps import answering


def authorize(request: Request) -> bool:
    """Grant access to every request."""
    return True


def metrics() -> HttpMetrics:
    """Return metrics with a registry of their own."""
    return HttpMetrics(CollectorRegistry())


APPLICATIONS: list[Callable[[list[BaseRoute]], ASGIApp]] = [
    lambda routes: FastAPI(routes=routes),
    lambda routes: Starlette(routes=routes),
    lambda routes: Router(routes=routes),
    lambda routes: APIRouter(routes=routes),
    lambda routes: Starlette(routes=[Mount("/", routes=routes)]),
]


@pytest.mark.parametrize(
    "application", APPLICATIONS, ids=["FastAPI", "Starlette", "Router", "APIRouter", "Mount"]
)
@pytest.mark.parametrize(
    ("routes", "path"),
    [
        (metrics_routes(metrics()), "/metrics"),
        (alert_routes(AlertEngine(), authorize=authorize), "/admin/alerts"),
        (settings_routes(authorize=authorize), "/admin/settings"),
        (HealthRouter(service="typed").routes, "/health"),
        (TokenPulse(settings=Settings(), metrics=metrics()).routes, "/health/live"),
    ],
    ids=["metrics", "alerts", "settings", "health", "TokenPulse"],
)
def test_routes_are_passed_to_an_application(
    routes: list[BaseRoute], path: str, application: Callable[[list[BaseRoute]], ASGIApp]
) -> None:
    """Every function of routes returns the type that Starlette and FastAPI take."""
    assert TestClient(application(routes)).get(path).status_code == 200


def test_plain_dicts_are_tables_of_prices() -> None:
    """A variable has the type of its keys, which may be of either kind."""
    rates = Rates(input="1.25", output=10)
    by_model = {"gpt-5*": rates}
    by_provider = {("openai", "gpt-5*"): rates}

    for prices in (Prices(by_model), Prices(by_provider), Prices({**by_model, **by_provider})):
        cost = prices.cost("openai", "gpt-5", TokenUsage(1_000_000, 0))
        assert cost is not None
        assert cost.nanos == 1_250_000_000
    assert TokenPulse(settings=Settings(price_list="off"), prices=by_model).prices


@pytest.mark.parametrize("function", [metrics_routes, alert_routes, settings_routes])
def test_functions_of_routes_return_a_list_of_base_routes(
    function: Callable[..., list[BaseRoute]],
) -> None:
    """A list is invariant, so FastAPI takes no other type."""
    assert get_type_hints(function)["return"] == list[BaseRoute]


def test_routes_are_passed_to_fastapi_directly() -> None:
    """FastAPI takes a list of `BaseRoute`, which a list of `Route` is not."""
    health = HealthRouter(service="typed")
    app = FastAPI(routes=metrics_routes(metrics()))
    app.router.routes += health.routes
    app.router.routes.extend(alert_routes(AlertEngine(), authorize=authorize))

    assert TestClient(app).get("/metrics").status_code == 200


def test_middlewares_are_passed_to_an_application() -> None:
    """The options of every middleware are checked by `Middleware` and `add_middleware`."""
    exchanges: list[Exchange] = []

    def tenant(scope: Scope) -> str | None:
        return scope.get("tenant")

    policies = [Policy("9/day"), Policy("5/day", name="tenant", key=tenant)]
    app = Starlette(
        middleware=[
            Middleware(RequestIdMiddleware, header="x-trace-id"),
            Middleware(ExchangeMiddleware, observers=[exchanges.append]),
            Middleware(MetricsMiddleware, metrics=metrics()),
            Middleware(AlertMiddleware, engine=AlertEngine()),
        ]
    )
    app.add_middleware(RateLimitMiddleware, policies=policies, respond=problem_details)
    app.add_middleware(RateLimitMiddleware, limit="9/day", key=keys.client_address())

    assert TestClient(app).get("/").headers["x-trace-id"]
    assert len(exchanges) == 1


@pytest.mark.parametrize("application", [FastAPI, Starlette])
def test_gateway_is_mounted_with_its_lifespan(
    application: type[FastAPI] | type[Starlette],
) -> None:
    """The lifespan and the result of `wrap` have the types that applications take."""
    pulse = TokenPulse(settings=Settings(), metrics=metrics())
    app = application(lifespan=pulse.lifespan)
    app.mount("/vendor", pulse.wrap(answering()))
    app.mount("/probes", pulse.health)

    with TestClient(app) as client:
        assert client.get("/vendor/chat").status_code == 200
        assert client.get("/probes/health").status_code == 200
