"""A FastAPI gateway that passes requests on to a vendor, as gateways do."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx2
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from .. import annotate

_KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
_PASSED_ON = ("content-type", *_KEY_HEADERS)


def build_gateway(vendor_url: str) -> FastAPI:
    """A gateway with a prefix for each provider: `/codex`, `/claude` and `/gemini`.

    It knows nothing of limits, metrics or alerts, but tells who its tenants are.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with httpx2.AsyncClient(base_url=vendor_url, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/codex/v1/chat/completions")
    async def codex(request: Request) -> StreamingResponse:
        return await _pass_on(request, "codex", "/v1/chat/completions")

    @app.post("/claude/v1/messages")
    async def claude(request: Request) -> StreamingResponse:
        return await _pass_on(request, "claude", "/v1/messages")

    @app.post("/gemini/v1beta/models/{call}")
    async def gemini(request: Request, call: str) -> StreamingResponse:
        return await _pass_on(request, "gemini", f"/v1beta/models/{call}")

    return app


async def _pass_on(request: Request, provider: str, path: str) -> StreamingResponse:
    tenant = _tenant(request)
    annotate(request, tenant=tenant, api_key=tenant, credential=f"{provider}-demo")
    client: httpx2.AsyncClient = request.app.state.client
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    asked = client.build_request("POST", path, content=await request.body(), headers=headers)
    answer = await client.send(asked, stream=True)
    return StreamingResponse(
        _relay(answer),
        status_code=answer.status_code,
        headers={"content-type": answer.headers["content-type"]},
    )


async def _relay(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:  # also when our client has hung up, so that the vendor stops too
        with anyio.CancelScope(shield=True):
            await answer.aclose()


def _tenant(request: Request) -> str:
    """Who pays: in the demo, the API key is the tenant's name."""
    for name in _KEY_HEADERS:
        if key := request.headers.get(name):
            return key.removeprefix("Bearer ")
    return "anonymous"
