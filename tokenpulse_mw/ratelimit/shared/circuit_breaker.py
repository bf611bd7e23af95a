"""When a storage fails: who may ask it meanwhile, and what the log says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...outages import Outage as LoggedOutage

RETRY_SECONDS = 1.0  # seconds


_log = logging.getLogger("tokenpulse_mw.ratelimit")


class CircuitBreaker:
    """Knows whether a storage answers, and lets one request a second find out when it does not.

    Args:
        storage: How the log calls the storage.
        meanwhile: What is done without it, for the log.
        patience: Seconds that an answer may take.
        clock: Monotonic seconds.

    Attributes:
        down: The storage did not answer when it was last asked.
    """

    def __init__(
        self, storage: str, *, meanwhile: str, patience: float, clock: Callable[[], float]
    ) -> None:
        self.down = False
        self._of_writes = False
        self._storage = storage
        self._meanwhile = meanwhile
        self._patience = patience
        self._clock = clock
        self._next_try = 0.0
        self._log = LoggedOutage(_log, clock=clock)

    def allows(self) -> bool:
        """Whether a request may ask the storage; others then decide without it at once."""
        if not self.down:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # Also the time that this request may take: nobody else is to wait beside it.
        self._next_try = now + RETRY_SECONDS + self._patience
        return True

    def record_failure(self, reason: str, *, of_writes: bool = False) -> None:
        """Begin or continue an outage.

        Args:
            reason: The error, for the log.
            of_writes: The storage answers, and counts nothing: it is full, or read-only.
        """
        self._next_try = self._clock() + RETRY_SECONDS
        self.down, self._of_writes = True, of_writes
        self._log.failed(
            "rate limit storage %s %s (%s); until it recovers, %s",
            self._storage,
            "cannot count" if of_writes else "is unavailable",
            reason,
            self._meanwhile,
        )

    def answered(self, *, wrote: bool) -> None:
        """End the outage: the storage has answered the request that was let through to try.

        Args:
            wrote: The request was counted. An outage of writes ends with nothing less.
        """
        if not self.down:
            return
        if self._of_writes and not wrote:
            self._next_try = self._clock() + RETRY_SECONDS
        else:
            self.down = False
            self._log.recovered("rate limit storage %s is available again", self._storage)
