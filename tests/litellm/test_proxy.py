"""LiteLLM's real proxy, wrapped and installed, behind the SDKs of OpenAI and Anthropic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor

from ..support.proxies import ADMIN_TOKEN, litellm_server
from ..support.servers import Server, started
from ..support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.server, pytest.mark.slow]

PROMPT: ChatCompletionMessageParam = {"role": "user", "content": "How fast is a pulse?"}
MESSAGE: MessageParam = {"role": "user", "content": "How fast is a pulse?"}
WORDS = "the pulse of a token is a number "  # of the vendor


@pytest.fixture(scope="module", params=["litellm_proxy:app", "installed:app"])
def litellm_proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Return LiteLLM's proxy: wrapped as in the example, or with all parts installed."""
    folder: Path = tmp_path_factory.mktemp("litellm")
    with LocalServer(Vendor().app) as vendor:
        server = litellm_server(folder, request.param, vendor.url)
        yield from started(server, "litellm[proxy] by `make .venv/litellm-ready`")


def openai_client(proxy: Server, key: str = "sk-acme") -> openai.OpenAI:
    """Return the SDK of OpenAI."""
    return openai.OpenAI(
        base_url=f"http://{proxy.place}/v1", api_key=key, max_retries=0, timeout=PATIENCE
    )


def anthropic_client(proxy: Server) -> anthropic.Anthropic:
    """Return the SDK of Anthropic."""
    return anthropic.Anthropic(
        base_url=f"http://{proxy.place}", auth_token="sk-acme", max_retries=0, timeout=PATIENCE
    )


def get(proxy: Server, path: str, **headers: str) -> httpx2.Response:
    """Return the response to GET."""
    return httpx2.get(f"http://{proxy.place}{path}", headers=headers, timeout=PATIENCE)


