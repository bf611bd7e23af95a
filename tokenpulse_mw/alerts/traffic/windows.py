"""Windows that rules read, and the counts that each exchange adds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ..steps import Steps, finish
from ..thresholds import METRICS, Thresholds
from . import OVERFLOW, ErrorWindow, EvaluationCounter, Hot, RollingWindow
from .classification import GATEWAY, TrafficClass, Upstream
from .statistics import min_failures

ARRIVAL_SECONDS = 10  # long enough that a single page load is not a spike


# Requests and tokens of exchanges with the same tenant, key and class.
Rows = Mapping[tuple[str | None, str | None, TrafficClass], list[int]]


# "key" or "provider", its id, and the upstream that its failures came from.
FailureKey = tuple[str, str, Upstream]


_ERROR_SLOTS = 10


_NO_OVERFLOW = f"{OVERFLOW}_"


_OVERFLOW_KEY: FailureKey = ("", OVERFLOW, ("", OVERFLOW))


def latency_bounds(thresholds: Thresholds) -> tuple[float, ...]:
    """Return the upper bounds of the latency buckets in seconds.

    The threshold and the value that resolves an alert are bounds, so the share of latencies above
    either of them is exact.
    """
    threshold = thresholds.provider_latency_p95
    if threshold is None:
        return ()
    ratios = {0.1, 0.25, 0.5, thresholds.resolve_ratio, 1, 1.5, 2, 3, 5, 10}
    return tuple(sorted(threshold * ratio for ratio in ratios))


def _subject(name: str | None) -> str:
    """Return the subject of a tenant or key; its name never equals that of the overflow."""
    return _NO_OVERFLOW if name == OVERFLOW else name or GATEWAY


def _window(window: float, slots: int, max_subjects: int) -> RollingWindow[str]:
    return RollingWindow(window=window, slots=slots, max_subjects=max_subjects, overflow=OVERFLOW)


class TrafficWindows:
    """Counts of the recent traffic.

    Attributes:
        request_rate: Requests of the whole gateway, over 10 s.
        minute: Requests and tokens of each tenant, over a minute.
        day: Requests and tokens of each tenant, over 24 hours.
        errors: Requests and failures of each key, over the error window.
        latencies: Requests and failures of each provider and latency bucket.
        failures_by_upstream: Failures of each key and provider, by upstream.
        upstreams: Failures of each upstream.
        rate_limited: Responses with 429 of each provider over a minute, and how many of them came
            from the gateway's own limit.
        limited: Limited requests of each tenant since the last evaluation.
        bounds: Upper bounds of the buckets of `latencies`, in seconds.
        count_client_errors: Count client errors as failures in `errors`.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        self._max_subjects = max_subjects
        self.request_rate = _window(ARRIVAL_SECONDS, 10, 1)
        self.minute = _window(60, 10, max_subjects)
        self.day = _window(86400, 24, max_subjects)
        self.rate_limited = _window(60, 10, max_subjects)
        self.limited = EvaluationCounter(max_subjects=max_subjects)
        self._earlier_overflow = 0  # of error windows that were replaced
        self._reset_error_windows(thresholds)
        finish(self.set_levels(thresholds))

    @property
    def next_at(self) -> float:
        """The time from which `expire` must be called before anything is counted."""
        return min(window.next_at for window in self._windows)

    @property
    def overflowed(self) -> int:
        """Total number of events counted as `__overflow__`."""
        overflowed = sum(window.overflowed for window in self._windows)
        return self._earlier_overflow + self.limited.overflowed + overflowed

    def reset_if_incompatible(self, thresholds: Thresholds) -> None:
        """Replace the error windows if these thresholds need another window or other classes."""
        compatible = (
            thresholds.error_window == self._error_window
            and thresholds.count_client_errors == self.count_client_errors
            and latency_bounds(thresholds) == self.bounds
        )
        if not compatible:
            self._earlier_overflow += sum(window.overflowed for window in self._error_windows)
            self._reset_error_windows(thresholds)

    def expire(self, now: float) -> None:
        """Move all windows on to `now`."""
        for window in self._windows:
            window.expire(now)

    def prepare_next_evaluation(self) -> Steps[Callable[[], None]]:
        """Return a function that resets the maxima and `limited`.

        Nothing may be counted until it is called.
        """
        hot_of: dict[RollingWindow[Any], Hot[Any]] = {}
        for window in self._windows:
            hot_of[window] = yield from window.next_hot()

        def begin() -> None:
            self.limited.clear()
            for window, hot in hot_of.items():
                window.begin_evaluation(hot)

        return begin

    def add(self, rows: Rows) -> None:
        """Count `rows` now, and subtract the next part of the expired counts."""
        classes: list[TrafficClass] = []
        for (tenant, key, traffic_class), (requests, tokens) in rows.items():
            if not traffic_class.requests:
                classes.append(traffic_class)
            traffic_class.requests += requests
            subject = _subject(tenant)
            if traffic_class.is_traffic:
                self.minute.add(subject, requests, tokens)
                self.day.add(subject, requests, tokens)
            if traffic_class.is_rated:
                self._add_rated(_subject(key), traffic_class, requests)
            elif traffic_class.limited:
                self.limited.add(subject, requests)
        for traffic_class in classes:
            self._add_class(traffic_class, traffic_class.requests)
            traffic_class.requests = 0
        for window in self._windows:
            window.drain()

    def _add_rated(self, key: str, traffic_class: TrafficClass, requests: int) -> None:
        self.errors.add(key, requests, requests if traffic_class.fails_key else 0)
        if traffic_class.is_failure and traffic_class.upstream:
            self.failures_by_upstream.add(("key", key, traffic_class.upstream), requests)

    def _add_class(self, traffic_class: TrafficClass, requests: int) -> None:
        provider, upstream = traffic_class.provider, traffic_class.upstream
        if traffic_class.is_traffic:
            self.request_rate.add(GATEWAY, requests)
        if traffic_class.is_traffic and traffic_class.rate_limited:
            self.rate_limited.add(provider, requests, requests if traffic_class.limited else 0)
        if traffic_class.is_rated:
            failures = requests if traffic_class.is_failure else 0
            self.latencies.add((provider, traffic_class.bucket), requests, failures)
        if traffic_class.is_failure and upstream:
            self.failures_by_upstream.add(("provider", provider, upstream), requests)
            self.upstreams.add(upstream, requests)

    def _reset_error_windows(self, thresholds: Thresholds) -> None:
        self._error_window = window = thresholds.error_window
        self.count_client_errors = thresholds.count_client_errors
        self.bounds = latency_bounds(thresholds)
        slots, max_subjects = _ERROR_SLOTS, self._max_subjects
        max_buckets = max_subjects * (len(self.bounds) + 1)
        self.errors: ErrorWindow[str] = ErrorWindow(
            window=window, slots=slots, max_subjects=max_subjects, overflow=OVERFLOW
        )
        self.latencies: RollingWindow[tuple[str, int]] = RollingWindow(
            window=window, slots=slots, max_subjects=max_buckets, overflow=(OVERFLOW, 0)
        )
        self.failures_by_upstream: RollingWindow[FailureKey] = RollingWindow(
            window=window, slots=slots, max_subjects=2 * max_subjects, overflow=_OVERFLOW_KEY
        )
        self.upstreams: RollingWindow[Upstream] = RollingWindow(
            window=window, slots=slots, max_subjects=max_subjects, overflow=_OVERFLOW_KEY[2]
        )
        self._error_windows: tuple[RollingWindow[Any], ...] = (
            self.errors,
            self.latencies,
            self.failures_by_upstream,
            self.upstreams,
        )
        self._windows = (
            self.request_rate,
            self.minute,
            self.day,
            self.rate_limited,
            *self._error_windows,
        )

    def set_levels(self, thresholds: Thresholds) -> Steps[None]:
        """Select the subjects near one of `thresholds` as hot, one window in a step."""
        ratio = thresholds.resolve_ratio
        level = {metric: thresholds.fires_at(metric) * ratio for metric in METRICS}
        # A little less: 1.1 x 10 is more than 11 in floats. The rule itself compares exactly.
        self.request_rate.set_levels(count=level["global_qps"] * ARRIVAL_SECONDS * 0.999)
        limit = thresholds.provider_429_rpm
        self.rate_limited.set_levels(count=float("inf") if limit is None else limit * ratio)
        self.minute.set_levels(count=level["master_rpm"], weight=level["master_tpm"])
        yield
        self.day.set_levels(count=level["master_rpd"], weight=level["master_tpd"])
        yield
        self.errors.set_levels(weight=min_failures(thresholds))

    @contextmanager
    def preserve_levels(self) -> Iterator[None]:
        """Restore the levels after the body, in which nothing may be counted."""
        with ExitStack() as stack:
            for window in self._windows:
                stack.enter_context(window.preserve_levels())
            yield
