"""A gateway with limits by address, by tenant, of tokens and of concurrent requests.

Run it:

    uvicorn limit_tenants:app

    curl -i -X POST http://127.0.0.1:8000/v1/chat/completions -H "authorization: Bearer sk-1"

The headers of the response state what remains of each limit. To share the limits between several
machines, start a Redis and set REDIS_URL to async+redis://127.0.0.1:6379.
"""

from __future__ import annotations

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tokenpulse_mw import (
    ExchangeMiddleware,
    InFlight,
    Limiter,
    Policy,
    RateLimitMiddleware,
    SharedInFlight,
    SharedLimiter,
    annotate,
    keys,
    openai_error,
    requests_to,
)

TENANTS = {b"Bearer sk-1": "acme", b"Bearer sk-2": "globex"}
REDIS = os.environ.get("REDIS_URL")


def per_minute(limit: int, name: str) -> Limiter | SharedLimiter:
    """Return a limiter that counts in Redis if REDIS_URL is set."""
    if REDIS is None:
        return Limiter(f"{limit}/minute")
    return SharedLimiter(f"{limit}/minute", storage=REDIS, prefix=f"example:{name}")


def at_once(limit: int) -> InFlight | SharedInFlight:
    """Return a limiter of concurrent requests that counts in Redis if REDIS_URL is set."""
    return InFlight(limit) if REDIS is None else SharedInFlight(limit, storage=REDIS)


policies = [
    # Anonymous clients too: by address, which a proxy on this machine may report.
    Policy("600/minute", name="address", key=keys.client_address(trusted=["127.0.0.1", "::1"])),
    Policy(per_minute(60, "requests"), name="requests", key=keys.annotation("tenant")),
    # Reserves 4,000 tokens; the usage replaces them when the response ends.
    Policy(per_minute(20_000, "tokens"), name="tokens", key=keys.annotation("tenant"), tokens=4000),
    Policy(
        at_once(4),
        name="at-once",
        key=keys.annotation("tenant"),
        when=requests_to("/v1/chat/*", methods=["POST"]),
    ),
]


class Tenants:
    """Middleware that annotates the tenant of an API key outside the limits."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Annotate the tenant and call the application."""
        if scope["type"] == "http":
            tenant = TENANTS.get(dict(scope["headers"]).get(b"authorization", b""))
            annotate(scope, tenant=tenant)
        await self.app(scope, receive, send)


async def chat(request: Request) -> JSONResponse:
    """Return a response as of a vendor."""
    usage = {"prompt_tokens": 900, "completion_tokens": 100}
    return JSONResponse({"object": "chat.completion", "choices": [], "usage": usage})


app = Starlette(
    routes=[Route("/v1/chat/completions", chat, methods=["POST"])],
    middleware=[
        Middleware(ExchangeMiddleware),
        Middleware(Tenants),
        Middleware(RateLimitMiddleware, policies=policies, respond=openai_error),
    ],
)
