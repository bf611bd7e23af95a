"""Results of checks, and their combined status."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["pass", "warn", "fail"]

_WORSE: tuple[Status, ...] = get_args(Status)

_LARGEST = 2**64  # larger integers may not be representable in JSON


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
        if self.status not in _WORSE:
            raise ValueError(f"status must be one of {list(_WORSE)}, got {self.status!r}")
        value = self.observed_value
        if isinstance(value, int) and not -_LARGEST < value < _LARGEST:
            raise ValueError("observed_value must be below 2**64, got a larger number")
        if not isinstance(value, int | float | str | None) or _is_endless(value):
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


def _is_endless(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def to_result(answer: Any) -> CheckResult:
    """Return the result for the return value of a check.

    Values other than a bool or a `CheckResult` are a failure: every non-empty string is true, also
    "down", and a function without `return` returns None.
    """
    if isinstance(answer, CheckResult):
        return answer
    if isinstance(answer, bool):
        return CheckResult(status="pass" if answer else "fail")
    return CheckResult(
        status="fail",
        output="the check must return True, False or a CheckResult, and returned a value of type "
        f"{type(answer).__name__}",
    )


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst status; `pass` if there is none."""
    return max(statuses, key=_WORSE.index, default="pass")
