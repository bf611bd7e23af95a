"""What SIGTERM means: take no new traffic first, and end when the balancers know of it."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import FrameType
from typing import Any, Protocol

import anyio

from ..lifespan import background_tasks
from ..validation import check_seconds

logger = logging.getLogger("tokenpulse_mw.health")


class Drains(Protocol):
    """What is told that it drains, such as a `HealthRouter`."""

    draining: bool


@asynccontextmanager
async def drain_on_sigterm(health: Drains, *, delay: float = 3.0) -> AsyncIterator[None]:
    """Between SIGTERM and the server's own shutdown, serve for a while without being ready.

    Servers close their sockets on SIGTERM at once, when balancers still send them requests. To be
    entered in the lifespan, when the server has set its handler: that is called after the delay.
    A second SIGTERM cuts the wait short; SIGINT is not delayed. Where that cannot work (without a
    server's handler, or with one that was set by `loop.add_signal_handler`) it does nothing, and
    warns. On Windows, and outside of the main thread, where test clients run lifespans, it does
    nothing either, and says so at DEBUG.

    Args:
        health: Its `draining` is set on SIGTERM.
        delay: Seconds to go on serving; 0 leaves SIGTERM to the server.

    Raises:
        ValueError: `delay` is no number, negative or not finite.
    """
    check_seconds("delay", delay, zero=True)
    previous = signal.getsignal(signal.SIGTERM)
    if _is_left_to_the_server(previous, delay):
        yield
        return
    handler = _Handler(health, previous)
    signal.signal(signal.SIGTERM, handler)
    try:
        async with background_tasks(partial(handler.drain, delay)):
            yield
    finally:
        handler.passes_on = True
        if signal.getsignal(signal.SIGTERM) is handler:  # else somebody chained it as we did
            signal.signal(signal.SIGTERM, previous)
        handler.close()


def _is_left_to_the_server(previous: Any, delay: float) -> bool:
    """Whether SIGTERM is not delayed; that is said, and loudly where somebody counts on it."""
    needless = _needless(delay)
    if needless is not None:
        logger.debug("SIGTERM is left to the server: %s", needless)
        return True
    obstacle = _obstacle(previous)
    if obstacle is not None:
        logger.warning(
            "SIGTERM cannot be delayed by %g s, and readiness will not tell of it: %s; let "
            "something wait before SIGTERM, such as preStop, and set the delay to 0",
            delay,
            obstacle,
        )
    return obstacle is not None


def _needless(delay: float) -> str | None:
    """Why nobody expects it to be delayed here, if nobody does."""
    if delay == 0:
        return "the delay is 0"
    if sys.platform == "win32":
        return "Windows has none"
    if threading.current_thread() is not threading.main_thread():
        return "this is not the main thread"
    return None


def _obstacle(previous: Any) -> str | None:
    """Why it cannot be delayed, if it cannot."""
    if not callable(previous):
        return "the server has no handler for it"
    if _is_of_the_loop(previous):
        return "the event loop handles it"
    return None


def _is_of_the_loop(handler: Any) -> bool:
    """Whether it does nothing: the loop is woken by the signal itself, which nobody can delay."""
    module = str(getattr(handler, "__module__", None))
    return module.partition(".")[0] in ("asyncio", "uvloop")


class _Handler:
    """Handles SIGTERM: the first one begins to drain, and the next one ends that.

    Attributes:
        passes_on: The server's handler is called at once.
    """

    def __init__(self, health: Drains, previous: Any) -> None:
        self.passes_on = False
        self._health, self._previous = health, previous
        # A handler runs between any two steps of the program, so it may take no lock: it writes
        # to a socket, which wakes every kind of event loop.
        self._woken, self._wakes = socket.socketpair()
        self._woken.setblocking(False)
        self._wakes.setblocking(False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Called with each SIGTERM."""
        self._health.draining = True
        if self.passes_on:
            self._previous(number, frame)
        else:
            with suppress(BlockingIOError):
                self._wakes.send(b"\0")

    async def drain(self, delay: float) -> None:
        """Wait for SIGTERM, and let the server know of it after the delay."""
        await self._signalled()
        logger.info("SIGTERM: not ready any more; the server is to end in %g s", delay)
        with anyio.move_on_after(delay):
            await self._signalled()
        self.passes_on = True
        self._previous(int(signal.SIGTERM), None)

    def close(self) -> None:
        """Hold nothing open."""
        self._woken.close()
        self._wakes.close()

    async def _signalled(self) -> None:
        await anyio.wait_readable(self._woken)
        self._woken.recv(1)
