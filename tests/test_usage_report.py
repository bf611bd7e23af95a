"""Usage of tenants, from a request through a gateway to its report."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from tokenpulse_mw import Settings, TokenPulse, annotate

ADMIN_TOKEN = "an-admin-token-of-enough-characters"
ANSWER = {"model": "gpt-5", "usage": {"prompt_tokens": 100, "completion_tokens": 20}}


def tenant_of(request: Request) -> str | None:
    """Return the tenant in a header, as an authentication of the application does."""
    return request.headers.get("x-tenant")


def gateway(**options: Any) -> tuple[TokenPulse, FastAPI]:
    """Return a gateway whose tenants read their own usage."""
    settings = Settings(admin_token=ADMIN_TOKEN, limit="6/minute")
    pulse = TokenPulse(settings=settings, providers=["openai"], usage_tenant=tenant_of, **options)
    app = FastAPI()

    @app.post("/chat")
    async def chat(request: Request) -> dict[str, Any]:
        annotate(request, tenant=tenant_of(request))
        return ANSWER

    pulse.install(app)
    return pulse, app


def test_tenant_and_operator_read_the_usage() -> None:
    """A tenant reads its own usage, and an operator that of all tenants."""
    pulse, app = gateway()
    with TestClient(app) as client:
        for tenant in ("acme", "acme", "zeta"):
            client.post("/chat", headers={"x-tenant": tenant})
        client.portal.call(pulse.engine.evaluate)  # type: ignore[union-attr]

        own = client.get("/usage", headers={"x-tenant": "acme"}).json()["rows"]
        admin = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        every = client.get("/admin/usage?by=tenant", headers=admin).json()["rows"]

    assert [(row["requests"], row["input_tokens"]) for row in own] == [(2, 200)]
    assert [(row["tenant"], row["requests"]) for row in every] == [("acme", 2), ("zeta", 1)]


def test_requests_for_the_own_usage_are_limited() -> None:
    """A tenant cannot load the store with as many reports as it likes."""
    with TestClient(gateway()[1]) as client:
        statuses = [
            client.get("/usage", headers={"x-tenant": "acme"}).status_code for _ in range(8)
        ]

    assert statuses == [200] * 6 + [429] * 2


def test_function_of_the_tenant_may_be_async() -> None:
    """An application may look the tenant up in its database."""

    async def looked_up(request: Request) -> str | None:
        await asyncio.sleep(0)
        return tenant_of(request)

    pulse = TokenPulse(settings=Settings(limit="off"), usage_tenant=looked_up)
    app = FastAPI()
    pulse.install(app)
    with TestClient(app) as client:
        assert client.get("/usage").status_code == 401
        assert client.get("/usage", headers={"x-tenant": "acme"}).json()["rows"] == []


def test_gateway_without_the_function_has_no_usage_endpoint() -> None:
    """`/usage` stays free for the application."""
    app = FastAPI()
    TokenPulse(settings=Settings(limit="off")).install(app)

    with TestClient(app) as client:
        assert client.get("/usage").status_code == 404


def test_usage_needs_the_store_of_the_alerts() -> None:
    """Without alerts, nothing stores the usage."""
    with pytest.raises(ValueError, match="usage_tenant needs the store of the alerts, got alerts"):
        TokenPulse(settings=Settings(alerts=False), usage_tenant=tenant_of)
