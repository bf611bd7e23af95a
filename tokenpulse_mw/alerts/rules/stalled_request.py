"""Rule for requests in progress that no longer move."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ...exchange import RequestInProgress, RequestsInProgress, truncate_with_hash
from ..lifecycle import Finding, Subject
from ..thresholds import Thresholds
from ..traffic.bucket import ReportKey, Usage
from ..traffic.traffic import Traffic
from .rule import duration_text, escaped

_MAX_REQUESTS = 100  # the oldest ones that are looked at
_MIN_REPORTED_SECONDS = 1.0
_MISSING = {"waiting": "no byte of the response", "streaming": "no further byte"}


class _Stalled(NamedTuple):
    """Requests of a route and a provider that are idle in the same phase.

    Attributes:
        idle: Seconds of the one that has been idle longest.
        requests: Number of requests.
        detail: Age, tenant and model of that request; empty if it is in another process.
    """

    idle: float
    requests: int
    detail: str = ""


class StalledRequest:
    """The rule that `stalled_request` returns.

    Attributes:
        in_progress: The requests of this process.
    """

    name = "stalled_request"

    def __init__(self, in_progress: RequestsInProgress) -> None:
        self.in_progress = in_progress

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        """Return a finding for each route, phase and provider with stalled requests."""
        limits = idle_limits(thresholds)
        least = min(limits.values())
        if least == math.inf:
            return
        groups = _groups(self.in_progress.requests(limit=_MAX_REQUESTS, min_idle=least), limits)
        for (rule, part, route), (idle, _, requests) in traffic.reports.items():
            phase, _, provider = part.partition(":")
            limit = limits.get(phase, math.inf)
            # False for NaN, and for numbers that no process reports.
            is_stalled = limit <= idle < math.inf and 1 <= requests < math.inf
            if rule == self.name and is_stalled:
                key = (phase, provider, route)
                groups[key] = max(groups.get(key, _Stalled(0, 0)), _Stalled(idle, int(requests)))
        for (phase, provider, route), stalled in groups.items():
            yield _finding(phase, provider, route, stalled, limits[phase], thresholds)

    async def report(self) -> dict[ReportKey, Usage]:
        """Return the idle time and the number of idle requests of each route."""
        idle = self.in_progress.requests(limit=_MAX_REQUESTS, min_idle=_MIN_REPORTED_SECONDS)
        return {
            ReportKey(self.name, f"{phase}:{provider}", route): (
                group.idle,
                1.0,
                float(group.requests),
            )
            for (phase, provider, route), group in _groups(idle).items()
        }


def stalled_request(in_progress: RequestsInProgress | None = None) -> StalledRequest:
    """Return a rule that fires while requests have been idle for too long.

    A request is idle while neither side sends a byte: until the first byte of the response it may
    be so for `stalled_first_byte` seconds, then for `stalled_stream`. The age does not matter, so a
    long stream that moves is not stalled. A stream that is not the response to a POST, such as an
    event feed, is never stalled. Processes that do not lead report their idle requests to the
    leader once in an interval.

    Args:
        in_progress: The requests of this process; new ones if None. `AlertMiddleware` and
            `TokenPulse` fill those of their engine; otherwise pass them to `ExchangeMiddleware`.

    Raises:
        ValueError: `in_progress` has another type.
    """
    if in_progress is None:
        in_progress = RequestsInProgress()
    if not isinstance(in_progress, RequestsInProgress):
        raise ValueError(f"in_progress must be RequestsInProgress(...), got {in_progress!r}")
    return StalledRequest(in_progress)


def idle_limits(thresholds: Thresholds) -> dict[str, float]:
    """Return the idle time by phase from which a request is stalled; infinity if it never is."""
    return {
        "waiting": _or_infinity(thresholds.stalled_first_byte),
        "streaming": _or_infinity(thresholds.stalled_stream),
    }


def _or_infinity(seconds: float | None) -> float:
    return math.inf if seconds is None else seconds


def _groups(
    requests: list[RequestInProgress], limits: Mapping[str, float] | None = None
) -> dict[tuple[str, str, str], _Stalled]:
    groups: dict[tuple[str, str, str], _Stalled] = {}
    for request in requests:
        if limits is not None and request.idle < limits[request.phase]:
            continue
        exchange = request.exchange
        key = (request.phase, exchange.provider, truncate_with_hash(exchange.route))
        group = groups.get(key)
        if group is None or request.idle > group.idle:
            number = 1 if group is None else group.requests + 1
            groups[key] = _Stalled(request.idle, number, _detail(request))
        else:
            groups[key] = group._replace(requests=group.requests + 1)
    return groups


def _detail(request: RequestInProgress) -> str:
    exchange = request.exchange
    facts = [f"age {duration_text(round(exchange.duration))}"]
    if exchange.tenant:
        facts.append(f"tenant {exchange.tenant_name or exchange.tenant!r}")
    if exchange.model:
        facts.append(f"model {exchange.model!r}")
    if exchange.credential:
        facts.append(f"credential {exchange.credential_group or exchange.credential!r}")
    return ", ".join(facts)


def _finding(
    phase: str,
    provider: str,
    route: str,
    stalled: _Stalled,
    limit: float,
    thresholds: Thresholds,
) -> Finding:
    noun = "request" if stalled.requests == 1 else "requests"
    detail = f" (the longest idle one: {stalled.detail})" if stalled.detail else ""
    idle = duration_text(round(stalled.idle))
    return Finding(
        type="stalled_request",
        metric=f"{phase}:{provider}",
        subject=Subject("route", route, route),
        severity="warning",
        title=f"{stalled.requests} stalled {noun} to {escaped(provider)}",
        message=f"{stalled.requests} {noun} of route {escaped(route)} to {escaped(provider)} got "
        f"{_MISSING[phase]} for {idle}{detail}",
        value=stalled.idle,
        metadata={
            "requests": stalled.requests,
            "provider": provider,
            "phase": phase,
            "idle": stalled.idle,
            "threshold": limit,
        },
        keep_firing=thresholds.keep_firing,
        window=0,  # what is in progress is known at once
    )
