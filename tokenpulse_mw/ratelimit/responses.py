"""What a request over its limit is answered: plain text, problem details, or a vendor's words."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limiters import Decision

Respond = Callable[[Decision], ASGIApp]


_MAX_WAIT_SECONDS = 120.0  # seconds, after which openai-python does not retry either


_PROBLEM = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def too_many_requests(decision: Decision) -> ASGIApp:
    """The seed's answer: 429, `text/plain`, with `Retry-After` in seconds (RFC 9110, 10.2.3)."""
    return PlainTextResponse("Too Many Requests", 429, headers=_wait_headers(decision))


def problem_details(decision: Decision) -> ASGIApp:
    """429 with problem details (RFC 9457).

    The type is the `quota-exceeded` of draft-ietf-httpapi-ratelimit-headers-11, which names the
    policies that were violated.
    """
    body = {
        "type": _PROBLEM,
        "title": "Too Many Requests",
        "status": 429,
        "detail": _message(decision),
        "violated-policies": [decision.policy, *decision.also],
    }
    return _json(body, decision, media_type="application/problem+json")


def openai_error(decision: Decision) -> ASGIApp:
    """429 as OpenAI words it, so that its SDKs raise their `RateLimitError`, and know the wait."""
    error = {
        "message": _message(decision),
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    return _json({"error": error}, decision, headers=_sdk_headers(decision))


def anthropic_error(decision: Decision) -> ASGIApp:
    """429 as Anthropic words it, for its SDKs likewise."""
    error = {"type": "rate_limit_error", "message": _message(decision)}
    return _json({"type": "error", "error": error}, decision, headers=_sdk_headers(decision))


RESPONSES: Mapping[str, Respond] = {
    "text": too_many_requests,
    "problem": problem_details,
    "openai": openai_error,
    "anthropic": anthropic_error,
}


def _json(
    body: dict[str, Any],
    decision: Decision,
    *,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> ASGIApp:
    headers = {**_wait_headers(decision), **(headers or {})}
    return JSONResponse(body, 429, headers=headers, media_type=media_type)


def _wait_headers(decision: Decision) -> dict[str, str]:
    """`Retry-After`, unless waiting will not help."""
    if math.isinf(decision.retry_after):
        return {}
    return {"Retry-After": str(max(math.ceil(decision.retry_after), 1))}


def _sdk_headers(decision: Decision) -> dict[str, str]:
    """What the vendors' SDKs look at before `Retry-After` (openai-python, `_base_client.py`).

    For a long wait they are told not to retry: some of them would sleep for hours.
    """
    headers = {}
    if not math.isinf(decision.retry_after):
        headers["retry-after-ms"] = str(max(math.ceil(decision.retry_after * 1000), 1))
    if decision.retry_after > _MAX_WAIT_SECONDS:
        headers["x-should-retry"] = "false"
    return headers


def _message(decision: Decision) -> str:
    if math.isinf(decision.retry_after):
        return (
            f"This request costs more than the limit {decision.policy!r} of {decision.limit} "
            "can ever allow."
        )
    seconds = max(math.ceil(decision.retry_after), 1)
    if decision.degraded:
        return f"Rate limit {decision.policy!r} cannot be checked now. Retry in {seconds} s."
    return f"Rate limit {decision.policy!r} of {decision.limit} is exceeded. Retry in {seconds} s."


_TRY_AGAIN_LATER = 1013  # RFC 6455, 7.4 and the registry of close codes


async def reject_websocket(answer: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Send `answer` in place of the handshake's where the server can; else close with 1013.

    The extension `websocket.http.response` of ASGI lets a server send any HTTP answer. Without
    it, servers turn a close before the handshake into a plain 403.
    """
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        await send(
            {"type": "websocket.close", "code": _TRY_AGAIN_LATER, "reason": "Too Many Requests"}
        )
        return

    async def send_denial(message: Message) -> None:
        kind = message["type"]
        if kind.startswith("http."):  # an application that knows nothing of WebSockets
            message = {**message, "type": f"websocket.{kind}"}
        await send(message)

    await answer(scope, receive, send_denial)