def total(proxy: Server, name: str, labels: Mapping[str, str]) -> float:
    """Return the sum of the samples with these labels in a scrape."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(get(proxy, "/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


class Tokens:
    """Tokens of the proxy since the construction."""

    def __init__(self, proxy: Server) -> None:
        self._proxy = proxy
        self._before = self._counted()

    def wait_for(self, *expected: float) -> None:
        """Wait until these numbers of input and output tokens are counted."""
        numbers = tuple(before + new for before, new in zip(self._before, expected, strict=True))
        wait_until(lambda: self._counted() == numbers, f"not counted: {expected}")

    def _counted(self) -> tuple[float, ...]:
        return tuple(
            total(self._proxy, "tokenpulse_llm_tokens_total", {"kind": kind})
            for kind in ("input", "output")
        )


def test_openai_sdk_gets_answers_whose_tokens_are_counted(litellm_proxy: Server) -> None:
    """The usage that LiteLLM reports to the client is the usage in the metrics."""
    tokens = Tokens(litellm_proxy)
    client = openai_client(litellm_proxy)

    mock = client.chat.completions.create(model="mock", messages=[PROMPT])
    completion = client.chat.completions.create(model="gpt-4o", messages=[PROMPT])

    assert mock.choices[0].message.content == "Hello."
    assert completion.choices[0].message.content == WORDS
    used = [mock.usage, completion.usage]
    tokens.wait_for(
        sum(usage.prompt_tokens for usage in used if usage),
        sum(usage.completion_tokens for usage in used if usage),
    )


def test_openai_sdk_streams_and_its_tokens_are_counted(litellm_proxy: Server) -> None:
    """The last chunk of a stream has the usage, which LiteLLM is configured to add."""
    tokens = Tokens(litellm_proxy)
    client = openai_client(litellm_proxy)

    stream = client.chat.completions.create(model="gpt-4o", messages=[PROMPT], stream=True)
    chunks = list(stream)

    texts = [choice.delta.content or "" for chunk in chunks for choice in chunk.choices]
    assert "".join(texts) == WORDS
    (usage,) = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.completion_tokens == 8
    tokens.wait_for(usage.prompt_tokens, usage.completion_tokens)


def test_anthropic_sdk_gets_answers_whose_tokens_are_counted(litellm_proxy: Server) -> None:
    """LiteLLM passes the messages on to a vendor with the format of Anthropic."""
    tokens = Tokens(litellm_proxy)
    client = anthropic_client(litellm_proxy)

    message = client.messages.create(model="claude-sonnet-4", max_tokens=3, messages=[MESSAGE])

    assert message.content[0].type == "text"
    assert message.content[0].text == "the pulse of "
    tokens.wait_for(message.usage.input_tokens, 3)


def test_anthropic_sdk_streams_and_its_tokens_are_counted(litellm_proxy: Server) -> None:
    """The first and the last event of a stream have the usage."""
    tokens = Tokens(litellm_proxy)
    client = anthropic_client(litellm_proxy)

    with client.messages.stream(
        model="claude-sonnet-4", max_tokens=4, messages=[MESSAGE]
    ) as stream:
        text = "".join(stream.text_stream)
        usage = stream.get_final_message().usage

    assert text == "the pulse of a "
    assert usage.output_tokens == 4
    tokens.wait_for(usage.input_tokens, usage.output_tokens)


def costs(proxy: Server) -> tuple[Decimal, Decimal, int]:
    """Return dollars in the metrics, and dollars and tokens of a team and a model in its usage."""
    reported = total(
        proxy, "tokenpulse_llm_cost_usd_total", {"model": "gpt-4o", "source": "reported"}
    )
    path = "/admin/usage?by=tenant,model"
    rows = get(proxy, path, authorization=f"Bearer {ADMIN_TOKEN}").json()["rows"]
    own = [row for row in rows if (row["tenant"], row["model"]) == ("acme", "gpt-4o")]
    return (
        round(Decimal(reported), 9),
        sum((Decimal(row["cost_usd"]) for row in own), Decimal(0)),
        sum(row["input_tokens"] + row["output_tokens"] for row in own),
    )


def is_stored(proxy: Server) -> bool:
    """Return True if the usage has the dollars of all responses of a model, as the metrics have."""
    counted = total(proxy, "tokenpulse_llm_cost_usd_total", {"model": "gpt-4o"})
    path = "/admin/usage?by=model"
    rows = get(proxy, path, authorization=f"Bearer {ADMIN_TOKEN}").json()["rows"]
    stored = sum(float(row["cost_usd"]) for row in rows if row["model"] == "gpt-4o")
    return counted > 0 and round(counted, 9) == round(stored, 9)


def test_cost_and_usage_of_a_team_are_those_that_litellm_reports(litellm_proxy: Server) -> None:
    """Dollars and tokens by team and model equal those in LiteLLM's own responses."""
    client = openai_client(litellm_proxy)
    get(litellm_proxy, "/metrics")
    client.chat.completions.create(model="gpt-4o", messages=[PROMPT])
    wait_until(lambda: is_stored(litellm_proxy), "the usage is not stored")
    before = costs(litellm_proxy)
    dollars, tokens = Decimal(0), 0
    for model in ("gpt-4o", "mock", "gpt-4o"):
        raw = client.chat.completions.with_raw_response.create(model=model, messages=[PROMPT])
        usage = raw.parse().usage
        assert usage is not None
        dollars += round(Decimal(raw.headers["x-litellm-response-cost"]), 9)
        tokens += usage.total_tokens

    assert dollars > 0
    expected = (before[0] + dollars, before[1] + dollars, before[2] + tokens)
    wait_until(lambda: costs(litellm_proxy) == expected, f"not counted: {expected}")


def test_limit_is_the_rate_limit_error_of_the_sdk(litellm_proxy: Server) -> None:
    """A key over its limit is rejected before LiteLLM sees the request; other keys are served."""
    client = openai_client(litellm_proxy, "sk-globex")
    with pytest.raises(openai.RateLimitError) as raised:  # noqa: PT012 - the last one raises
        for _ in range(61):
            client.models.list()

    assert raised.value.response.headers["retry-after"]
    assert "x-litellm-version" not in raised.value.response.headers
    openai_client(litellm_proxy).models.list()


KEY = "sk-initech"
BEARER = {"authorization": f"Bearer {KEY}"}
OTHER = {"authorization": "Bearer sk-acme"}


