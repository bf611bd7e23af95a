"""FastAPI gateway that limits each tenant, which only a dependency knows, by its plan.

Run it:

    uvicorn fastapi_dependency:app

    curl -i -X POST http://127.0.0.1:8000/chat -H "authorization: Bearer sk-1"

Every address has 600 requests per minute, also to guess API keys. A tenant has the requests of its
plan and 20,000 tokens per minute. http://127.0.0.1:8000/docs shows the response 429.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, WebSocket
from starlette.requests import HTTPConnection

from tokenpulse_mw import TokenPulse, annotate

TENANTS = {"Bearer sk-1": "acme", "Bearer sk-2": "globex"}
PLANS = {"acme": "2/minute", "globex": "60/minute"}

pulse = TokenPulse(service="chat", limit="600/minute")
app = FastAPI()
pulse.install(app)


def get_tenant(connection: HTTPConnection) -> str:
    """Return the tenant of an API key."""
    tenant = TENANTS.get(connection.headers.get("authorization", ""))
    if tenant is None:
        raise HTTPException(401)
    annotate(connection, tenant=tenant)  # for metrics and alerts
    return tenant


async def plan_of(tenant: str) -> str:
    """Return the rate of a tenant, as a database would; the result is cached for a minute."""
    return PLANS[tenant]


Tenant = Annotated[str, Depends(get_tenant)]
requests = pulse.limit(plan_of, name="requests", key=Tenant)
tokens = pulse.limit("20000/minute", name="tokens", key=Tenant, tokens=4000)


@app.post("/chat", dependencies=[Depends(requests), Depends(tokens)])
async def chat(tenant: Tenant) -> dict[str, object]:
    """Return a response as of a vendor; only requests within the limits get here."""
    usage = {"prompt_tokens": 900, "completion_tokens": 100}
    return {"object": "chat.completion", "choices": [], "usage": usage}


@app.websocket("/talk", dependencies=[Depends(requests)])
async def talk(websocket: WebSocket, tenant: Tenant) -> None:
    """Answer messages; the handshake and each message count as a request."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await pulse.check(websocket, requests, key=tenant)
        await websocket.send_text(f"{tenant}: {text}")
