"""FastAPI gateway that forwards requests to a vendor."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx2
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from .. import annotate

_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
_FORWARDED_HEADERS = ("content-type", *_KEY_HEADERS)


def build_gateway(vendor_url: str) -> FastAPI:
    """Return a gateway with a prefix for each provider: `/codex`, `/claude` and `/gemini`.

    It has no limits, metrics or alerts, and annotates the tenant of each request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=vendor_url, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/codex/v1/chat/completions")
    async def codex(request: Request) -> StreamingResponse:
        return await _forward(request, "codex", "/v1/chat/completions")

    @app.post("/claude/v1/messages")
    async def claude(request: Request) -> StreamingResponse:
        return await _forward(request, "claude", "/v1/messages")

    @app.post("/gemini/v1beta/models/{call}")
    async def gemini(request: Request, call: str) -> StreamingResponse:
        return await _forward(request, "gemini", f"/v1beta/models/{call}")

    return app


async def _forward(request: Request, provider: str, path: str) -> StreamingResponse:
    tenant = _tenant(request)
    annotate(
        request,
        tenant=tenant,
        tenant_name=tenant.replace("-", " ").title(),
        api_key=tenant,
        credential=f"{provider}-demo",
        credential_group=f"{provider} pool",
    )
    client: httpx2.AsyncClient = request.app.state.client
    headers = {
        name: request.headers[name] for name in _FORWARDED_HEADERS if name in request.headers
    }
    vendor_request = client.build_request(
        "POST", path, content=await request.body(), headers=headers
    )
    response = await client.send(vendor_request, stream=True)
    return StreamingResponse(
        _relay(response),
        status_code=response.status_code,
        headers={"content-type": response.headers["content-type"]},
    )


async def _relay(response: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in response.aiter_raw():
            yield chunk
    finally:  # after a client disconnect too, so that the vendor stops
        with anyio.CancelScope(shield=True):
            await response.aclose()


def _tenant(request: Request) -> str:
    """Return the API key, which is the tenant's name in the demo."""
    for name in _KEY_HEADERS:
        if key := request.headers.get(name):
            return key.removeprefix("Bearer ")
    return "anonymous"
