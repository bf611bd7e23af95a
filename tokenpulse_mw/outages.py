"""Log lines for outages: start, reminder, recovery and recurrence of a failure."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable

RECURRENCE_SECONDS = 60.0  # between two lines of a cause that recovers and fails again
REMINDER_SECONDS = 600.0  # between two lines of a cause that lasts
MAX_CAUSES = 100


class Outage:
    """Logs the failures of one cause.

    The first failure is logged, then a reminder every ten minutes while it lasts, then the
    recovery. A cause that recovers and fails repeatedly is logged at most once a minute; the next
    line has the number of failures since the last. The recovery of an outage that was not logged
    is not logged either.

    Args:
        logger: Receives the lines.
        clock: Monotonic seconds.
        level: Level of the failures; a recovery is logged as INFO.

    Attributes:
        failures: Failures since the start of the outage; 0 without an outage.
    """

    __slots__ = (
        "_began",
        "_clock",
        "_is_logged",
        "_level",
        "_logged_at",
        "_logger",
        "_unlogged",
        "failures",
    )

    def __init__(
        self,
        logger: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
        level: int = logging.WARNING,
    ) -> None:
        self.failures = 0
        self._logger = logger
        self._clock = clock
        self._level = level
        self._began = 0.0
        self._is_logged = False
        self._logged_at = -math.inf
        self._unlogged = 0

    def failed(self, message: str, *arguments: object, error: BaseException | None = None) -> bool:
        """Count a failure, and log `message` if a line is due.

        Args:
            message: As for `logging`.
            arguments: As for `logging`.
            error: Logged with its traceback.

        Returns:
            True if it was logged.
        """
        now = self._clock()
        if not self.failures:
            self._began = now
        self.failures += 1
        self._unlogged += 1
        if now - self._logged_at < (REMINDER_SECONDS if self._is_logged else RECURRENCE_SECONDS):
            return False
        if self._unlogged > 1:
            message, arguments = f"{message} (failures=%d)", (*arguments, self._unlogged)
        self._logger.log(self._level, message, *arguments, exc_info=error)
        self._logged_at, self._is_logged, self._unlogged = now, True, 0
        return True

    def recovered(self, message: str, *arguments: object) -> None:
        """End an outage; if it was logged, log `message` with its duration."""
        if not self.failures:
            return
        if self._is_logged:
            self._logger.info(
                f"{message} (seconds=%.0f failures=%d)",
                *arguments,
                self._clock() - self._began,
                self.failures,
            )
            self._unlogged = 0
        self.failures, self._is_logged = 0, False


class Outages:
    """Outages by cause. Causes beyond `MAX_CAUSES` share one outage, which never recovers.

    Args:
        logger: Receives the lines.
        clock: Monotonic seconds.
        level: Level of the failures.
    """

    def __init__(
        self,
        logger: logging.Logger,
        *,
        clock: Callable[[], float] = time.monotonic,
        level: int = logging.WARNING,
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._level = level
        self._outages: dict[Hashable, Outage] = {}

    def failed(
        self, cause: Hashable, message: str, *arguments: object, error: BaseException | None = None
    ) -> bool:
        """Count a failure of `cause`, as `Outage.failed` does."""
        outage = self._outages.get(cause)
        if outage is None:
            if len(self._outages) >= MAX_CAUSES:
                cause = None
            outage = self._outages.setdefault(
                cause, Outage(self._logger, clock=self._clock, level=self._level)
            )
        return outage.failed(message, *arguments, error=error)

    def recovered(self, cause: Hashable, message: str, *arguments: object) -> None:
        """End the outage of `cause`, as `Outage.recovered` does."""
        outage = self._outages.get(cause)
        if outage is not None:
            outage.recovered(message, *arguments)

    def lasting(self) -> list[Hashable]:
        """Return the causes that have failed and not recovered."""
        return [cause for cause, outage in self._outages.items() if outage.failures]
