"""Results of checks, and their combined status."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from ..validation import check_choice, describe

Status = Literal["pass", "warn", "fail"]

_STATUSES: tuple[Status, ...] = get_args(Status)  # from best to worst
_INTEGER_LIMIT = 2**64  # larger integers may not be representable in JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """The result of a check, with details.

    Args:
        status: `pass`, `warn` (works, but needs attention) or `fail`.
        observed_value: The measured value: a string, a finite number, or an integer of at most 64
            bits.
        observed_unit: The unit of the value.
        output: The reason of a `warn` or `fail`, shown to requests that `authorize` accepts.

    Raises:
        ValueError: `status` is invalid, or a value cannot be represented in JSON.
    """

    status: Status = "pass"
    observed_value: float | str | None = None
    observed_unit: str | None = None
    output: str | None = None

    def __post_init__(self) -> None:
        check_choice("status", self.status, _STATUSES)
        value = self.observed_value
        if isinstance(value, int) and not -_INTEGER_LIMIT < value < _INTEGER_LIMIT:
            raise ValueError(
                "observed_value must be an integer of at most 64 bits, got a larger one"
            )
        if not isinstance(value, int | float | str | None) or _is_not_finite(value):
            raise ValueError(f"observed_value must be a finite number or a string, got {value!r}")
        for name in ("observed_unit", "output"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a string, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Observation:
    """A result with its time and component.

    Attributes:
        result: The result.
        time: Seconds since the epoch.
        component_type: `component`, `datastore`, `system`, a URI, or None.
    """

    result: CheckResult
    time: float
    component_type: str | None = None


def _is_not_finite(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def to_result(value: Any) -> CheckResult:
    """Return the result for the return value of a check.

    Values other than a bool or a `CheckResult` are failures: a string such as "down" is true, and a
    function without `return` returns None.
    """
    if isinstance(value, CheckResult):
        return value
    if isinstance(value, bool):
        return CheckResult(status="pass" if value else "fail")
    return CheckResult(
        status="fail",
        output=f"check must return True, False or a CheckResult, got {describe(value)}",
    )


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst status, or `pass` if there are no statuses."""
    return max(statuses, key=_STATUSES.index, default="pass")
