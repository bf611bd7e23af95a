"""Runs something of ours for as long as an application lives, beside what it runs itself."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("tokenpulse_mw")

Work = Callable[[], Coroutine[Any, Any, None]]

_FINAL_MESSAGES = {
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
}


class _NoLifespanError(Exception):
    """The application answers its lifespan as if that were a request: it knows of none."""


@asynccontextmanager
async def background_tasks(*work: Work) -> AsyncIterator[None]:
    """Do `work` until the body is over."""
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    for each in work:
        tasks.start_soon(each)
    try:
        yield
    finally:
        tasks.cancel_scope.cancel()
        # What the body raised is its own: a task group that knew of it would wrap it.
        await tasks.__aexit__(None, None, None)


async def run_lifespan(
    app: ASGIApp,
    context: Callable[[], AbstractAsyncContextManager[object]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Serve an ASGI lifespan: `app`'s own inside `context`.

    What the application leaves out is done for it, so that `context` runs as long as the server
    does: an application may raise on the scope, return at once, take it for a request, or give up
    after it has started.

    Raises:
        Exception: What the application raised after it had answered; where it had started, not
            before the server shuts down.
    """
    talk = _LifespanState(receive, send)
    failure: Exception | None = None
    async with context():
        try:
            await app(scope, talk.receive, talk.send)
        except _NoLifespanError:
            pass
        except Exception as error:
            if talk.sent:  # it knows lifespans, and this one failed
                failure = error
            elif talk.received:  # as ASGI has it, the server goes on; it may be a failed start
                logger.warning("the application raised in its lifespan", exc_info=True)
        await talk.complete()
    if failure is not None:
        raise failure
    if _FINAL_MESSAGES.isdisjoint(talk.sent):
        await send({"type": "lifespan.shutdown.complete"})


class _LifespanState:
    """What the application and the server have said to each other, and what is left to be said."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.received: list[str] = []
        self.sent: list[str] = []
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """The server's next message."""
        message = await self._receive()
        self.received.append(message["type"])
        return message

    async def send(self, message: Message) -> None:
        """Pass on what the application answers."""
        if not message["type"].startswith("lifespan."):
            raise _NoLifespanError(message["type"])
        self.sent.append(message["type"])
        await self._send(message)

    async def complete(self) -> None:
        """Start in the place of an application that has not, and wait for the server to end."""
        if "lifespan.startup.failed" in self.sent:
            return
        if "lifespan.startup" not in self.received:
            await self._receive()
        if not self.sent:
            await self._send({"type": "lifespan.startup.complete"})
        if "lifespan.shutdown" not in self.received:
            await self._receive()
