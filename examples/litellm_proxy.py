"""LiteLLM's proxy with limits, metrics, health and alerts around it.

Run it in the environment of LiteLLM, with the settings of LiteLLM in a file:

    pip install "litellm[proxy]" tokenpulse-mw
    CONFIG_FILE_PATH=config.yaml uvicorn litellm_proxy:app --port 4000

    curl http://127.0.0.1:4000/metrics
    curl http://127.0.0.1:4000/health

Clients use it like LiteLLM's own server. Requests are limited by address and by API key. Metrics
have the provider of the deployment that LiteLLM chose; alerts and the access log have the team of
the API key. `TOKENPULSE_LOG_LEVEL=INFO` writes the access log.
"""

from __future__ import annotations

from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy.proxy_server import app as proxy
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Policy, TokenPulse, annotate, keys
from tokenpulse_mw.logs import AccessLog


class TeamHeader(CustomLogger):  # type: ignore[misc]
    """Callback of LiteLLM that adds the team of the API key to the response headers."""

    async def async_post_call_response_headers_hook(
        self, data: Any, user_api_key_dict: Any, response: Any, **context: Any
    ) -> dict[str, str]:
        """Return the additional headers."""
        team = user_api_key_dict.team_id
        return {"x-litellm-team": team} if team else {}


class LiteLLMHeaders:
    """Middleware that annotates a request from the headers of LiteLLM's response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and read the headers of the response."""

        async def read_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                # The deployment, such as "anthropic/claude-sonnet-4-5".
                provider, _, model = headers.get("x-litellm-model-name", "").rpartition("/")
                annotate(
                    scope,
                    provider=provider or None,
                    model=model or None,
                    tenant=headers.get("x-litellm-team"),
                )
            await send(message)

        await self.app(scope, receive, read_headers)


litellm.callbacks.append(TeamHeader())

pulse = TokenPulse(
    service="litellm",
    providers=["openai", "anthropic", "gemini", "bedrock"],
    policies=[
        Policy("600/minute", name="address"),
        Policy("60/minute", name="key", key=keys.header("authorization")),
    ],
    # Probes of LiteLLM. Its /health, which calls every model, is replaced by ours.
    exempt=["/health/liveliness", "/health/liveness", "/health/readiness"],
    observers=[AccessLog(include=["tenant"])],
)
app = pulse.wrap(LiteLLMHeaders(proxy))
