"""Runs something of ours for as long as an application lives, beside what it runs itself."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("tokenpulse_mw")


async def run_lifespan(
    app: ASGIApp,
    beside: Callable[[], AbstractAsyncContextManager[object]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Serve an ASGI lifespan: `app`'s own inside `beside`.

    What the application leaves out is done for it, so that `beside` runs as long as the server
    does: an application may raise on the scope, return at once, or return after it has started.
    """
    asked: list[str] = []
    answered: list[str] = []

    async def receive_noting() -> Message:
        message = await receive()
        asked.append(message["type"])
        return message

    async def send_noting(message: Message) -> None:
        answered.append(message["type"])
        await send(message)

    async with beside():
        try:
            await app(scope, receive_noting, send_noting)
        except Exception:
            if answered:  # it knows lifespans, and this one failed
                raise
            if asked:  # as ASGI has it, the server goes on without; but it may be a failed start
                logger.warning("the application raised in its lifespan", exc_info=True)
        if "lifespan.startup.failed" in answered:
            return
        if "lifespan.startup" not in asked:
            await receive()
        if not answered:
            await send({"type": "lifespan.startup.complete"})
        if "lifespan.shutdown" not in asked:
            await receive()
    if len(answered) < 2:
        await send({"type": "lifespan.shutdown.complete"})
