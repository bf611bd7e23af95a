"""Usage of tenants, from a request through a gateway to its report."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, cast

import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from tokenpulse_mw import Prices, Rates, Settings, TokenPulse, annotate

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
        annotate(request, tenant=tenant_of(request), tenant_name=request.headers.get("x-name"))
        return ANSWER

    pulse.install(app)
    return pulse, app


def test_tenant_and_operator_read_the_usage() -> None:
    """A tenant reads its own usage, and an operator that of all tenants."""
    pulse, app = gateway()
    with TestClient(app) as client:
        for tenant in ("acme", "acme", "zeta"):
            client.post("/chat", headers={"x-tenant": tenant, "x-name": tenant.title()})
        client.portal.call(pulse.engine.evaluate)  # type: ignore[union-attr]

        own = client.get("/usage", headers={"x-tenant": "acme"}).json()["rows"]
        admin = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        every = client.get("/admin/usage?by=tenant", headers=admin).json()["rows"]

    assert [(row["requests"], row["input_tokens"]) for row in own] == [(2, 200)]
    assert [(row["tenant"], row["tenant_name"], row["requests"]) for row in every] == [
        ("acme", "Acme", 2),
        ("zeta", "Zeta", 1),
    ]


def test_cost_of_a_model_is_in_metrics_and_usage() -> None:
    """A table of prices gives each response a cost, by model and by tenant."""
    pulse, app = gateway(prices={"gpt-5": Rates(input="1.25", output=10)})
    with TestClient(app) as client:
        client.post("/chat", headers={"x-tenant": "acme"})
        client.portal.call(pulse.engine.evaluate)  # type: ignore[union-attr]
        scrape = client.get("/metrics").text
        rows = client.get("/usage?by=model", headers={"x-tenant": "acme"}).json()["rows"]

    labels = 'provider="openai",model="gpt-5",source="estimated"'
    assert f"tokenpulse_llm_cost_usd_total{{{labels}}} 0.000325" in scrape
    assert [(row["model"], row["cost_usd"]) for row in rows] == [("gpt-5", "0.000325000")]
    assert rows[0]["unpriced_requests"] == 0


def test_price_list_can_be_switched_off() -> None:
    """Without a table and a list, only costs that a response reports are known."""
    assert TokenPulse(settings=Settings(price_list="off")).prices is None
    assert TokenPulse(settings=Settings(price_list="genai-prices")).prices


def test_given_prices_are_used_as_they_are() -> None:
    """`Prices` have their own price list."""
    prices = Prices({"gpt-5": Rates(input=1, output=1)})

    assert TokenPulse(prices=prices).prices is prices
    with pytest.raises(ValueError, match="price_list has no effect"):
        TokenPulse(settings=Settings(price_list="off"), prices=prices)


def test_price_list_that_is_not_installed_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the setting and the command that installs the list."""
    monkeypatch.setitem(sys.modules, "genai_prices.data_snapshot", None)

    with pytest.raises(ValueError, match=r"^price_list must name .*pip install 'tokenpulse-mw"):
        TokenPulse(settings=Settings(price_list="genai-prices"))
    assert TokenPulse(settings=Settings(price_list="auto")).prices is None


def test_usage_is_sent_to_the_url_of_the_settings() -> None:
    """A webhook of the settings becomes the sink of the engine."""
    settings = Settings(usage_webhook_url="https://billing.example/usage", price_list="off")

    assert TokenPulse(settings=settings).engine.usage_sink is not None
    with pytest.raises(ValueError, match="usage_webhook_url must be"):
        TokenPulse(settings=Settings(usage_webhook_url="billing"))


def test_secret_without_a_url_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """A setting without effect is not silently unused."""
    TokenPulse(settings=Settings(usage_webhook_secret="whsec_" + "A" * 44))

    assert "setting has no effect: name=usage_webhook_secret" in caplog.text


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


def test_tenant_without_a_function_is_rejected() -> None:
    """The error names the argument, and not the value, which may be a key."""
    with pytest.raises(ValueError, match=r"usage_tenant must be a function .* of type str"):
        TokenPulse(usage_tenant=cast(Any, "acme"))


def test_usage_needs_the_store_of_the_alerts() -> None:
    """Without alerts, nothing stores the usage."""
    with pytest.raises(ValueError, match="usage_tenant needs the store of the alerts, got alerts"):
        TokenPulse(settings=Settings(alerts=False), usage_tenant=tenant_of)
