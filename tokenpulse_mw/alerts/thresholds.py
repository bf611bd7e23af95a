"""Validated thresholds of the alert rules."""

from __future__ import annotations

import dataclasses
import math
import reprlib
from dataclasses import dataclass
from typing import Any, Self

# The metrics of `traffic_spike`.
METRICS = ("global_qps", "master_rpm", "master_tpm", "master_rpd", "master_tpd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Range of valid numbers.

    Attributes:
        whole: Only integers.
        least: Minimum; None: above 0.
        most: Maximum.
        optional: None is valid and disables the rule.
    """

    whole: bool = False
    least: float | None = None
    most: float = 1e15
    optional: bool = False

    def problem(self, value: Any) -> str | None:
        """Return an error message for `value`, or None if it is valid."""
        if (value is None and self.optional) or self._has(value):
            return None
        return f"must be {self}, got {reprlib.repr(value)}"

    def _has(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            return False
        above = value > 0 if self.least is None else value >= self.least
        return above and value <= self.most

    def __str__(self) -> str:
        number = "an integer" if self.whole else "a number"
        start = "above 0" if self.least is None else f"of at least {self.least:.10g}"
        off = ", or None to disable it" if self.optional else ""
        return f"{number} {start} and at most {self.most:.10g}{off}"


_COUNT = Range(whole=True)


_MAX_SECONDS = 30 * 86_400  # seconds


_OFF_COUNT = Range(whole=True, optional=True)


_OFF_NUMBER = Range(least=0.001, optional=True)


_OFF_SECONDS = Range(least=0.001, most=_MAX_SECONDS, optional=True)


_OFF_SHARE = Range(most=1, optional=True)


_WAIT = Range(least=0, most=_MAX_SECONDS)


class InvalidThresholds(ValueError):  # noqa: N818 - public, like Conflict and BadRecord
    """Thresholds have invalid values or unknown names.

    Attributes:
        problems: Name and error message of each invalid threshold.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{name} {problem}" for name, problem in problems))
        self.problems = problems


def _value(default: Any, allowed: Range | Flag) -> Any:
    return dataclasses.field(default=default, metadata={"allowed": allowed})


@dataclass(frozen=True, slots=True)
class Flag:
    """Boolean setting."""

    def problem(self, value: Any) -> str | None:
        """Return an error message for `value`, or None if it is valid."""
        return (
            None if isinstance(value, bool) else f"must be true or false, got {reprlib.repr(value)}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """Thresholds of all rules. None disables a rule; 0 is invalid.

    The first five depend on the size of the gateway, so they are None by default. A tenant is
    called `master`, as in the seed.

    Attributes:
        global_qps: Requests a second of the whole gateway.
        master_rpm: Requests of a tenant in a minute.
        master_tpm: Input and output tokens of a tenant in a minute.
        master_rpd: Requests of a tenant in 24 hours.
        master_tpd: Input and output tokens of a tenant in 24 hours.
        min_rpm_requests_1m: Requests in a minute below which `master_rpm` never fires. It
            does not affect the severity.
        min_tpm_tokens_1m: Tokens in a minute below which `master_tpm` never fires.
        critical_factor: Multiple of the threshold from which a traffic spike is critical.
        error_rate: Share of failed requests of a key, above 0 and at most 1.
        error_window: Window of error rates and latencies in seconds. Use at least the engine's
            interval, so that nothing between two evaluations is missed.
        error_min_requests: Minimum number of requests for an error rate or a latency.
        error_evidence: Fire only when the true share is above its threshold with 95 % certainty
            (the lower bound of Wilson's interval).
        count_client_errors: Count every status from 400 up as a failure of the key.
        provider_failures: Failures in a row from which a provider or a credential is down.
        provider_error_rate: Share of failed requests of a provider that must be exceeded.
        provider_error_hold: Seconds that it must be exceeded before the alert fires.
        provider_latency_p95: 95th percentile of a provider's times to the first byte that must
            be exceeded, in seconds.
        provider_latency_hold: Seconds that it must be exceeded before the alert fires.
        provider_429_rpm: Responses with 429 in a minute, from a provider or from the gateway's own
            limit, that must be exceeded.
        provider_429_hold: Seconds that it must be exceeded before the alert fires.
        credential_rejections: Responses with 401 or 403 in a row from which an upstream credential
            is rejected.
        stalled_first_byte: Seconds without a byte of the response from which a request is stalled.
        stalled_stream: Seconds without a further byte from which the response to a POST that has
            begun is stalled.
        upstream_quota: Remaining share of a provider's rate limit from which the alert is a
            warning.
        quota_warning: Used share of a key's quota from which the alert is a warning.
        budget_warning: Used share of a key's budget in money from which the alert is a warning.
        resolve_ratio: Part of the threshold of a severity below which an alert loses that
            severity or is resolved (hysteresis).
        keep_firing: Seconds that a finding must be absent before the alert is resolved.
        traffic_keep_firing: The same for the amount of traffic (`rate_limit`,
            `rate_limit_exceeded` and `traffic_spike`), which comes in bursts.

    Raises:
        InvalidThresholds: Values are invalid; a `ValueError` that lists all of them.
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
    error_window: float = _value(300, Range(least=1, most=_MAX_SECONDS))
    error_min_requests: int = _value(10, _COUNT)
    error_evidence: bool = _value(True, Flag())
    count_client_errors: bool = _value(False, Flag())
    provider_failures: int | None = _value(10, _OFF_COUNT)
    provider_error_rate: float | None = _value(0.05, _OFF_SHARE)
    provider_error_hold: float = _value(300, _WAIT)
    provider_latency_p95: float | None = _value(5, _OFF_SECONDS)
    provider_latency_hold: float = _value(300, _WAIT)
    provider_429_rpm: float | None = _value(10, _OFF_NUMBER)
    provider_429_hold: float = _value(120, _WAIT)
    credential_rejections: int | None = _value(5, _OFF_COUNT)
    stalled_first_byte: float | None = _value(600, _OFF_SECONDS)
    stalled_stream: float | None = _value(120, _OFF_SECONDS)
    upstream_quota: float | None = _value(0.1, _OFF_SHARE)
    quota_warning: float | None = _value(0.9, _OFF_SHARE)
    budget_warning: float | None = _value(0.8, _OFF_SHARE)
    resolve_ratio: float = _value(0.8, Range(least=0.01, most=1))
    keep_firing: float = _value(300, _WAIT)
    traffic_keep_firing: float = _value(900, _WAIT)

    def __post_init__(self) -> None:
        problems = [
            (field.name, problem)
            for field in dataclasses.fields(self)
            if (problem := field.metadata["allowed"].problem(getattr(self, field.name)))
        ]
        if problems:
            raise InvalidThresholds(problems)

    @classmethod
    def fields(cls) -> tuple[str, ...]:
        """Return the names of all thresholds."""
        return tuple(field.name for field in dataclasses.fields(cls))

    def as_dict(self) -> dict[str, Any]:
        """Return all thresholds by name, as JSON values."""
        return dataclasses.asdict(self)

    def changed(self, /, **values: Any) -> Self:
        """Return a copy with some thresholds changed.

        Raises:
            InvalidThresholds: Names are unknown or values invalid.
        """
        known = {name: value for name, value in values.items() if name in self.fields()}
        problems = [(name, "is not a threshold") for name in values if name not in known]
        try:
            copy = dataclasses.replace(self, **known)
        except InvalidThresholds as error:
            raise InvalidThresholds(problems + error.problems) from None
        if problems:
            raise InvalidThresholds(problems)
        return copy

    def fires_at(self, metric: str) -> float:
        """Return the value from which a traffic spike of `metric` fires; infinity if it is off."""
        threshold: float | None = getattr(self, metric)
        if threshold is None:
            return math.inf
        least = {"master_rpm": self.min_rpm_requests_1m, "master_tpm": self.min_tpm_tokens_1m}
        return max(threshold, least.get(metric, 0))
