"""The demo's gateway, asked by the vendors' own SDKs over real HTTP."""

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

LIMIT = 3
# A server may be closing a connection that was idle for long, where the machine is slow.
ONE_EACH = {"connection": "close"}


@dataclass
class Running:
    """A gateway that serves, and what it has measured."""

    url: str
    metrics: HttpMetrics

    def wait_for_tokens(self, provider: str, expected: tuple[int, int]) -> None:
        """Tokens read and written; an exchange ends a moment after its client has it all."""
        wait_until(lambda: self._counted(provider) == expected, f"not counted: {expected}")

    def _counted(self, provider: str) -> tuple[float | None, ...]:
        registry, name = self.metrics.registry, "tokenpulse_llm_tokens_total"
        return tuple(
            registry.get_sample_value(name, {"provider": provider, "kind": kind})
            for kind in ("input", "output")
        )


@pytest.fixture
def gateway() -> Iterator[Running]:
    """A gateway with everything installed, in front of a vendor."""
    metrics = HttpMetrics(CollectorRegistry())
    pulse = TokenPulse(
        providers=["codex", "claude", "gemini"],
        settings=Settings(limit=f"{LIMIT}/minute"),
        metrics=metrics,
    )
    with LocalServer(Vendor().app) as behind:
        app = build_gateway(behind.url)
        pulse.install(app)
        with LocalServer(app) as front:
            yield Running(front.url, metrics)


ASKED: list[ChatCompletionMessageParam] = [{"role": "user", "content": "How do you do?"}]
ASKED_CLAUDE: list[MessageParam] = [{"role": "user", "content": "How do you do?"}]


def test_the_openai_sdk(gateway: Running) -> None:
    """Plain and streamed answers are whole and metered; a 429 is the SDK's RateLimitError."""
    with openai.OpenAI(
        base_url=f"{gateway.url}/codex/v1",
        api_key="acme",
        max_retries=0,
        default_headers=ONE_EACH,
    ) as client:

        def ask() -> openai.types.chat.ChatCompletion:
            return client.chat.completions.create(model="gpt-demo", messages=ASKED)

        plain = ask()
        assert plain.choices[0].message.content == "the pulse of a token is a number "
        assert plain.usage is not None
        stream = client.chat.completions.create(
            model="gpt-demo",
            messages=ASKED,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
        written = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert written == plain.choices[0].message.content
        assert chunks[-1].usage is not None
        told = (
            plain.usage.prompt_tokens + chunks[-1].usage.prompt_tokens,
            plain.usage.completion_tokens + chunks[-1].usage.completion_tokens,
        )
        gateway.wait_for_tokens("codex", told)
        ask()
        with pytest.raises(openai.RateLimitError) as limited:
            ask()
        assert int(limited.value.response.headers["retry-after"]) >= 1


def test_the_anthropic_sdk(gateway: Running) -> None:
    """Plain and streamed answers are whole and metered; a 429 is the SDK's RateLimitError."""
    with anthropic.Anthropic(
        base_url=f"{gateway.url}/claude",
        api_key="acme",
        max_retries=0,
        default_headers=ONE_EACH,
    ) as client:

        def ask() -> anthropic.types.Message:
            return client.messages.create(model="claude-demo", max_tokens=5, messages=ASKED_CLAUDE)

        plain = ask()
        assert plain.content[0].text == "the pulse of a token "  # type: ignore[union-attr]
        with client.messages.stream(
            model="claude-demo",
            max_tokens=5,
            messages=ASKED_CLAUDE,
        ) as stream:
            assert stream.get_final_text() == "the pulse of a token "
            streamed = stream.get_final_message()
        told = (
            plain.usage.input_tokens + streamed.usage.input_tokens,
            plain.usage.output_tokens + streamed.usage.output_tokens,
        )
        gateway.wait_for_tokens("claude", told)
        ask()
        with pytest.raises(anthropic.RateLimitError) as limited:
            ask()
        assert int(limited.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("verb", ["generateContent", "streamGenerateContent"])
def test_gemini(gateway: Running, verb: str) -> None:
    """Its path has the model in it; its answers are metered like the others."""
    answer = httpx2.post(
        f"{gateway.url}/gemini/v1beta/models/gemini-demo:{verb}",
        json={"contents": [], "generationConfig": {"maxOutputTokens": 4}},
        headers={"x-goog-api-key": "acme"},
        timeout=PATIENCE,
    )

    assert answer.status_code == 200
    assert '"candidatesTokenCount":4' in answer.text
    read = int(answer.text.rpartition('"promptTokenCount":')[2].partition(",")[0])
    gateway.wait_for_tokens("gemini", (read, 4))


def test_a_client_without_a_key_is_anonymous(gateway: Running) -> None:
    """The gateway passes on what it got, and the vendor does not mind."""
    url = f"{gateway.url}/codex/v1/chat/completions"

    def answer(**asked: object) -> httpx2.Response:
        return httpx2.post(url, json=asked, timeout=PATIENCE)

    assert answer(stream=True).text.endswith("data: [DONE]\n\n")
    assert answer(max_tokens=2).json()["usage"]["completion_tokens"] == 2
    # The usage of an OpenAI stream must be asked for, so only the plain answer is counted.
    gateway.wait_for_tokens("codex", (4, 2))
