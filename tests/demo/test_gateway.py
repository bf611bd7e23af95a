"""Gateway of the demo, with the SDKs of the vendors over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import anthropic
import httpx2
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam
from prometheus_client import CollectorRegistry

from tokenpulse_mw import HttpMetrics, Settings, TokenPulse
from tokenpulse_mw.demo.gateway import build_gateway
from tokenpulse_mw.demo.server import LocalServer
from tokenpulse_mw.demo.vendor import Vendor

from ..support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

LIMIT = 3
# New connections: the server may close a connection that was idle.
NEW_CONNECTION = {"connection": "close"}


@dataclass
class RunningGateway:
    """URL and metrics of a running gateway."""

    url: str
    metrics: HttpMetrics

    def wait_for_tokens(self, provider: str, expected: tuple[int, int]) -> None:
        """Wait for the token counts: an exchange ends shortly after the client has the response."""
        wait_until(lambda: self._counted(provider) == expected, f"not counted: {expected}")

    def _counted(self, provider: str) -> tuple[float | None, ...]:
        [rows] = (
            rows
            for family, rows in self.metrics.series()
            if family.name == "tokenpulse_llm_tokens_total"
        )
        return tuple(
            sum(
                row[0] for labels, row in rows.items() if (labels[0], labels[2]) == (provider, kind)
            )
            for kind in ("input", "output")
        )


@pytest.fixture
def gateway() -> Iterator[RunningGateway]:
    """Run a gateway with all parts in front of a vendor."""
    metrics = HttpMetrics(CollectorRegistry())
    pulse = TokenPulse(
        providers=["codex", "claude", "gemini"],
        settings=Settings(limit=f"{LIMIT}/minute"),
        metrics=metrics,
    )
    with LocalServer(Vendor().app) as vendor_server:
        app = build_gateway(vendor_server.url)
        pulse.install(app)
        with LocalServer(app) as gateway_server:
            yield RunningGateway(gateway_server.url, metrics)


MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How do you do?"}]
CLAUDE_MESSAGES: list[MessageParam] = [{"role": "user", "content": "How do you do?"}]


def test_openai_sdk_gets_and_meters_responses(gateway: RunningGateway) -> None:
    """Plain and streamed responses are complete and metered; a 429 is a RateLimitError."""
    with openai.OpenAI(
        base_url=f"{gateway.url}/codex/v1",
        api_key="acme",
        max_retries=0,
        default_headers=NEW_CONNECTION,
    ) as client:

        def create() -> openai.types.chat.ChatCompletion:
            return client.chat.completions.create(model="gpt-demo", messages=MESSAGES)

        plain = create()
        assert plain.choices[0].message.content == "the pulse of a token is a number "
        assert plain.usage is not None
        stream = client.chat.completions.create(
            model="gpt-demo",
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == plain.choices[0].message.content
        assert chunks[-1].usage is not None
        expected = (
            plain.usage.prompt_tokens + chunks[-1].usage.prompt_tokens,
            plain.usage.completion_tokens + chunks[-1].usage.completion_tokens,
        )
        gateway.wait_for_tokens("codex", expected)
        create()
        with pytest.raises(openai.RateLimitError) as caught:
            create()
        assert int(caught.value.response.headers["retry-after"]) >= 1


def test_anthropic_sdk_gets_and_meters_responses(gateway: RunningGateway) -> None:
    """Plain and streamed responses are complete and metered; a 429 is a RateLimitError."""
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/claude",
        api_key="acme",
        max_retries=0,
        default_headers=NEW_CONNECTION,
    ) as client:

        def create() -> anthropic.types.Message:
            return client.messages.create(
                model="claude-demo", max_tokens=5, messages=CLAUDE_MESSAGES
            )

        plain = create()
        assert plain.content[0].text == "the pulse of a token "  # type: ignore[union-attr]
        with client.messages.stream(
            model="claude-demo",
            max_tokens=5,
            messages=CLAUDE_MESSAGES,
        ) as stream:
            assert stream.get_final_text() == "the pulse of a token "
            streamed = stream.get_final_message()
        expected = (
            plain.usage.input_tokens + streamed.usage.input_tokens,
            plain.usage.output_tokens + streamed.usage.output_tokens,
        )
        gateway.wait_for_tokens("claude", expected)
        create()
        with pytest.raises(anthropic.RateLimitError) as caught:
            create()
        assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent"])
def test_gemini_responses_are_metered(gateway: RunningGateway, verb: str) -> None:
    """The path of the API contains the model."""
    response = httpx2.post(
        f"{gateway.url}/gemini/v1beta/models/gemini-demo:{verb}",
        json={"contents": [], "generationConfig": {"maxOutputTokens": 4}},
        headers={"x-goog-api-key": "acme"},
        timeout=PATIENCE,
    )

    assert response.status_code == 200
    assert '"candidatesTokenCount":4' in response.text
    input_tokens = int(response.text.rpartition('"promptTokenCount":')[2].partition(",")[0])
    gateway.wait_for_tokens("gemini", (input_tokens, 4))


def test_client_without_a_key_is_served(gateway: RunningGateway) -> None:
    """The tenant of such a client is anonymous."""
    url = f"{gateway.url}/codex/v1/chat/completions"

    def post(**body: object) -> httpx2.Response:
        return httpx2.post(url, json=body, timeout=PATIENCE)

    assert post(stream=True).text.endswith("data: [DONE]\n\n")
    assert post(max_tokens=2).json()["usage"]["completion_tokens"] == 2
    # An OpenAI stream has no usage without `include_usage`, so only the plain response counts.
    gateway.wait_for_tokens("codex", (4, 2))
