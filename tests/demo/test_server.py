"""HTTP server in a thread."""

from __future__ import annotations

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw.demo.server import LocalServer

from ..support.apps import answering
from ..support.waiting import PATIENCE


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to HTTP requests, and start and stop without an error."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await answering(b"here")(scope, receive, send)


def test_server_runs_inside_the_context() -> None:
    """After the context, the port is closed."""
    with LocalServer(app) as server:
        assert httpx2.get(server.url, timeout=PATIENCE).text == "here"

    with pytest.raises(httpx2.ConnectError):
        httpx2.get(server.url)


def test_failed_startup_raises_an_error() -> None:
    """The error is raised without waiting for the timeout."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="did not start"), LocalServer(broken):
        pass
