"""Check of the event loop lag, which delays every request."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from ..lifespan import background_tasks
from ..validation import check_seconds
from .results import CheckResult, Status

_INTERVAL = 0.25  # seconds between two measurements
_SAMPLES = 40  # ten seconds


class EventLoopLag:
    """Check of the largest lag of the event loop in the last ten seconds.

    The lag is measured inside of `running()`, which `HealthRouter.running()` enters.

    Args:
        warn: Seconds from which the check warns.
        fail: Seconds from which it fails, so that the service is not ready; None never fails.

    Raises:
        ValueError: `warn` is not above 0, or `fail` not above `warn`.
    """

    def __init__(self, *, warn: float = 0.5, fail: float | None = None) -> None:
        check_seconds("warn", warn)
        if fail is not None:
            check_seconds("fail", fail)
        self._warn, self._fail = warn, math.inf if fail is None else fail
        if self._fail <= warn:
            raise ValueError(f"fail must be above warn ({warn!r} seconds), got {fail!r}")
        self._lags: deque[float] = deque(maxlen=_SAMPLES)

    async def __call__(self) -> CheckResult:
        """Return the result of the last ten seconds."""
        if not self._lags:
            return CheckResult(status="warn", output="not measured: running() is not entered")
        return to_result(max(self._lags), warn=self._warn, fail=self._fail)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Measure during the body."""
        self._lags.append(0.0)
        async with background_tasks(self._measure):
            try:
                yield
            finally:
                self._lags.clear()

    async def _measure(self) -> None:
        while True:
            due = anyio.current_time() + _INTERVAL
            await anyio.sleep_until(due)
            self._lags.append(max(0.0, anyio.current_time() - due))


def to_result(lag: float, *, warn: float, fail: float) -> CheckResult:
    """Return the result for a lag in seconds."""
    status: Status = "fail" if lag >= fail else "warn" if lag >= warn else "pass"
    return CheckResult(
        status=status,
        observed_value=round(lag, 3),
        observed_unit="s",
        output="the event loop is blocked",
    )
