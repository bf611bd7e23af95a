"""FastAPI gateway in front of a vendor with the API of OpenAI, with all parts installed.

Run it:

    VENDOR_URL=https://api.openai.com uvicorn fastapi_gateway:app

Set the base URL of the OpenAI SDK to http://127.0.0.1:8000/codex/v1. Then:

    curl http://127.0.0.1:8000/metrics
    curl http://127.0.0.1:8000/health
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256

import anyio
import httpx2
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from tokenpulse_mw import TokenPulse, annotate


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a connection pool to the vendor."""
    async with httpx2.AsyncClient(base_url=os.environ["VENDOR_URL"], timeout=600) as vendor:
        app.state.vendor = vendor
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/codex/v1/chat/completions")
async def chat(request: Request) -> StreamingResponse:
    """Forward the request, and stream the response."""
    authorization = request.headers.get("authorization", "")
    # The hash identifies the tenant without revealing the key.
    annotate(request, api_key=sha256(authorization.encode()).hexdigest()[:12], credential="main")
    vendor: httpx2.AsyncClient = request.app.state.vendor
    vendor_request = vendor.build_request(
        "POST",
        "/v1/chat/completions",
        content=await request.body(),
        headers={"authorization": authorization, "content-type": "application/json"},
    )
    response = await vendor.send(vendor_request, stream=True)

    async def relay() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_bytes():
                yield chunk
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()

    content_type = response.headers["content-type"]
    return StreamingResponse(relay(), response.status_code, {"content-type": content_type})


TokenPulse(
    service="oauth2api",
    providers=["codex"],
    credentials=lambda: {"codex": "VENDOR_URL" in os.environ},
).install(app)
