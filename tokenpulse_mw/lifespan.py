"""Runs something of ours for as long as an application lives, beside what it runs itself."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from starlette.types import ASGIApp, Message, Receive, Scope, Send


async def run_lifespan(
    app: ASGIApp,
    beside: Callable[[], AbstractAsyncContextManager[object]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Serve an ASGI lifespan: `app`'s own inside `beside`.

    An application that has none (it raises on the scope, or returns at once) is spoken for, so
    that `beside` runs either way.
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
        if answered:
            return
        if not asked:
            await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
