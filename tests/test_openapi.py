"""Rate limits in the OpenAPI schema of FastAPI applications."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw import (
    Decision,
    HttpMetrics,
    Policy,
    Settings,
    TokenPulse,
    openai_error,
    requests_to,
    too_many_requests,
)


def responses(app: FastAPI, path: str, method: str = "get") -> dict[str, Any]:
    """Return the documented responses of an operation."""
    documented: dict[str, Any] = app.openapi()["paths"][path][method]["responses"]
    return documented


def gateway(pulse: TokenPulse) -> FastAPI:
    """Return an application with a limited and a free route, which a router includes."""
    app, router = FastAPI(), APIRouter()
    limit = pulse.limit("1/minute")

    def user(checked: None = Depends(limit)) -> None:
        """Depend on the limit."""

    router.get("/limited/{name}", dependencies=[Depends(user)])(lambda name: name)
    router.get("/free")(lambda: "")
    router.websocket("/talk", dependencies=[Depends(limit)])(lambda: "")
    app.include_router(router, prefix="/v1")
    return app


@pytest.mark.parametrize("deploy", ["install", "wrap"])
def test_limited_operation_shows_429_with_headers(metrics: HttpMetrics, deploy: str) -> None:
    """Only operations with a limit, also one in a dependency of a dependency, show 429."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app = gateway(pulse)
    getattr(pulse, deploy)(app)

    limited = responses(app, "/v1/limited/{name}")["429"]
    assert set(limited["headers"]) == {"Retry-After", "RateLimit-Policy", "RateLimit"}
    assert limited["content"] == {"text/plain": {"schema": {"type": "string"}}}
    assert "429" not in responses(app, "/v1/free")
    assert app.openapi() is app.openapi()


@pytest.mark.parametrize(
    ("dialect", "header"),
    [
        (None, None),
        ("openai", "x-ratelimit-remaining-requests"),
        ("legacy", "X-RateLimit-Remaining"),
    ],
)
def test_documented_headers_are_those_of_the_dialect(
    metrics: HttpMetrics, dialect: Any, header: str | None
) -> None:
    """The schema lists the headers that the gateway sends."""
    settings = Settings(limit=None, limit_headers=dialect, limit_response="problem")
    pulse = TokenPulse(settings=settings, metrics=metrics)
    app = gateway(pulse)
    pulse.install(app)

    documented = responses(app, "/v1/limited/{name}")["429"]
    assert header is None or header in documented["headers"]
    assert list(documented["content"]) == ["application/problem+json"]


def test_content_of_a_given_format_is_documented(metrics: HttpMetrics) -> None:
    """A function of this library has a known body, in the settings or as `respond`."""
    pulse = TokenPulse(limit=None, respond=openai_error, metrics=metrics)
    app = gateway(pulse)
    pulse.install(app)

    assert list(responses(app, "/v1/limited/{name}")["429"]["content"]) == ["application/json"]


def test_content_of_a_custom_response_is_not_documented(metrics: HttpMetrics) -> None:
    """The media type of a function of the application is unknown."""

    def respond(decision: Decision) -> Any:
        return too_many_requests(decision)

    pulse = TokenPulse(limit=None, metrics=metrics, respond=respond)
    app = gateway(pulse)
    pulse.install(app)

    assert "content" not in responses(app, "/v1/limited/{name}")["429"]


@pytest.mark.parametrize(
    ("options", "is_documented"),
    [
        ({"limit": "1/minute"}, True),
        ({"limit": None}, False),
        ({"limit": "1/minute", "exempt": ["/v1/free"]}, False),
        ({"settings": Settings(limit_enforce=False)}, False),
        ({"policies": [Policy("1/minute", enforce=False)]}, False),
        ({"policies": [Policy("1/minute", when=requests_to("/chat"))]}, False),
    ],
    ids=["limit", "none", "exempt", "shadow", "shadow policy", "condition"],
)
def test_limit_of_every_request_is_documented(
    metrics: HttpMetrics, options: dict[str, Any], is_documented: bool
) -> None:
    """Operations that the middleware limits in any case show 429."""
    pulse = TokenPulse(metrics=metrics, **options)
    app = gateway(pulse)
    pulse.install(app)

    assert ("429" in responses(app, "/v1/free")) == is_documented


def test_response_of_the_application_is_kept(metrics: HttpMetrics) -> None:
    """An application that documents 429 itself keeps its description."""
    pulse = TokenPulse(limit="1/minute", metrics=metrics)
    app = FastAPI(responses={429: {"description": "Slow down"}})
    app.get("/")(lambda: "")
    pulse.install(app)

    assert responses(app, "/")["429"]["description"] == "Slow down"


def test_mounted_and_overridden_schemas_are_documented(metrics: HttpMetrics) -> None:
    """From start on, schemas that were set or mounted after install show the limits too."""
    pulse = TokenPulse(limit=None, metrics=metrics)
    app, mounted = FastAPI(), gateway(pulse)
    pulse.install(app)
    app.get("/", dependencies=[Depends(pulse.limit("1/minute"))])(lambda: "")
    app.mount("/mounted", mounted)
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        return {**generate(), "x-logo": "logo.png"}

    app.openapi = openapi  # type: ignore[method-assign]
    with TestClient(app) as client:
        schema = client.get("/openapi.json").json()

    assert schema["x-logo"] == "logo.png"
    assert "429" in schema["paths"]["/"]["get"]["responses"]
    assert "429" in responses(mounted, "/v1/limited/{name}")


def test_unusual_schema_is_left_unchanged(metrics: HttpMetrics) -> None:
    """A schema without paths, and an application without one, do not fail."""
    pulse = TokenPulse(limit="1/minute", metrics=metrics)
    app = FastAPI()
    app.openapi = lambda: {"openapi": "3.1.0"}  # type: ignore[method-assign]
    pulse.install(app)
    other = TokenPulse(metrics=HttpMetrics(metrics.registry.__class__()))
    other.install(Starlette())

    with TestClient(app) as client:
        assert client.get("/openapi.json").json() == {"openapi": "3.1.0"}
