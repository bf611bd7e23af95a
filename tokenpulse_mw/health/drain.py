"""Draining on SIGTERM: readiness fails first, and the server closes after a delay."""

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
    """An object with a `draining` flag, such as a `HealthRouter`."""

    draining: bool


@asynccontextmanager
async def drain_on_sigterm(health: Drains, *, delay: float = 3.0) -> AsyncIterator[None]:
    """Serve without being ready for a while between SIGTERM and the server's shutdown.

    Servers close their sockets at once on SIGTERM, while balancers still send requests. Enter this
    in the lifespan, after the server has set its handler, which is called after the delay. A second
    SIGTERM ends the delay; SIGINT is not delayed. If the server has no handler, or set it with
    `loop.add_signal_handler`, nothing is delayed and a warning is logged. On Windows and outside
    of the main thread, as in test clients, nothing is delayed and a DEBUG line is logged.

    Args:
        health: Its `draining` is set on SIGTERM.
        delay: Seconds to continue serving; 0 leaves SIGTERM to the server.

    Raises:
        ValueError: `delay` is not a finite number of at least 0.
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
        if signal.getsignal(signal.SIGTERM) is handler:  # else another handler wraps it
            signal.signal(signal.SIGTERM, previous)
        handler.close()


def _is_left_to_the_server(previous: Any, delay: float) -> bool:
    """Return True if SIGTERM is not delayed, and log why; as a warning if it was to be."""
    needless = _needless(delay)
    if needless is not None:
        logger.debug("SIGTERM is left to the server: %s", needless)
        return True
    obstacle = _obstacle(previous)
    if obstacle is not None:
        logger.warning(
            "SIGTERM cannot be delayed by %g s, and readiness does not fail before: %s; wait "
            "before SIGTERM, such as in preStop, and set the delay to 0",
            delay,
            obstacle,
        )
    return obstacle is not None


def _needless(delay: float) -> str | None:
    """Return why no delay is expected here, or None."""
    if delay == 0:
        return "the delay is 0"
    if sys.platform == "win32":
        return "Windows has none"
    if threading.current_thread() is not threading.main_thread():
        return "this is not the main thread"
    return None


def _obstacle(previous: Any) -> str | None:
    """Return why a delay is not possible, or None."""
    if not callable(previous):
        return "the server has no handler for it"
    if _is_of_the_loop(previous):
        return "the event loop handles it"
    return None


def _is_of_the_loop(handler: Any) -> bool:
    """Return True if the event loop handles the signal itself, which cannot be delayed."""
    module = str(getattr(handler, "__module__", None))
    return module.partition(".")[0] in ("asyncio", "uvloop")


class _Handler:
    """Handler of SIGTERM: the first one starts the drain, and the second ends it.

    Attributes:
        passes_on: Call the server's handler at once.
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
        """Start or end the drain."""
        self._health.draining = True
        if self.passes_on:
            self._previous(number, frame)
        else:
            with suppress(BlockingIOError):
                self._wakes.send(b"\0")

    async def drain(self, delay: float) -> None:
        """Wait for SIGTERM, and call the server's handler after the delay."""
        await self._signalled()
        logger.info("SIGTERM: no longer ready; the server shuts down in %g s", delay)
        with anyio.move_on_after(delay):
            await self._signalled()
        self.passes_on = True
        self._previous(int(signal.SIGTERM), None)

    def close(self) -> None:
        """Close the sockets."""
        self._woken.close()
        self._wakes.close()

    async def _signalled(self) -> None:
        await anyio.wait_readable(self._woken)
        self._woken.recv(1)
