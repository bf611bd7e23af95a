"""The numbers that rules compare with, checked once."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any, Self

# What a traffic spike can be of.
METRICS = ("global_qps", "master_rpm", "master_tpm", "master_rpd", "master_tpd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers that a setting may be.

    Attributes:
        whole: No fractions.
        least: The smallest, if it may be that itself; else it must be above 0.
        most: The largest.
        optional: None is allowed too, and switches something off.
    """

    whole: bool = False
    least: float | None = None
    most: float = 1e15
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if (value is None and self.optional) or self._has(value):
            return None
        return f"must be {self}, got {reprlib.repr(value)}"

    def _has(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > 0 if self.least is None else value >= self.least
        return above and value <= self.most

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        start = "above 0" if self.least is None else f"of at least {self.least:.10g}"
        off = ", or None to switch it off" if self.optional else ""
        return f"{number} {start} and at most {self.most:.10g}{off}"


_COUNT = Range(whole=True)


_LONGEST = 30 * 86_400  # seconds


_OFF_COUNT = Range(whole=True, optional=True)


_OFF_NUMBER = Range(least=0.001, optional=True)


_OFF_SHARE = Range(most=1, optional=True)


_WAIT = Range(least=0, most=_LONGEST)


class InvalidThresholds(ValueError):  # noqa: N818 - named for what it is about
    """Some thresholds are wrong, or there is no such threshold.

    Attributes:
        problems: For each that is wrong its name, and what is wrong with it.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name} {problem}" for name, problem in problems))
        self.problems = problems


def _value(default: Any, allowed: Range | Flag) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True, slots=True)
class Flag:
    """Yes or no."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return (
            None if isinstance(value, bool) else f"must be true or false, got {reprlib.repr(value)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When rules fire. A threshold of None switches its rule off; 0 is no threshold.

    The first five are the seed's; a library cannot know how large a gateway is, so they are off
    until they are set. All other defaults are ours.

    Attributes:
        global_qps: Requests a second of the whole gateway.
        master_rpm: Requests of a master in a minute.
        master_tpm: Tokens of a master in a minute, read and written.
        master_rpd: Requests of a master in 24 hours.
        master_tpd: Tokens of a master in 24 hours.
        min_rpm_requests_1m: Requests in a minute below which `master_rpm` never fires. Where it
            is above `master_rpm` it decides, and how bad it is still follows `master_rpm`.
        min_tpm_tokens_1m: The same of tokens, for `master_tpm`.
        critical_factor: How many times its threshold makes a traffic spike critical.
        error_rate: Share of failed requests of a key, above 0 and at most 1, that is a spike.
        error_window: Seconds over which shares and latencies are taken; at least the engine's
            interval, or what happens between two rounds may be missed.
        error_min_requests: Requests below which a share means nothing.
        error_evidence: Fire only when the true share is above its threshold with 95 % certainty
            (the lower bound of Wilson's interval), not when a few requests had bad luck.
        count_client_errors: Count every status from 400 up as a key's failure, as the seed does.
        provider_failures: Failures in a row that make a provider, or one of its credentials, down.
        provider_error_rate: Share of a provider's requests that may fail, but not more.
        provider_error_hold: Seconds that it must be more before it fires.
        provider_latency_p95: Seconds within which 95 % of a provider's answers must be over.
        provider_latency_hold: Seconds that they must not be before it fires.
        provider_429_rpm: Requests to a provider in a minute that may be answered with 429, by it
            or by our own limit, but not more.
        provider_429_hold: Seconds that it must be more before it fires.
        quota_warning: Share of a key's quota that is worth a warning.
        resolve_ratio: An alert ends below this part of the threshold that fired it, and gets
            better below this part of the one that made it as bad as it is.
        keep_firing: Seconds that an alert's cause must be gone before it ends.

    Raises:
        InvalidThresholds: Values are out of range; a `ValueError` that tells of each.
    """

    global_qps: float | None = _value(None, _OFF_NUMBER)
    master_rpm: int | None = _value(None, _OFF_COUNT)
    master_tpm: int | None = _value(None, _OFF_COUNT)
    master_rpd: int | None = _value(None, _OFF_COUNT)
    master_tpd: int | None = _value(None, _OFF_COUNT)
    min_rpm_requests_1m: int = _value(10, _COUNT)
    min_tpm_tokens_1m: int = _value(1000, _COUNT)
    critical_factor: float = _value(2, Range(least=1))
    error_rate: float | None = _value(0.1, _OFF_SHARE)
    error_window: float = _value(300, Range(least=1, most=_LONGEST))
    error_min_requests: int = _value(10, _COUNT)
    error_evidence: bool = _value(True, Flag())
    count_client_errors: bool = _value(False, Flag())
    provider_failures: int | None = _value(10, _OFF_COUNT)
    provider_error_rate: float | None = _value(0.05, _OFF_SHARE)
    provider_error_hold: float = _value(300, _WAIT)
    provider_latency_p95: float | None = _value(5, Range(least=0.001, most=_LONGEST, optional=True))
    provider_latency_hold: float = _value(300, _WAIT)
    provider_429_rpm: float | None = _value(10, _OFF_NUMBER)
    provider_429_hold: float = _value(120, _WAIT)
    quota_warning: float | None = _value(0.9, _OFF_SHARE)
    resolve_ratio: float = _value(0.8, Range(least=0.01, most=1))
    keep_firing: float = _value(0, _WAIT)

    def __post_init__(self) -> None:
        problems = [
            (each.name, problem)
            for each in dataclasses.fields(self)
            if (problem := each.metadata["allowed"].problem(getattr(self, each.name)))
        ]
        if problems:
            raise InvalidThresholds(problems)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """The name of every threshold."""
        return tuple(each.name for each in dataclasses.fields(cls))

    def as_dict(self) -> dict[str, Any]:
        """Every threshold by its name, fit for JSON."""
        return dataclasses.asdict(self)

    def changed(self, /, **values: Any) -> Self:
        """A copy with some thresholds changed.

        Raises:
            InvalidThresholds: Tells of every name that is none, and of every wrong value.
        """
        known = {name: value for name, value in values.items() if name in self.fields()}
        problems = [(name, "is no threshold") for name in values if name not in known]
        try:
            copy = dataclasses.replace(self, **known)
        except InvalidThresholds as error:
            raise InvalidThresholds(problems + error.problems) from None
        if problems:
            raise InvalidThresholds(problems)
        return copy

    def fires_at(self, metric: str) -> float:
        """From where on a traffic spike of `metric` fires; infinity where it is off."""
        threshold: float | None = getattr(self, metric)
        if threshold is None:
            return math.inf
        least = {"master_rpm": self.min_rpm_requests_1m, "master_tpm": self.min_tpm_tokens_1m}
        return max(threshold, least.get(metric, 0))
