"""What is to be said of a check: its function, how long it may take, and how much it matters."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from ..seconds import check_seconds
from .results import CheckResult

CheckFunction = Callable[[], bool | CheckResult | Awaitable[bool | CheckResult]]


@dataclass(frozen=True, slots=True)
class Check:
    """A check, where more is to be said of it than its function.

    Args:
        function: Gives a bool or a `CheckResult`; async or not. One that is not async runs in a
            worker thread.
        critical: The service is not ready without it. A check that is not critical only warns.
        timeout: Seconds that it may take; those of the router when None.
        ttl: Seconds for which a result is kept.
        failure_ttl: Seconds for which a failure is kept.
        component_type: What is checked, for `application/health+json`: `component`, `datastore`,
            `system`, or a name of another list.

    Raises:
        ValueError: `function` cannot be called, a time is malformed, or `component_type` no text.
    """

    function: CheckFunction
    critical: bool = True
    timeout: float | None = None
    ttl: float = 1.0
    failure_ttl: float = 1.0
    component_type: str | None = None

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise ValueError(f"a check must be a function that gives a bool, got {self.function!r}")
        if not isinstance(self.component_type, str | None):
            raise ValueError(f"component_type must be a text, got {self.component_type!r}")
        if self.timeout is not None:
            check_seconds("timeout", self.timeout)
        for name in ("ttl", "failure_ttl"):
            check_seconds(name, getattr(self, name), zero=True)


AnyCheck = Check | CheckFunction


def as_check(name: str, given: AnyCheck) -> Check:
    """`given` as a `Check`.

    Raises:
        ValueError: It cannot be called, or `name` is no text.
    """
    if not isinstance(name, str):
        raise ValueError(f"a check must be given by its name, got {name!r}")
    if isinstance(given, Check):
        return given
    if not callable(given):
        raise ValueError(f"check {name!r} must be a function that gives a bool, got {given!r}")
    return Check(given)
