"""Readiness checks, run concurrently with deadlines."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from ..outages import Outages
from ..validation import check_seconds
from .results import CheckResult, Observation, to_result
from .single_flight import SingleFlight

logger = logging.getLogger("tokenpulse_mw.health")

_MAX_CONCURRENT_CHECKS = 16  # of one probe


class Checks:
    """Named checks, run concurrently.

    A request that arrives while a check runs waits for that run, until its deadline. A check that
    exceeds its deadline has failed, and is not started again until it returns.

    Args:
        checks: `Check`s or functions by name.
        timeout: Seconds for each check that does not set its timeout.
        deadline: Seconds for all checks together.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.

    Raises:
        ValueError: A time is not above 0, `checks` is not a mapping, or a check is not callable.
    """

    def __init__(
        self,
        checks: Mapping[str, AnyCheck],
        *,
        timeout: float,
        deadline: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(checks, Mapping):
            raise ValueError(
                f"checks must be a mapping, such as {{'database': is_up}}, got {checks!r}"
            )
        check_seconds("timeout", timeout)
        check_seconds("deadline", deadline)
        self._deadline = deadline
        self._checks = {
            name: _LoggedCheck(name, as_check(name, check), timeout, clock, wall)
            for name, check in checks.items()
        }

    def clear(self) -> None:
        """Discard the cached results."""
        for check in self._checks.values():
            check.call.clear()

    async def run(self) -> dict[str, Observation]:
        """Return the result of each check; a check that is not done in time has failed."""
        results: dict[str, Observation] = {}
        queue = iter(self._checks.items())

        async def work() -> None:
            for name, check in queue:
                results[name] = await check.call.get()

        with anyio.move_on_after(self._deadline):
            async with anyio.create_task_group() as tasks:
                for _ in range(min(_MAX_CONCURRENT_CHECKS, len(self._checks))):
                    tasks.start_soon(work)
        return {
            name: results[name] if name in results else check.call.late()
            for name, check in self._checks.items()
        }


class _LoggedCheck:
    """A check that logs changes of its status."""

    def __init__(
        self,
        name: str,
        check: Check,
        timeout: float,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._name, self._check, self._wall = name, check, wall
        self._outages = Outages(logger, clock=clock)  # by status
        self.call = SingleFlight(
            check.function,
            read=self._read,
            fail=self._fail,
            ttl=self._ttl,
            timeout=timeout if check.timeout is None else check.timeout,
            clock=clock,
        )

    def _read(self, value: Any) -> Observation:
        return self._observe(to_result(value))

    def _fail(self, error: BaseException | None) -> Observation:
        # Only the class: the text may contain a host name or a password.
        output = "timeout" if error is None else type(error).__name__
        return self._observe(CheckResult(status="fail", output=output), error)

    def _ttl(self, observation: Observation) -> float:
        passed = observation.result.status == "pass"
        return self._check.ttl if passed else self._check.failure_ttl

    def _observe(self, result: CheckResult, error: BaseException | None = None) -> Observation:
        if result.status == "fail" and not self._check.critical:
            result = CheckResult(
                status="warn",
                observed_value=result.observed_value,
                observed_unit=result.observed_unit,
                output=result.output,
            )
        self._log(result, error)
        return Observation(result, self._wall(), self._check.component_type)

    def _log(self, result: CheckResult, error: BaseException | None) -> None:
        status = result.status
        for previous in self._outages.lasting():
            if previous != status:
                self._outages.recovered(
                    previous,
                    "health check recovered: check=%r from=%s to=%s",
                    self._name,
                    previous,
                    status,
                )
        if status != "pass":
            self._outages.failed(
                status,
                "health check not passing: check=%r status=%s output=%r",
                self._name,
                status,
                result.output,
                error=error,
            )


CheckFunction = Callable[[], bool | CheckResult | Awaitable[bool | CheckResult]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check with options.

    Args:
        function: Returns a bool or a `CheckResult`, async or not. A function that is not async
            runs in a worker thread.
        critical: If True, the service is not ready while the check fails. If False, a failure is
            a warning.
        timeout: Seconds that the check may take; the router's `timeout` if None.
        ttl: Seconds for which a result is cached.
        failure_ttl: Seconds for which a failure is cached.
        component_type: Type of the component in `application/health+json`: `component`,
            `datastore`, `system`, or a URI.

    Raises:
        ValueError: `function` is not callable, a time is invalid, or `component_type` is not a
            string.
    """

    function: CheckFunction
    critical: bool = True
    timeout: float | None = None
    ttl: float = 1.0
    failure_ttl: float = 1.0
    component_type: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"check must be a function that returns a bool, got {self.function!r}")
        if not isinstance(self.component_type, str | None):
            raise ValueError(f"component_type must be a string, got {self.component_type!r}")
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        for name in ("ttl", "failure_ttl"):
            check_seconds(name, getattr(self, name), zero=True)


AnyCheck = Check | CheckFunction


def as_check(name: str, check: AnyCheck) -> Check:
    """Return a `Check` unchanged, and a function as a `Check` with default options.

    Raises:
        ValueError: `check` is not callable, or `name` is not a string.
    """
    if not isinstance(name, str):
        raise ValueError(f"check name must be a string, got {name!r}")
    if isinstance(check, Check):
        return check
    if not callable(check):
        raise ValueError(f"check {name!r} must be a function that returns a bool, got {check!r}")
    return Check(check)
