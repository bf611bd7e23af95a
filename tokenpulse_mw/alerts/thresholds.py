"""The numbers that rules compare with, checked once."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """When rules fire. A threshold of None switches its rule off.

    Attributes:
        error_rate: Share of failed requests of a key, above 0 and at most 1, that is a spike.
        error_window: Seconds over which that share is taken.
        error_min_requests: Requests of a key below which its share means nothing.
        error_evidence: Fire only when the true share is above `error_rate` with 95 % certainty
            (the lower bound of Wilson's interval), not when a few requests had bad luck.
        count_client_errors: Count every status from 400 up as failed, as the seed does.
        provider_failures: Failures in a row that make a provider, or one of its credentials, down.
        resolve_ratio: A share's alert ends below this part of the threshold that fired it.

    Raises:
        ValueError: A value is out of range; 0 is no threshold.
    """

    error_rate: float | None = 0.1
    error_window: float = 300
    error_min_requests: int = 10
    error_evidence: bool = True
    count_client_errors: bool = False
    provider_failures: int | None = 10
    resolve_ratio: float = 0.8

    def __post_init__(self) -> None:
        if self.error_rate is not None:
            _check("error_rate", self.error_rate, above=0, most=1)
        _check("error_window", self.error_window, above=0)
        _check("error_min_requests", self.error_min_requests, above=0)
        if self.provider_failures is not None:
            _check("provider_failures", self.provider_failures, above=0)
        _check("resolve_ratio", self.resolve_ratio, above=0, most=1)


def _check(name: str, value: float, *, above: float, most: float = float("inf")) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not above < value <= most:
        limit = f" and at most {most}" if most != float("inf") else ""
        raise ValueError(f"{name} must be a number above {above}{limit}, got {value!r}")
