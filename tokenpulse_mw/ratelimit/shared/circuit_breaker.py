"""Circuit breaker of a shared storage."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...outages import Outage as LoggedOutage

RETRY_SECONDS = 1.0

_log = logging.getLogger("tokenpulse_mw.ratelimit")


class CircuitBreaker:
    """Circuit breaker that allows one request per second during an outage of a storage.

    Args:
        storage: Name of the storage, for the log.
        fallback: Description of the behaviour during an outage, for the log.
        timeout: Seconds that a request may take.
        clock: Monotonic seconds.

    Attributes:
        down: True during an outage.
    """

    def __init__(
        self, storage: str, *, fallback: str, timeout: float, clock: Callable[[], float]
    ) -> None:
        self.down = False
        self._rejects_writes = False
        self._storage = storage
        self._fallback = fallback
        self._timeout = timeout
        self._clock = clock
        self._next_try = 0.0
        self._log = LoggedOutage(_log, clock=clock)

    def allows(self) -> bool:
        """Return True if a request may use the storage; during an outage, one per second may."""
        if not self.down:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # Include the timeout of this request, so that no second request waits for the storage.
        self._next_try = now + RETRY_SECONDS + self._timeout
        return True

    def record_failure(self, reason: str, *, rejects_writes: bool = False) -> None:
        """Begin or continue an outage.

        Args:
            reason: Error text for the log.
            rejects_writes: True if the storage responds but does not count: it is full or
                read-only.
        """
        self._next_try = self._clock() + RETRY_SECONDS
        self.down, self._rejects_writes = True, rejects_writes
        self._log.failed(
            "rate limit storage %s %s (%s); until it recovers, %s",
            self._storage,
            "cannot count" if rejects_writes else "is unavailable",
            reason,
            self._fallback,
        )

    def record_success(self, *, wrote: bool) -> None:
        """End the outage after the request that `allows` let through.

        Args:
            wrote: True if the request was counted. Only this ends an outage of writes.
        """
        if not self.down:
            return
        if self._rejects_writes and not wrote:
            self._next_try = self._clock() + RETRY_SECONDS
        else:
            self.down = False
            self._log.recovered("rate limit storage %s is available again", self._storage)
