"""Log lines of failures that end: their beginning, their recovery and their return."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable

RETURN_EVERY = 60.0  # seconds between two lines of a cause that comes and goes
REMIND_EVERY = 600.0  # seconds between two lines of a cause that lasts
MOST_CAUSES = 100


class Outage:
    """Logs the failures of one cause.

    The first failure is logged, then a reminder every ten minutes while it lasts, then the
    recovery. A cause that comes and goes is logged at most once a minute; the next line states
    how many failures it stands for. An outage without a line recovers without a line.

    Args:
        logger: Receives the lines.
        clock: Monotonic seconds.
        level: Level of the failures; a recovery is logged as INFO.

    Attributes:
        failures: Failures since the beginning; 0 if there is no outage.
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
        if now - self._logged_at < (REMIND_EVERY if self._is_logged else RETURN_EVERY):
            return False
        if self._unlogged > 1:
            message, arguments = f"{message} (failures=%d)", (*arguments, self._unlogged)
        self._logger.log(self._level, message, *arguments, exc_info=error)
        self._logged_at, self._is_logged, self._unlogged = now, True, 0
        return True

    def recovered(self, message: str, *arguments: object) -> None:
        """End the outage, if there is one; log `message` with its duration if it was logged."""
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
    """Outages by their cause. Causes beyond the hundredth share one outage, without an end.

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
            if len(self._outages) >= MOST_CAUSES:
                cause = None
            outage = self._outages.setdefault(
                cause, Outage(self._logger, clock=self._clock, level=self._level)
            )
        return outage.failed(message, *arguments, error=error)

    def recovered(self, cause: Hashable, message: str, *arguments: object) -> None:
        """End the outage of `cause`, if there is one."""
        outage = self._outages.get(cause)
        if outage is not None:
            outage.recovered(message, *arguments)

    def lasting(self) -> list[Hashable]:
        """Return the causes that have failed and not recovered."""
        return [cause for cause, outage in self._outages.items() if outage.failures]
