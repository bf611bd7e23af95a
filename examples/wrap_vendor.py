"""TokenPulse around an ASGI application that cannot be changed, such as a vendor's proxy.

Run it:

    uvicorn wrap_vendor:app

    curl -X POST http://127.0.0.1:8000/claude/v1/messages
    curl http://127.0.0.1:8000/metrics
"""

from __future__ import annotations

import json

from starlette.types import Receive, Scope, Send

from tokenpulse_mw import TokenPulse

RESPONSE = {
    "type": "message",
    "model": "claude-demo",
    "content": [{"type": "text", "text": "Hello"}],
    "usage": {"input_tokens": 9, "output_tokens": 1},
}


async def vendor_asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    """Return a response; the application has no routes and no lifespan."""
    assert scope["type"] == "http"
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(RESPONSE).encode()})


app = TokenPulse(service="wrapped", providers=["claude", "gemini"]).wrap(vendor_asgi_app)
