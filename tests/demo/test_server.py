"""LocalServer: a real server in a thread."""

from __future__ import annotations

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from tokenpulse_mw.demo.server import LocalServer

from ..support.apps import answering
from ..support.waiting import PATIENCE


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers HTTP, and says that it has started."""
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})
        return
    await answering(b"here")(scope, receive, send)


def test_it_serves_while_it_is_entered() -> None:
    """On a free port of this machine, and no longer afterwards."""
    with LocalServer(app) as server:
        assert httpx2.get(server.url, timeout=PATIENCE).text == "here"

    with pytest.raises(httpx2.ConnectError):
        httpx2.get(server.url)


def test_an_application_that_does_not_start_is_an_error() -> None:
    """Whoever enters is told, and does not wait for ever."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="did not start"), LocalServer(broken):
        pass
