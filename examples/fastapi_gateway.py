"""A FastAPI gateway in front of a vendor that speaks OpenAI's format, with everything installed.

Run it:

    VENDOR_URL=https://api.openai.com uvicorn fastapi_gateway:app

and point the OpenAI SDK at http://127.0.0.1:8000/codex/v1. Then look at

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
    """Keep one connection pool to the vendor."""
    async with httpx2.AsyncClient(base_url=os.environ["VENDOR_URL"], timeout=600) as vendor:
        app.state.vendor = vendor
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/codex/v1/chat/completions")
async def chat(request: Request) -> StreamingResponse:
    """Pass the request on, and the answer back as it comes."""
    authorization = request.headers.get("authorization", "")
    # The key's hash tells tenants apart, and nothing else of the secret.
    annotate(request, api_key=sha256(authorization.encode()).hexdigest()[:12], credential="main")
    vendor: httpx2.AsyncClient = request.app.state.vendor
    asked = vendor.build_request(
        "POST",
        "/v1/chat/completions",
        content=await request.body(),
        headers={"authorization": authorization, "content-type": "application/json"},
    )
    answer = await vendor.send(asked, stream=True)

    async def relay() -> AsyncIterator[bytes]:
        try:
            async for chunk in answer.aiter_bytes():
                yield chunk
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    content_type = answer.headers["content-type"]
    return StreamingResponse(relay(), answer.status_code, {"content-type": content_type})


TokenPulse(
    service="oauth2api",
    providers=["codex"],
    credentials=lambda: {"codex": "VENDOR_URL" in os.environ},
).install(app)
