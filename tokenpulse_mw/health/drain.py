"""Draining on SIGTERM: readiness fails first, and the server closes after a delay."""

from __future__ import annotations

import logging
import multiprocessing
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
    """Fail readiness on SIGTERM, and delay the shutdown of the server.

    Servers close their sockets immediately on SIGTERM, while load balancers still send requests.
    Enter this context in the lifespan: the server has set its handler by then, and the handler is
    called after the delay. A second SIGTERM ends the delay; SIGINT is not delayed. `uvicorn
    --reload` replaces the code with SIGTERM, so it is not delayed then.

    If the server has no handler, or has set it with `loop.add_signal_handler`, SIGTERM is not
    delayed and a warning is logged. On Windows and outside of the main thread, as in test clients,
    it is not delayed and a DEBUG line is logged.

    Args:
        health: Its `draining` is set on SIGTERM.
        delay: Seconds to continue serving; 0 leaves SIGTERM to the server.

    Raises:
        ValueError: `delay` is not a finite number of at least 0.
    """
    check_seconds("delay", delay, zero=True)
    previous = signal.getsignal(signal.SIGTERM)
    if _is_not_delayed(previous, delay):
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


def _is_not_delayed(previous: Any, delay: float) -> bool:
    """Return True if SIGTERM is not delayed, and log the reason."""
    reason = _reason_to_skip(delay)
    if reason is not None:
        logger.debug("SIGTERM not delayed: reason=%r", reason)
        return True
    obstacle = _obstacle(previous)
    if obstacle is not None:
        logger.warning(
            "SIGTERM cannot be delayed: delay=%g reason=%r; readiness does not fail before the "
            "shutdown. Wait before SIGTERM, such as in preStop, and set the delay to 0",
            delay,
            obstacle,
        )
    return obstacle is not None


def _reason_to_skip(delay: float) -> str | None:
    """Return the reason for which no delay is expected, or None."""
    if delay == 0:
        return "the delay is 0"
    if sys.platform == "win32":
        return "Windows has no SIGTERM"
    if threading.current_thread() is not threading.main_thread():
        return "not the main thread"
    if _is_reloaded():
        return "the server reloads the code"
    return None


def _is_reloaded() -> bool:
    """Return True if this process was started by the reloader of uvicorn.

    A delay would only serve the old code for longer.
    """
    # Not `sys.argv`: `fastapi dev` and `uvicorn.run(..., reload=True)` have no `--reload`.
    arguments = getattr(multiprocessing.current_process(), "_kwargs", {})
    return bool(getattr(arguments.get("config"), "should_reload", False))


def _obstacle(previous: Any) -> str | None:
    """Return the reason for which a delay is not possible, or None."""
    if not callable(previous):
        return "the server has no SIGTERM handler"
    if _belongs_to_the_loop(previous):
        return "the event loop handles SIGTERM"
    return None


def _belongs_to_the_loop(handler: Any) -> bool:
    """Return True if the event loop handles the signal itself, which cannot be delayed."""
    module = str(getattr(handler, "__module__", None))
    return module.partition(".")[0] in ("asyncio", "uvloop")


class _Handler:
    """Handler of SIGTERM: the first one starts the drain, and the second ends it.

    Attributes:
        passes_on: If True, call the server's handler immediately.
    """

    def __init__(self, health: Drains, previous: Any) -> None:
        self.passes_on = False
        self._health, self._previous = health, previous
        # A signal handler interrupts the program anywhere, so it must not take a lock. Writing to a
        # socket wakes every kind of event loop.
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Start or end the drain."""
        self._health.draining = True
        if self.passes_on:
            self._previous(number, frame)
        else:
            with suppress(BlockingIOError):
                self._sender.send(b"\0")

    async def drain(self, delay: float) -> None:
        """Wait for SIGTERM, and call the server's handler after the delay."""
        await self._wait_for_signal()
        logger.info("drain started: signal=SIGTERM delay=%g", delay)
        with anyio.move_on_after(delay):
            await self._wait_for_signal()
        self.passes_on = True
        self._previous(int(signal.SIGTERM), None)

    def close(self) -> None:
        """Close the sockets."""
        self._receiver.close()
        self._sender.close()

    async def _wait_for_signal(self) -> None:
        await anyio.wait_readable(self._receiver)
        self._receiver.recv(1)
