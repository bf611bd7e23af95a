"""Value that is read at most every few seconds, with a timeout."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import anyio

from ..lifespan import LoopLock
from ..outages import Outage

logger = logging.getLogger("tokenpulse_mw")

Value = TypeVar("Value")


class Cached(Generic[Value]):
    """Value of a source that may be slow or fail; concurrent requests share one call.

    A failure is logged, and the source is called again only after `ttl` seconds.

    Args:
        read: Returns the value.
        default: Value before the first success, and after a failure.
        of: Name of the value, for the log.
        ttl: Seconds for which a value or a failure is used.
        timeout: Seconds that a call may take.
        clock: Monotonic seconds.

    Attributes:
        is_failing: True if the last call failed.
    """

    def __init__(
        self,
        read: Callable[[], Awaitable[Value]],
        default: Value,
        *,
        of: str,
        ttl: float = 5.0,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_failing = False
        self._read, self._default, self._of = read, default, of
        self._ttl, self._timeout, self._clock = ttl, timeout, clock
        self._value, self._due = default, -math.inf
        self._lock = LoopLock()
        self._outage = Outage(logger, clock=clock)

    def clear(self) -> None:
        """Discard the value, so that the next request reads it."""
        self._value, self._due, self.is_failing = self._default, -math.inf, False

    async def get(self) -> Value:
        """Return the value, which is read again if it is too old."""
        if self._clock() < self._due:
            return self._value
        async with self._lock():
            if self._clock() >= self._due:
                await self._refresh()
        return self._value

    async def _refresh(self) -> None:
        try:
            with anyio.fail_after(self._timeout):
                self._value = await self._read()
        except Exception as error:  # noqa: BLE001 - the page shows the rest
            self._value, self.is_failing = self._default, True
            self._outage.failed("dashboard value unknown: value=%s error=%r", self._of, error)
        else:
            self.is_failing = False
            self._outage.recovered("dashboard value known again: value=%s", self._of)
        self._due = self._clock() + self._ttl
