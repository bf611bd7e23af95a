"""Health of the providers, derived from the traffic without extra requests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ..exchange import PROVIDERS, Exchange, upstream_failed
from ..validation import check_integer, check_positive, check_strings
from .results import CheckResult, Observation


class ReportsProviders(Protocol):
    """A source of provider health."""

    def report(self) -> dict[str, Observation]:
        """Return observations by provider and name, such as `claude:status`."""
        ...


class ProviderHealth:
    """Observer of exchanges that counts the consecutive failures of each provider.

    A failure is a status of 500 or above, a missing response, or one that ended early. Client
    errors, rate limits, client disconnects and preflight requests do not count.

    Args:
        providers: Providers to watch.
        failures: Number of consecutive failures that makes a provider unhealthy.
        forget_after: Seconds after its last failure from which a provider without traffic is
            healthy again.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.

    Raises:
        ValueError: `failures` is not an integer of at least 1, `forget_after` is not above 0, or
            `providers` is not a list of strings.
    """

    def __init__(
        self,
        providers: Iterable[str] = PROVIDERS,
        *,
        failures: int = 10,
        forget_after: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        check_positive(forget_after=forget_after)
        self._threshold = check_integer("failures", failures)
        self._forget_after = forget_after
        self._clock, self._wall = clock, wall
        names = check_strings("providers", providers, "['openai', 'anthropic']")
        self._records = {name: _Record() for name in names}

    def __call__(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        record = self._records.get(exchange.provider)
        if record is None:
            return
        failed = upstream_failed(
            method=exchange.method,
            status=exchange.status,
            outcome=exchange.outcome,
            limited=exchange.limited,
        )
        if failed:
            record.failures += 1
            record.last_failure = self._clock()
        elif failed is False:
            record.failures = 0
            record.last_success = self._clock()

    def unhealthy(self) -> list[str]:
        """Return the providers whose consecutive failures have reached the threshold."""
        now = self._clock()
        return [name for name, record in self._records.items() if self._is_unhealthy(record, now)]

    def report(self) -> dict[str, Observation]:
        """Return an observation of each provider with traffic."""
        now, time_of_day = self._clock(), self._wall()
        return {
            f"{name}:consecutiveFailures": Observation(
                self._result(record, now), time_of_day, "component"
            )
            for name, record in self._records.items()
            if record.last_success is not None or record.last_failure is not None
        }

    def _is_unhealthy(self, record: _Record, now: float) -> bool:
        last = record.last_failure
        is_recent = last is not None and now - last < self._forget_after
        return is_recent and record.failures >= self._threshold

    def _result(self, record: _Record, now: float) -> CheckResult:
        last = record.last_success
        age = "never" if last is None else f"{now - last:.0f} s ago"
        return CheckResult(
            status="warn" if self._is_unhealthy(record, now) else "pass",
            observed_value=record.failures,
            observed_unit="failures",
            output=f"last success: {age}",
        )


class _Record:
    """Failures and successes of one provider."""

    __slots__ = ("failures", "last_failure", "last_success")

    def __init__(self) -> None:
        self.failures = 0
        self.last_failure: float | None = None
        self.last_success: float | None = None
