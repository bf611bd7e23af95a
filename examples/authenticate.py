"""FastAPI gateway that limits by address, authenticates, and limits by tenant, in this order.

Run it:

    uvicorn authenticate:app

    curl -i -X POST http://127.0.0.1:8000/v1/chat/completions -H "authorization: Bearer sk-1"
    curl -i -X POST http://127.0.0.1:8000/v1/chat/completions -H "authorization: Bearer guess"
    curl http://127.0.0.1:8000/metrics

Guessed keys are limited by address and counted in the metrics. Probes and scrapes need no key. A
browser can read every response, a 429 too.
"""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    SimpleUser,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

from tokenpulse_mw import Policy, TokenPulse, annotate, keys, openai_error

TENANTS = {"Bearer sk-1": "acme", "Bearer sk-2": "globex"}


class KeyBackend(AuthenticationBackend):
    """Authentication by API key; replace the table with your database."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser]:
        """Return the tenant of the key, and annotate it for limits, metrics and alerts.

        Raises:
            AuthenticationError: The key is missing or unknown.
        """
        tenant = TENANTS.get(conn.headers.get("authorization", ""))
        if tenant is None:
            raise AuthenticationError("The API key is missing or unknown.")
        annotate(conn, tenant=tenant)
        return AuthCredentials(["authenticated"]), SimpleUser(tenant)


def refuse(conn: HTTPConnection, error: AuthenticationError) -> JSONResponse:
    """Return 401 in the format of OpenAI."""
    return JSONResponse({"error": {"message": str(error), "code": "invalid_api_key"}}, 401)


app = FastAPI()


@app.post("/v1/chat/completions")
async def chat(request: Request) -> dict[str, object]:
    """Return a completion; replace it with a request to your vendor."""
    usage = {"prompt_tokens": 900, "completion_tokens": 100}
    return {"object": "chat.completion", "choices": [], "usage": usage}


app.add_middleware(AuthenticationMiddleware, backend=KeyBackend(), on_error=refuse)
app.add_middleware(
    CORSMiddleware,
    allow_origins=["https://chat.example"],
    allow_methods=["POST"],
    allow_headers=["authorization"],
    expose_headers=["retry-after"],
)
TokenPulse(
    limit="60/minute",  # of each address, before its key is looked up
    inner_policies=[
        Policy("20/minute", name="tenant", key=keys.annotation("tenant")),
        Policy("20000/minute", name="tokens", key=keys.annotation("tenant"), tokens=4000),
    ],
    respond=openai_error,
).install(app)  # after the other middleware, so that it is outside