def exhaust(proxy: Server) -> None:
    """Send requests with `KEY` until it is over its limit."""
    statuses = (get(proxy, "/v1/models", **BEARER).status_code for _ in range(61))
    assert 429 in statuses


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"bearer {KEY}"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": f"Bearer Bearer {KEY}"},
        {"authorization": f"AWS4-HMAC-SHA256 Credential=Bearer {KEY}/20260101/any/bedrock"},
        {"x-litellm-api-key": KEY},
        {"x-litellm-api-key": f"Bearer {KEY}", **OTHER},
        {"x-litellm-api-key": "", **BEARER},
        {"authorization": "", "api-key": KEY},
        {"api-key": "", "x-api-key": KEY},
        {"x-api-key": KEY, "x-goog-api-key": "other"},
        {"x-goog-api-key": KEY},
        {"ocp-apim-subscription-key": KEY},
        {"x-gateway-key": f"Bearer {KEY}", **OTHER},
    ],
    ids=str,
)
def test_key_in_any_header_of_litellm_shares_one_limit(
    litellm_proxy: Server, headers: dict[str, str]
) -> None:
    """A key over its limit is rejected in each place from which LiteLLM reads it."""
    exhaust(litellm_proxy)
    unlimited = {
        name: value.replace("sk-acme", "other").replace(KEY, "sk-hooli")
        for name, value in headers.items()
    }

    assert get(litellm_proxy, "/v1/models", **headers).status_code == 429
    assert get(litellm_proxy, "/v1/models", **unlimited).status_code == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"/v1beta/models/mock:generateContent?key={KEY}", {}),
        (f"/gemini/v1beta/models/mock:generateContent?key={KEY}", {"authorization": "Bearer any"}),
        (f"/gemini/v1beta/models?key=Bearer%20{KEY}", {"x-litellm-api-key": "any"}),
        ("/gemini/v1beta/models", {"x-goog-api-key": KEY, "authorization": "Bearer any"}),
        ("/raw", {"x-raw-key": KEY}),
    ],
)
def test_key_on_routes_that_read_it_elsewhere_shares_one_limit(
    litellm_proxy: Server, path: str, headers: dict[str, str]
) -> None:
    """A key over its limit is rejected in the query and in the header of an endpoint."""
    exhaust(litellm_proxy)

    def call(key: str) -> int:
        url = f"http://{litellm_proxy.place}{path}".replace(KEY, key)
        sent = {name: value.replace(KEY, key) for name, value in headers.items()}
        body = {"contents": [{"role": "user", "parts": [{"text": "How fast is a pulse?"}]}]}
        return httpx2.post(url, headers=sent, json=body, timeout=PATIENCE).status_code

    assert call(KEY) == 429
    assert call("sk-hooli") not in (401, 429)


@pytest.mark.parametrize(
    ("headers", "protocols"),
    [
        (BEARER, []),
        ({"authorization": f"Bearer Bearer {KEY}"}, []),
        ({"x-litellm-api-key": "other", **BEARER}, []),
        ({"api-key": f"Bearer {KEY}"}, []),
        ({}, ["realtime", f"openai-insecure-api-key.{KEY}"]),
    ],
    ids=str,
)
def test_key_of_a_websocket_shares_one_limit(
    litellm_proxy: Server, headers: dict[str, str], protocols: list[Subprotocol]
) -> None:
    """LiteLLM reads the key of a WebSocket from other places than that of a request."""
    exhaust(litellm_proxy)

    url = f"ws://{litellm_proxy.place}/v1/realtime?model=mock"
    with (
        pytest.raises(InvalidStatus) as raised,
        connect(url, additional_headers=headers, subprotocols=protocols or None, proxy=None),
    ):
        pass
    assert raised.value.response.status_code == 429


def test_requests_with_the_header_of_pass_through_routes_share_one_limit(
    litellm_proxy: Server,
) -> None:
    """A header that replaces the key on some routes cannot give a client more limits."""
    statuses = {
        get(
            litellm_proxy,
            "/openai/models",
            authorization=f"Bearer {number}",
            litellm_user_api_key="sk-acme",
        ).status_code
        for number in range(61)
    }

    assert 429 in statuses


