"""The examples run, and do what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

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
    """Run an example as uvicorn would import it."""
    return runpy.run_path(str(EXAMPLES / name))


@pytest.mark.usefixtures("patient")
def test_the_fastapi_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes a stream on, and meters and counts it."""
    with LocalServer(Vendor().app) as vendor:
        monkeypatch.setenv("VENDOR_URL", vendor.url)
        with TestClient(load("fastapi_gateway.py")["app"]) as client:
            asked = {"stream": True, "stream_options": {"include_usage": True}}
            answer = client.post("/codex/v1/chat/completions", json=asked)

            assert answer.text.endswith("data: [DONE]\n\n")
            assert client.get("/health").json()["service"] == "oauth2api"
            assert client.get("/api/credentials/status").json() == {"codex": True}
            scrape = client.get("/metrics").text
            assert 'route="/codex/v1/chat/completions",status="200",provider="codex"' in scrape
            assert tokens(scrape, "codex", "output") == 8


@pytest.mark.usefixtures("logging_as_it_was")
def test_the_parts_on_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Limit, metrics, alerts, health and an observer work side by side."""
    with TestClient(load("starlette_parts.py")["app"]) as client:
        statuses = [client.get("/hello").status_code for _ in range(6)]

        assert statuses == [200] * 5 + [429]
        assert client.get("/health/ready").json() == {"status": "ok"}
        scrape = client.get("/metrics").text
        assert 'route="/hello",status="200",provider="unknown"} 5.0' in scrape
        assert 'route="/hello",status="429",provider="unknown"} 1.0' in scrape
    assert capsys.readouterr().out.count("GET /hello 200") == 5


def test_a_wrapped_vendor() -> None:
    """An application that knows nothing of us is limited, measured and metered."""
    with TestClient(load("wrap_vendor.py")["app"]) as client:
        answer = client.post("/claude/v1/messages")

        assert answer.json()["usage"]["input_tokens"] == 9
        assert answer.headers["ratelimit-policy"] == '"default";q=100;w=60'
        assert tokens(client.get("/metrics").text, "claude", "input") == 9


def test_limits_by_tenant() -> None:
    """A tenant is limited by address, requests, tokens and requests at once, all together."""
    client = TestClient(load("limit_tenants.py")["app"])

    def ask(key: str) -> Any:
        headers = {"authorization": f"Bearer {key}"}
        return client.post("/v1/chat/completions", headers=headers)

    first, *answers, refused = [ask("sk-1") for _ in range(18)]
    assert first.headers["ratelimit"].split(",")[2:] == ['"tokens";r=16000;t=60', '"at-once";r=3']
    assert {answer.status_code for answer in answers} == {200}
    assert refused.status_code == 429  # 17,000 are used, and another 4,000 would be too many
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert ask("sk-2").status_code == 200
    assert ask("nobody").headers["ratelimit"].startswith('"address";r=')


@pytest.mark.usefixtures("logging_as_it_was")
def test_a_gateway_for_people_on_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What fires is there after a restart, and can be acknowledged."""
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


def test_every_example_is_tested() -> None:
    """No example is left to rot."""
    tests = [Path(__file__), Path(__file__).with_name("litellm") / "test_proxy.py"]
    tested = "".join(test.read_text() for test in tests)

    for example in EXAMPLES.glob("*.py"):
        assert re.search(rf'"{example.stem}(\.py|:app)"', tested), example.name
