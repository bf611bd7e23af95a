"""Responses to requests over a limit: plain text, problem details, and vendors' error bodies.

The status is 429, or 402 for a policy with `status=402`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp

from .limiters import CURRENCY, Decision, format_money, window_text

Respond = Callable[[Decision], ASGIApp]

_MAX_RETRY_SECONDS = 120.0  # openai-python does not wait longer for a retry either
_PROBLEM_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"


def too_many_requests(decision: Decision) -> ASGIApp:
    """Return 429 as `text/plain`, with `Retry-After` in seconds (RFC 9110, 10.2.3)."""
    return PlainTextResponse(_title(decision), decision.status, headers=_wait_headers(decision))


def problem_details(decision: Decision) -> ASGIApp:
    """Return 429 with problem details (RFC 9457).

    The problem type is `quota-exceeded` of draft-ietf-httpapi-ratelimit-headers-11. It lists the
    violated policies.
    """
    body = {
        "type": _PROBLEM_TYPE,
        "title": _title(decision),
        "status": decision.status,
        "detail": _message(decision),
        "violated-policies": [decision.policy, *decision.also],
    }
    return _json(body, decision, media_type="application/problem+json")


def openai_error(decision: Decision) -> ASGIApp:
    """Return 429 in the format of OpenAI, so that its SDKs raise `RateLimitError` and can retry.

    The type of a limit of money, and of 402, is `insufficient_quota`, as OpenAI has for its own.
    """
    is_quota = decision.unit == CURRENCY or decision.status == HTTPStatus.PAYMENT_REQUIRED
    error = {
        "message": _message(decision),
        "type": "insufficient_quota" if is_quota else "rate_limit_error",
        "param": None,
        "code": "insufficient_quota" if is_quota else "rate_limit_exceeded",
    }
    return _json({"error": error}, decision, headers=_sdk_headers(decision))


def anthropic_error(decision: Decision) -> ASGIApp:
    """Return 429 in the format of Anthropic, so that its SDKs raise `RateLimitError`.

    The type of 402 is `billing_error`.
    """
    is_billing = decision.status == HTTPStatus.PAYMENT_REQUIRED
    kind = "billing_error" if is_billing else "rate_limit_error"
    error = {"type": kind, "message": _message(decision)}
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
    return JSONResponse(body, decision.status, headers=headers, media_type=media_type)


def _title(decision: Decision) -> str:
    return HTTPStatus(decision.status).phrase


def _wait_headers(decision: Decision) -> dict[str, str]:
    """Return `Retry-After`, or nothing if the request can never be allowed."""
    if math.isinf(decision.retry_after):
        return {}
    return {"Retry-After": str(max(math.ceil(decision.retry_after), 1))}


def _sdk_headers(decision: Decision) -> dict[str, str]:
    """Return headers that vendors' SDKs read before `Retry-After`.

    The source is `_base_client.py` of openai-python. After a long wait no retry is requested:
    some SDKs would sleep for hours.
    """
    headers = {}
    if not math.isinf(decision.retry_after):
        headers["retry-after-ms"] = str(max(math.ceil(decision.retry_after * 1000), 1))
    if decision.retry_after > _MAX_RETRY_SECONDS:
        headers["x-should-retry"] = "false"
    return headers


def _message(decision: Decision) -> str:
    is_money = decision.unit == CURRENCY
    if math.isinf(decision.retry_after):
        if is_money:
            return (
                f"This request costs more than the budget of {_rate(decision)}, or the price of "
                "its model is not known. Send a smaller request, or use another model."
            )
        return (
            f"This request costs more than the rate limit of {_rate(decision)}. "
            "Send a smaller request."
        )
    seconds = max(math.ceil(decision.retry_after), 1)
    if decision.degraded:
        return f"Rate limit cannot be checked. Retry in {seconds} s."
    if not decision.limit:
        return f"Requests are blocked at present. Retry in {seconds} s."
    what = "Budget" if is_money else "Rate limit"
    return f"{what} exceeded: {_rate(decision)}. Retry in {seconds} s."


def _rate(decision: Decision) -> str:
    """Return the limit in plain words, such as "3 requests per minute" or "20 USD per day"."""
    if decision.unit == CURRENCY:
        amount = format_money(decision.limit)
    else:
        unit = decision.unit.replace("-", " ")
        amount = f"{decision.limit} {unit.removesuffix('s') if decision.limit == 1 else unit}"
    if decision.window is None:
        return amount
    return f"{amount} per {window_text(decision.window, decision.period)}"
