"""Windows that rules read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..steps import Steps, batches, finish
from ..thresholds import METRICS, Thresholds
from . import OVERFLOW, ErrorWindow, EvaluationCounter, Hot, RollingWindow
from .aggregator import OVERFLOW_FAILURE, OVERFLOW_UPSTREAM
from .bucket import Bucket, FailureKey, Profile
from .classification import GATEWAY, Upstream
from .statistics import min_failures

ARRIVAL_SECONDS = 10  # long enough that a single page load is not a spike


_MINUTE_SLOTS = 12


_ERROR_SLOTS = 10


_DAY = 86_400


_HOUR = 3600


# Kinds of windows whose counts depend on the profile.
ERROR_KINDS = ("errors", "latencies", "failures_by_upstream", "upstreams")


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
        profile: Profile of `errors`, `latencies`, `failures_by_upstream` and `upstreams`.
        bounds: Upper bounds of the buckets of `latencies`, in seconds.
        by_kind: All windows by name.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int, bucket_seconds: int) -> None:
        self._max_subjects = max_subjects
        self._bucket_seconds = bucket_seconds
        self.request_rate = self._window(ARRIVAL_SECONDS, 1)
        self.minute = self._window(60, self._step(60, _MINUTE_SLOTS))
        self.day = self._window(_DAY, self._step(_DAY, _DAY // _HOUR))
        self.rate_limited = self._window(60, self._step(60, _MINUTE_SLOTS))
        self.limited = EvaluationCounter(max_subjects=max_subjects)
        self._earlier_overflow = 0  # of error windows that were replaced
        self._reset_error_windows(Profile.of(thresholds))
        finish(self.set_levels(thresholds))

    @property
    def overflowed(self) -> int:
        """Total number of events counted as `__overflow__`."""
        overflowed = sum(window.overflowed for window in self.by_kind.values())
        return self._earlier_overflow + self.limited.overflowed + overflowed

    def reset_if_incompatible(self, thresholds: Thresholds) -> None:
        """Replace the error windows if these thresholds have another profile."""
        profile = Profile.of(thresholds)
        if profile != self.profile:
            self._earlier_overflow += sum(self.by_kind[kind].overflowed for kind in ERROR_KINDS)
            self._reset_error_windows(profile)

    def expire(self, now: float) -> None:
        """Move all windows on to `now`."""
        for window in self.by_kind.values():
            window.expire(now)

    def prepare_next_evaluation(self) -> Steps[Callable[[], None]]:
        """Return a function that resets the maxima and `limited`.

        Nothing may be counted until it is called.
        """
        hot_of: dict[RollingWindow[Any], Hot[Any]] = {}
        for window in self.by_kind.values():
            hot_of[window] = yield from window.next_hot()

        def begin() -> None:
            self.limited.clear()
            for window, hot in hot_of.items():
                window.begin_evaluation(hot)

        return begin

    def add(self, bucket: Bucket) -> Steps[None]:
        """Count a bucket in its slots, and subtract the next part of the expired counts."""
        at = bucket.slot * self._bucket_seconds
        for second, requests in enumerate(bucket.arrivals, at):
            if requests:
                self.request_rate.expire(second)
                yield from self.request_rate.add_all({GATEWAY: requests}, second)
        yield from self.minute.add_all(bucket.tenants, at)
        yield from self.day.add_all(bucket.tenants, at)
        yield from self.rate_limited.add_all(bucket.rate_limited, at)
        if bucket.profile == self.profile:
            yield from self.errors.add_all(bucket.keys, at)
            yield from self.latencies.add_all(bucket.latencies, at)
            yield from self.failures_by_upstream.add_all(bucket.failures_by_upstream, at)
            yield from self.upstreams.add_all(bucket.upstreams, at)
        for batch in batches(bucket.limited.items(), 1000):
            for tenant, requests in batch:
                self.limited.add(tenant, requests)
            yield

    def _step(self, window: float, slots: int) -> int:
        """Return the length of a slot: a multiple of that of a bucket."""
        return math.ceil(window / slots / self._bucket_seconds) * self._bucket_seconds

    def _window(self, window: float, step: int) -> RollingWindow[str]:
        return RollingWindow(
            window=window, step=step, max_subjects=self._max_subjects, overflow=OVERFLOW
        )

    def _reset_error_windows(self, profile: Profile) -> None:
        self.profile = profile
        self.bounds = profile.bounds
        window, max_subjects = profile.error_window, self._max_subjects
        step = self._step(window, _ERROR_SLOTS)
        max_buckets = max_subjects * (len(self.bounds) + 1)
        self.errors: ErrorWindow[str] = ErrorWindow(
            window=window, step=step, max_subjects=max_subjects, overflow=OVERFLOW
        )
        self.latencies: RollingWindow[tuple[str, int]] = RollingWindow(
            window=window, step=step, max_subjects=max_buckets, overflow=(OVERFLOW, 0)
        )
        self.failures_by_upstream: RollingWindow[FailureKey] = RollingWindow(
            window=window, step=step, max_subjects=2 * max_subjects, overflow=OVERFLOW_FAILURE
        )
        self.upstreams: RollingWindow[Upstream] = RollingWindow(
            window=window, step=step, max_subjects=max_subjects, overflow=OVERFLOW_UPSTREAM
        )
        self.by_kind: dict[str, RollingWindow[Any]] = {
            "request_rate": self.request_rate,
            "minute": self.minute,
            "day": self.day,
            "rate_limited": self.rate_limited,
            "errors": self.errors,
            "latencies": self.latencies,
            "failures_by_upstream": self.failures_by_upstream,
            "upstreams": self.upstreams,
        }

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
            for window in self.by_kind.values():
                stack.enter_context(window.preserve_levels())
            yield
