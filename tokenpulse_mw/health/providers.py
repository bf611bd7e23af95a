"""Passive health of the providers, from the traffic alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from ..exchange import PROVIDERS, Exchange
from .results import CheckResult, Observation


class ReportsProviders(Protocol):
    """A source of provider health."""

    def report(self) -> dict[str, Observation]:
        """Return observations by provider and name, such as `claude:status`."""
        ...


class ProviderHealth:
    """An observer of exchanges that counts each provider's consecutive failures.

    A failure is a response of 500 or above, a missing one, or one that broke off. Errors of
    clients, limits, clients that left and preflights do not count.

    Args:
        providers: Providers to watch.
        failures: Consecutive failures from which a provider is unhealthy.
        forget_after: Seconds after its last failure from which a provider without traffic is
            healthy again.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.

    Raises:
        ValueError: `failures` is not at least 1, `forget_after` not above 0, or `providers` is a
            string.
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
        if isinstance(providers, str):
            raise ValueError(f"providers must be a list of names, got the string {providers!r}")
        if not isinstance(failures, int) or failures < 1:
            raise ValueError(f"failures must be a whole number, 1 or more, got {failures!r}")
        if not isinstance(forget_after, int | float) or not forget_after > 0:
            raise ValueError(
                f"forget_after must be a number of seconds above 0, got {forget_after!r}"
            )
        self._most, self._forget_after = failures, forget_after
        self._clock, self._wall = clock, wall
        self._seen = {name: _Record() for name in providers}

    def __call__(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        seen = self._seen.get(exchange.provider)
        if seen is None or exchange.limited or exchange.method == "OPTIONS":
            return
        outcome, status = exchange.outcome, exchange.status
        if outcome == "complete" and status < 300:
            seen.failures = 0
            seen.last_success = self._clock()
        elif status >= 500 or outcome not in ("complete", "client_disconnect"):
            seen.failures += 1
            seen.last_failure = self._clock()

    def unhealthy(self) -> list[str]:
        """Return the providers that failed too often and have not succeeded since."""
        now = self._clock()
        return [name for name, seen in self._seen.items() if self._is_unhealthy(seen, now)]

    def report(self) -> dict[str, Observation]:
        """Return an observation of each provider with traffic."""
        now, today = self._clock(), self._wall()
        return {
            f"{name}:consecutiveFailures": Observation(self._result(seen, now), today, "component")
            for name, seen in self._seen.items()
            if seen.last_success is not None or seen.last_failure is not None
        }

    def _is_unhealthy(self, seen: _Record, now: float) -> bool:
        failed = seen.last_failure
        lately = failed is not None and now - failed < self._forget_after
        return lately and seen.failures >= self._most

    def _result(self, seen: _Record, now: float) -> CheckResult:
        succeeded = seen.last_success
        ago = "never" if succeeded is None else f"{now - succeeded:.0f} s ago"
        return CheckResult(
            status="warn" if self._is_unhealthy(seen, now) else "pass",
            observed_value=seen.failures,
            observed_unit="failures",
            output=f"last success: {ago}",
        )


class _Record:
    """Failures and successes of one provider."""

    __slots__ = ("failures", "last_failure", "last_success")

    def __init__(self) -> None:
        self.failures = 0
        self.last_failure: float | None = None
        self.last_success: float | None = None
