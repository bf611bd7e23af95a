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

from hashlib import sha256
from typing import Any

import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.proxy import proxy_server
from litellm.proxy.auth.auth_utils import get_request_route
from litellm.proxy.auth.user_api_key_auth import get_api_key, get_bearer_token
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenpulse_mw import Policy, TokenPulse, annotate
from tokenpulse_mw.logs import AccessLog

_PROTOCOL_WITH_KEY = "openai-insecure-api-key."


def litellm_key(scope: Scope) -> bytes | None:
    """Return a hash of the API key that LiteLLM will check; None without one.

    LiteLLM reads the key from many places. A limit that reads fewer of them, or reads them in
    another order, can be bypassed.
    """
    headers = Headers(scope=scope)
    if "litellm_user_api_key" in headers:
        # Replaces the key on some routes only: all requests with this header share one limit.
        return b"litellm_user_api_key"
    find_key = _websocket_key if scope["type"] == "websocket" else _http_key
    key = find_key(scope, headers)
    custom_header = proxy_server.general_settings.get("litellm_key_header_name")
    if custom_header and custom_header in headers:
        key = get_bearer_token(headers[custom_header])
    key = get_bearer_token(f"Bearer {key}").strip()  # removes each "Bearer ", as LiteLLM does
    return sha256(key.encode()).digest() if key else None


def _http_key(scope: Scope, headers: Headers) -> str:
    """Return the key as `litellm.proxy.auth.user_api_key_auth` reads it from a request."""
    root_path = proxy_server.app.root_path or scope.get("root_path", "")
    request = Request({**scope, "root_path": root_path})
    route = get_request_route(request)
    if route.startswith("/gemini/"):
        return request.query_params.get("key") or headers.get("x-goog-api-key", "")
    key, _ = get_api_key(
        # FastAPI passes an empty header on as None, so the next header is read.
        custom_litellm_key_header=headers.get("x-litellm-api-key") or None,
        api_key=headers.get("authorization", ""),
        azure_api_key_header=headers.get("api-key") or None,
        anthropic_api_key_header=headers.get("x-api-key") or None,
        google_ai_studio_api_key_header=headers.get("x-goog-api-key") or None,
        azure_apim_header=headers.get("ocp-apim-subscription-key") or None,
        pass_through_endpoints=proxy_server.general_settings.get("pass_through_endpoints"),
        route=route,
        request=request,
    )
    return str(key)


def _websocket_key(scope: Scope, headers: Headers) -> str:
    """Return the key as LiteLLM reads it from a WebSocket, where browsers send a subprotocol."""
    if authorization := headers.get("authorization"):
        return authorization
    if key := headers.get("api-key"):
        return key
    protocols = map(str.strip, headers.get("sec-websocket-protocol", "").split(","))
    keys = (name for name in protocols if name.startswith(_PROTOCOL_WITH_KEY))
    return next(keys, "").removeprefix(_PROTOCOL_WITH_KEY)


class ResponseHeaders(CustomLogger):  # type: ignore[misc]
    """Callback of LiteLLM that adds the team of the key, and the provider of an error."""

    async def async_post_call_response_headers_hook(
        self, data: Any, user_api_key_dict: Any, response: Any, **context: Any
    ) -> dict[str, str]:
        """Return the additional headers."""
        headers = {}
        if user_api_key_dict.team_id:
            headers["x-litellm-team"] = user_api_key_dict.team_id
        # LiteLLM names the deployment of a response, but not that of an error.
        if response is None and (provider := failed_provider(data.get("model"))):
            headers["x-tokenpulse-provider"] = provider
        return headers


def failed_provider(model: str | None) -> str | None:
    """Return the provider of the first deployment of a model."""
    router = proxy_server.llm_router
    if router is None or model is None:
        return None
    for deployment in router.get_model_list(model_name=model) or ():
        params = deployment["litellm_params"]
        _, provider, *_ = litellm.get_llm_provider(
            params["model"], params.get("custom_llm_provider")
        )
        return str(provider)
    return None


class LiteLLMHeaders:
    """Middleware that annotates a request from the headers of LiteLLM's response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and read the headers of the response."""

        async def read_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = Headers(raw=message["headers"])
                # The deployment, such as "bedrock/us-east-1/claude-sonnet-4-5".
                deployment = headers.get("x-litellm-model-name", "")
                provider, slash, path = deployment.partition("/")
                annotate(
                    scope,
                    provider=provider if slash else None,
                    model=path.rpartition("/")[2] or None,
                    tenant=headers.get("x-litellm-team"),
                )
            await send(message)

        await self.app(scope, receive, read_headers)


litellm.callbacks.append(ResponseHeaders())

pulse = TokenPulse(
    service="litellm",
    providers=["openai", "anthropic", "gemini", "bedrock"],
    policies=[
        Policy("600/minute", name="address"),
        Policy("60/minute", name="key", key=litellm_key),
    ],
    observers=[AccessLog(include=["tenant"])],
)
app = pulse.wrap(LiteLLMHeaders(proxy_server.app))
