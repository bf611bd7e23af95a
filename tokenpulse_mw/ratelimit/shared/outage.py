"""When a storage fails: who may ask it meanwhile, and what the log says of it."""

from __future__ import annotations

import logging
from collections.abc import Callable

RETRY_EVERY = 1.0  # seconds

_log = logging.getLogger("tokenpulse_mw.ratelimit")


class Outage:
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
        self._storage = storage
        self._meanwhile = meanwhile
        self._patience = patience
        self._clock = clock
        self._next_try = 0.0

    def may_ask(self) -> bool:
        """Whether a request may ask the storage; others then decide without it at once."""
        if not self.down:
            return True
        now = self._clock()
        if now < self._next_try:
            return False
        # Also the time that this request may take: nobody else is to wait beside it.
        self._next_try = now + RETRY_EVERY + self._patience
        return True

    def failed(self, reason: str) -> None:
        """The storage did not answer."""
        now = self._clock()
        self._next_try = now + RETRY_EVERY
        if not self.down:
            self.down = True
            _log.warning(
                "rate limit storage %s cannot be asked (%s); until it can, %s",
                self._storage,
                reason,
                self._meanwhile,
            )

    def over(self) -> None:
        """The storage has answered the request that was let through to try."""
        if self.down:
            self.down = False
            _log.info("rate limit storage %s answers again", self._storage)
