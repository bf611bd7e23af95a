"""What a check may say, and how what several say adds up."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["pass", "warn", "fail"]

_WORSE: tuple[Status, ...] = get_args(Status)

_LARGEST = 2**64  # more than anything counts; without a bound, some could not be written down


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a check found, where that is more than yes or no.

    Args:
        status: `pass`, `warn` (works, but look at it) or `fail`.
        observed_value: What was measured: a text, a finite number, or a whole one of no more than
            64 bits.
        observed_unit: The unit of that.
        output: Why it is no `pass`, in words that everyone may read whom `authorize` lets see
            details.

    Raises:
        ValueError: `status` is none of the three, or something could not be told in JSON.
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
            raise ValueError(f"observed_value must be a finite number or a text, got {value!r}")
        for name in ("observed_unit", "output"):
            if not isinstance(getattr(self, name), str | None):
                raise ValueError(f"{name} must be a text, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Observation:
    """A result, when it was found, and what it was found of.

    Attributes:
        result: What was found.
        time: When, in seconds since 1970.
        component_type: `component`, `datastore`, `system`, a name of another list, or None.
    """

    result: CheckResult
    time: float
    component_type: str | None = None


def _is_endless(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def to_result(answer: Any) -> CheckResult:
    """What a check answered; anything but a bool or a `CheckResult` is a failure that says so.

    Python takes every text for true, "down" too, and a forgotten `return` gives None.
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
    """The status of the whole; `pass` where there is nothing."""
    return max(statuses, key=_WORSE.index, default="pass")