def test_probes_of_litellm_are_not_limited(litellm_proxy: Server) -> None:
    """More probes than requests of an address or key are answered."""
    with httpx2.Client(base_url=f"http://{litellm_proxy.place}", timeout=PATIENCE) as client:
        for path in ("/health/liveliness", "/health/liveness", "/health/readiness"):
            assert {client.get(path).status_code for _ in range(201)} == {200}


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_error_has_the_provider_of_its_model(litellm_proxy: Server, provider: str) -> None:
    """A provider that is down is counted under its name, on any path, so that it alerts."""
    labels = {"provider": provider, "status": "500"}
    before = total(litellm_proxy, "tokenpulse_http_requests_total", labels)

    model = {"openai": "down-gpt", "anthropic": "down-claude"}[provider]
    client = openai_client(litellm_proxy)
    with pytest.raises(openai.InternalServerError) as raised:
        client.chat.completions.create(model=model, messages=[PROMPT])

    assert raised.value.response.headers["x-tokenpulse-provider"] == provider
    assert raised.value.response.headers["x-litellm-team"] == "acme"
    wait_until(
        lambda: total(litellm_proxy, "tokenpulse_http_requests_total", labels) == before + 1,
        "the error is not counted",
    )


def test_health_is_served_by_both(litellm_proxy: Server, request: pytest.FixtureRequest) -> None:
    """Each has probes of its own; `/health` is that of LiteLLM only if all parts are installed."""
    is_installed = request.node.callspec.params["litellm_proxy"] == "installed:app"

    assert get(litellm_proxy, "/health").status_code == (401 if is_installed else 200)
    assert get(litellm_proxy, "/health/live").json() == {"status": "ok"}
    assert get(litellm_proxy, "/health/ready").json() == {"status": "ok"}
    assert get(litellm_proxy, "/health/readiness").json()["status"] == "healthy"


def test_litellm_lists_its_routes(litellm_proxy: Server) -> None:
    """It reads the name of each endpoint, with those of this library among them if installed."""
    routes = get(litellm_proxy, "/routes", authorization="Bearer sk-acme")

    assert routes.status_code == 200
    names = {route["path"]: route["name"] for route in routes.json()["routes"]}
    assert names["/fallback/login"] == "fallback_login"
    assert names.get("/admin/settings") in (None, "tokenpulse:settings")


def test_metrics_of_litellm_stay_guarded(litellm_proxy: Server) -> None:
    """The scrape shows none of them; LiteLLM serves them with a slash, to its keys only."""
    openai_client(litellm_proxy).chat.completions.create(model="mock", messages=[PROMPT])
    scrape = get(litellm_proxy, "/metrics").text

    assert "tokenpulse_http_requests_total{" in scrape
    assert "process_resident_memory_bytes" in scrape
    assert "litellm" not in scrape
    assert get(litellm_proxy, "/metrics/").status_code == 401
    guarded = get(litellm_proxy, "/metrics/", authorization="Bearer sk-acme")
    assert "litellm_requests_metric_total{" in guarded.text


@pytest.mark.parametrize("litellm_proxy", ["litellm_proxy:app"], indirect=True)
def test_provider_and_tenant_come_from_the_headers_of_litellm(litellm_proxy: Server) -> None:
    """The example annotates the deployment and the team of the key."""
    openai_client(litellm_proxy).chat.completions.create(model="gpt-4o", messages=[PROMPT])
    anthropic_client(litellm_proxy).messages.create(
        model="claude-sonnet-4", max_tokens=3, messages=[MESSAGE]
    )

    def counted(provider: str) -> float:
        return total(litellm_proxy, "tokenpulse_llm_tokens_total", {"provider": provider})

    wait_until(lambda: counted("anthropic") > 0 < counted("openai"), "providers not counted")
    lines = [line for line in litellm_proxy.output.splitlines() if "/v1/messages" in line]
    assert "provider=anthropic" in lines[-1]
    assert "model=claude-sonnet-4 tenant=acme" in lines[-1]
