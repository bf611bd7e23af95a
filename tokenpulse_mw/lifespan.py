"""ASGI lifespan of an application, run inside a context of this library."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import EventLoopToken, current_token
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("tokenpulse_mw")

Work = Callable[[], Coroutine[Any, Any, None]]

_FINAL_MESSAGES = {
    "lifespan.startup.failed",
    "lifespan.shutdown.complete",
    "lifespan.shutdown.failed",
}


class _NoLifespanError(Exception):
    """The application handles its lifespan as a request, so it does not support lifespans."""


class LoopLock:
    """Lock of the running event loop: `async with lock():`.

    Locks of anyio belong to the event loop that uses them first, but an application may be started
    again in another one.

    Args:
        fast_acquire: See `anyio.Lock`.
    """

    def __init__(self, *, fast_acquire: bool = False) -> None:
        self._fast_acquire = fast_acquire
        self._of_loop: tuple[EventLoopToken, anyio.Lock] | None = None

    def __call__(self) -> anyio.Lock:
        """Return the lock."""
        loop = current_token()
        if self._of_loop is None or self._of_loop[0] != loop:
            self._of_loop = loop, anyio.Lock(fast_acquire=self._fast_acquire)
        return self._of_loop[1]


@asynccontextmanager
async def background_tasks(*functions: Work) -> AsyncIterator[None]:
    """Run `functions` as tasks, and cancel them at the end of the body."""
    tasks = anyio.create_task_group()
    await tasks.__aenter__()
    for function in functions:
        tasks.start_soon(function)
    try:
        yield
    finally:
        tasks.cancel_scope.cancel()
        # The task group is not passed an error of the body, because it would wrap it.
        await tasks.__aexit__(None, None, None)


async def run_lifespan(
    app: ASGIApp,
    context: Callable[[], AbstractAsyncContextManager[object]],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Run the ASGI lifespan of `app` inside `context`.

    Messages that the application does not send or receive are handled in its place, so that
    `context` stays open until the server shuts down. An application may raise on the scope,
    return at once, handle it as a request, or raise after its start.

    Raises:
        Exception: Error of the application after it sent a lifespan message. If it had started,
            the error is raised only when the server shuts down.
    """
    lifespan = _Lifespan(receive, send)
    failure: Exception | None = None
    async with context():
        try:
            await app(scope, lifespan.receive, lifespan.send)
        except _NoLifespanError:
            pass
        except Exception as error:
            if lifespan.sent:  # the application supports lifespans, and this one failed
                failure = error
            elif lifespan.received:  # as in ASGI, the server continues; startup may have failed
                logger.warning("application raised in its lifespan", exc_info=True)
        await lifespan.complete()
    if failure is not None:
        raise failure
    if _FINAL_MESSAGES.isdisjoint(lifespan.sent):
        await send({"type": "lifespan.shutdown.complete"})


class _Lifespan:
    """Messages between the server and the application, and completion of the missing ones."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self.received: list[str] = []
        self.sent: list[str] = []
        self._receive = receive
        self._send = send

    async def receive(self) -> Message:
        """Return the next message of the server."""
        message = await self._receive()
        self.received.append(message["type"])
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the application to the server."""
        if not message["type"].startswith("lifespan."):
            raise _NoLifespanError(message["type"])
        self.sent.append(message["type"])
        await self._send(message)

    async def complete(self) -> None:
        """Complete the startup if the application has not, and wait for the shutdown."""
        if "lifespan.startup.failed" in self.sent:
            return
        if "lifespan.startup" not in self.received:
            await self._receive()
        if not self.sent:
            await self._send({"type": "lifespan.startup.complete"})
        if "lifespan.shutdown" not in self.received:
            await self._receive()
