"""Examples."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient, WebSocketDenialResponse

from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor

EXAMPLES = Path(__file__).parents[1] / "examples"


def tokens(scrape: str, provider: str, kind: str) -> float:
    """Return the tokens of a provider in a scrape."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
        if sample.name == "tokenpulse_llm_tokens_total"
        and (sample.labels["provider"], sample.labels["kind"]) == (provider, kind)
    )


def load(name: str) -> dict[str, Any]:
    """Import an example, and return its global names."""
    return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.usefixtures("patient")
def test_fastapi_gateway_streams_and_counts_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gateway forwards a stream, counts its tokens, and serves health and metrics."""
    with LocalServer(Vendor().app) as vendor:
        monkeypatch.setenv("VENDOR_URL", vendor.url)
        with TestClient(load("fastapi_gateway.py")["app"]) as client:
            request = {"stream": True, "stream_options": {"include_usage": True}}
            response = client.post("/codex/v1/chat/completions", json=request)

            assert response.text.endswith("data: [DONE]\n\n")
            assert client.get("/health").json()["service"] == "oauth2api"
            assert client.get("/api/credentials/status").json() == {"codex": True}
            scrape = client.get("/metrics").text
            assert 'route="/codex/v1/chat/completions",status="200",provider="codex"' in scrape
            assert tokens(scrape, "codex", "output") == 8


@pytest.mark.usefixtures("logging_as_it_was")
def test_starlette_parts_work_without_the_stack(capsys: pytest.CaptureFixture[str]) -> None:
    """Rate limit, metrics, alerts, health and an observer can be installed separately."""
    with TestClient(load("starlette_parts.py")["app"]) as client:
        statuses = [client.get("/hello").status_code for _ in range(6)]

        assert statuses == [200] * 5 + [429]
        assert client.get("/health/ready").json() == {"status": "ok"}
        scrape = client.get("/metrics").text
        assert 'route="/hello",status="200",provider="unknown"} 5.0' in scrape
        assert 'route="/hello",status="429",provider="unknown"} 1.0' in scrape
    assert capsys.readouterr().out.count("GET /hello 200") == 5


def test_wrapped_vendor_is_limited_and_metered() -> None:
    """`wrap` adds limits, metrics and token counts to any ASGI application."""
    with TestClient(load("wrap_vendor.py")["app"]) as client:
        response = client.post("/claude/v1/messages")

        assert response.json()["usage"]["input_tokens"] == 9
        assert response.headers["ratelimit-policy"] == '"default";q=100;w=60'
        assert tokens(client.get("/metrics").text, "claude", "input") == 9


def test_providers_by_model() -> None:
    """Responses and annotated errors of one endpoint are counted by the vendor of their model."""
    path = "/v1/chat/completions"
    with TestClient(load("providers_by_model.py")["app"]) as client:
        for model in ("gpt-4o", "claude-sonnet-4", "qwen3-8b-acme", "claude-opus-4"):
            client.post(path, json={"model": model})

        assert client.get("/health").json()["providers"] == ["openai", "anthropic", "local"]
        scrape = client.get("/metrics").text
        for labels in (
            'status="200",provider="openai"',
            'status="200",provider="anthropic"',
            'status="200",provider="local"',
            'status="502",provider="anthropic"',
        ):
            assert f'route="{path}",{labels}}} 1.0' in scrape
        assert tokens(scrape, "local", "input") == 9


def test_tenant_is_limited_by_several_policies() -> None:
    """The limits of addresses, requests, tokens and concurrent requests apply at the same time."""
    client = TestClient(load("limit_tenants.py")["app"])

    def post(key: str) -> Any:
        headers = {"authorization": f"Bearer {key}"}
        return client.post("/v1/chat/completions", headers=headers)

    first, *allowed, rejected = [post("sk-1") for _ in range(18)]
    assert first.headers["ratelimit"].split(",")[2:] == ['"tokens";r=16000;t=60', '"at-once";r=3']
    assert {response.status_code for response in allowed} == {200}
    assert (
        rejected.status_code == 429
    )  # 17,000 tokens are used, and 4,000 more would exceed the limit
    assert rejected.json()["error"]["code"] == "rate_limit_exceeded"
    assert post("sk-2").status_code == 200
    assert post("unknown").headers["ratelimit"].startswith('"address";r=')


def test_authenticating_gateway_limits_guesses_by_address_and_keys_by_tenant() -> None:
    """Guessed keys are limited and measured, and probes, scrapes and preflights need no key."""
    with TestClient(load("authenticate.py")["app"]) as client:
        origin = {"origin": "https://chat.example"}

        def post(key: str) -> Any:
            headers = {"authorization": f"Bearer {key}", **origin}
            return client.post("/v1/chat/completions", headers=headers)

        *allowed, rejected = [post("sk-1") for _ in range(18)]
        other = post("sk-2")
        guesses = [post("guess").status_code for _ in range(50)]
        preflight = {**origin, "access-control-request-method": "POST"}
        preflights = [client.options("/v1/chat/completions", headers=preflight) for _ in range(3)]
        scrape = client.get("/metrics").text
        health = client.get("/health/ready")

    assert {response.status_code for response in [*allowed, other, *preflights, health]} == {200}
    assert rejected.status_code == 429
    assert rejected.json()["error"]["code"] == "rate_limit_exceeded"
    assert rejected.headers["access-control-allow-origin"] == "https://chat.example"
    assert '"tokens";r=3000' in rejected.headers["ratelimit"]
    assert guesses == [401] * 41 + [429] * 9
    assert 'route="/v1/chat/completions",status="401",provider="unknown"} 41.0' in scrape


@pytest.mark.usefixtures("logging_as_it_was")
def test_on_call_gateway_keeps_alerts_across_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A firing alert is restored after a restart and can be acknowledged."""
    monkeypatch.setenv("TOKENPULSE_ADMIN_TOKEN", "s3cret")
    monkeypatch.setenv("ALERT_STORE", f"sqlite+aiosqlite:///{tmp_path}/alerts.db")
    monkeypatch.setenv("WEBHOOK_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("ALERTMANAGER_URL", "http://127.0.0.1:9")
    token = {"authorization": "Bearer s3cret"}
    first = load("on_call.py")

    with TestClient(first["app"], headers=token) as client:
        assert [client.post("/claude/v1/messages").status_code for _ in range(12)] == [502] * 12
        assert client.portal is not None
        client.portal.call(first["engine"].evaluate)
    with TestClient(load("on_call.py")["app"], headers=token) as client:
        (alert,) = client.get("/admin/alerts?state=firing").json()["alerts"]
        acked = client.post(f"/admin/alerts/{alert['id']}/ack", json={"by": "ada"}).json()

    assert alert["fingerprint"] == "provider_down:provider:claude"
    assert acked["ack"]["by"] == "ada"
    assert '"route":"/claude/v1/messages"' in capsys.readouterr().err


def test_fastapi_dependency_limits_each_tenant_by_its_plan() -> None:
    """Each tenant has the rate of its plan and a token budget, over HTTP and WebSockets."""
    acme, globex = ({"authorization": f"Bearer sk-{number}"} for number in (1, 2))

    app = load("fastapi_dependency.py")["app"]
    with TestClient(app) as client:
        limited = [client.post("/chat", headers=acme) for _ in range(3)]
        assert [response.status_code for response in limited] == [200, 200, 429]
        assert client.post("/chat").status_code == 401
        assert client.post("/chat", headers=globex).headers["ratelimit-policy"] == (
            '"default";q=600;w=60,"requests";q=60;w=60,"tokens";q=20000;qu="tokens";w=60'
        )
        with client.websocket_connect("/talk", headers=globex) as socket:
            socket.send_text("hi")
            assert socket.receive_text() == "globex: hi"
        with pytest.raises(WebSocketDenialResponse) as caught:
            client.websocket_connect("/talk", headers=acme).__enter__()
        assert caught.value.status_code == 429
    assert "429" in app.openapi()["paths"]["/chat"]["post"]["responses"]


def test_each_example_has_a_test() -> None:
    """Each example is named in this module, or in the tests of LiteLLM."""
    tests = [Path(__file__), Path(__file__).with_name("litellm") / "test_proxy.py"]
    tested = "".join(test.read_text() for test in tests)

    for example in EXAMPLES.glob("*.py"):
        assert re.search(rf'"{example.stem}(\.py|:app)"', tested), example.name


def test_tenants_have_budgets_of_their_plans_and_see_their_own_usage() -> None:
    """A tenant pays 0.06 USD a request until its budget is used, and reads its own cost."""
    with TestClient(load("tenant_budgets.py")["app"]) as client:
        acme, globex = ({"authorization": f"Bearer sk-{number}"} for number in (1, 2))

        def post(headers: dict[str, str]) -> Any:
            return client.post("/v1/chat/completions", headers=headers)

        *allowed, rejected = [post(acme) for _ in range(17)]
        assert {response.status_code for response in allowed} == {200}
        assert rejected.status_code == 402  # 0.96 USD are used, and 0.10 USD cannot be reserved
        assert rejected.json()["error"]["type"] == "insufficient_quota"
        assert post(globex).status_code == 200
        assert '"budget";q=100000000;qu="micro-USD"' in post(globex).headers["ratelimit-policy"]

        scrape = client.get("/metrics").text
        cost = 'tokenpulse_llm_cost_usd_total{provider="openai",model="gpt-5-mini"'
        assert f'{cost},source="estimated"}} 1.08' in scrape
        assert client.get("/usage?by=model", headers=acme).status_code == 200
        assert client.get("/usage?by=model").status_code in {401, 403}
