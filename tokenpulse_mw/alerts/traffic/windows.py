"""The windows that rules look at, and what a row of exchanges adds to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from ..steps import Steps, finish
from ..thresholds import METRICS, Thresholds
from . import OVERFLOW, ErrorWindow, EvaluationCounter, Hot, RollingWindow
from .classification import GATEWAY, TrafficClass, Upstream
from .statistics import min_failures

ARRIVAL_SECONDS = 10  # a moment long enough that one page that loads is no spike


# Requests and tokens of exchanges that agree in master, key and kind.
Rows = Mapping[tuple[str | None, str | None, TrafficClass], list[int]]


# A key, or a provider, and the upstream that its failures came from.
Blame = tuple[str, str, Upstream]


_ERROR_SLOTS = 10


_NO_OVERFLOW = f"{OVERFLOW}_"


_NOBODY: Blame = ("", OVERFLOW, ("", OVERFLOW))


def latency_bounds(thresholds: Thresholds) -> tuple[float, ...]:
    """Upper bounds of the buckets that durations are sorted into, in seconds.

    The threshold is one of them, and so is where an alert ends: whether more than 5 % lie above
    is then known exactly.
    """
    threshold = thresholds.provider_latency_p95
    if threshold is None:
        return ()
    ratios = {0.1, 0.25, 0.5, thresholds.resolve_ratio, 1, 1.5, 2, 3, 5, 10}
    return tuple(sorted(threshold * ratio for ratio in ratios))


def _subject(name: str | None) -> str:
    """Whom a row is counted for: nobody is called as those beyond `max_subjects` together."""
    return _NO_OVERFLOW if name == OVERFLOW else name or GATEWAY


def _ring(window: float, slots: int, max_subjects: int) -> RollingWindow[str]:
    return RollingWindow(window=window, slots=slots, max_subjects=max_subjects, overflow=OVERFLOW)


class TrafficWindows:
    """What is known of the recent past.

    Attributes:
        request_rate: Requests of the whole gateway, over 10 s.
        minute: Requests and tokens of each master, over a minute.
        day: Requests and tokens of each master, over 24 hours.
        errors: Requests and failures of each key, over the error window.
        latencies: Requests and failures of each provider, by bucket of their duration.
        failures_by_upstream: Failures of each key and provider, by upstream.
        upstreams: Failures of each upstream.
        rate_limited: Answers of 429 of each provider, over a minute, and how many were our own.
        limited: Limited requests of each master, since the last round.
        bounds: Upper bounds of the buckets of `latencies`, in seconds.
        count_client_errors: What `errors` takes for a failure, as in the thresholds.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        self._most = most = max_subjects
        self.request_rate = _ring(ARRIVAL_SECONDS, 10, 1)
        self.minute = _ring(60, 10, most)
        self.day = _ring(86400, 24, most)
        self.rate_limited = _ring(60, 10, most)
        self.limited = EvaluationCounter(max_subjects=most)
        self._lost = 0  # overflowed in windows that are no more
        self._begin_errors(thresholds)
        finish(self.watch(thresholds))

    @property
    def next_at(self) -> float:
        """When to call `expire` before anything is counted."""
        return min(ring.next_at for ring in self._rings)

    @property
    def overflowed(self) -> int:
        """How much was counted as `__overflow__`, in all windows, ever."""
        return self._lost + self.limited.overflowed + sum(ring.overflowed for ring in self._rings)

    def fit(self, thresholds: Thresholds) -> None:
        """Start the windows of shares again if they do not fit these thresholds."""
        same_kind = (
            thresholds.error_window == self._window
            and thresholds.count_client_errors == self.count_client_errors
            and latency_bounds(thresholds) == self.bounds
        )
        if not same_kind:
            self._lost += sum(ring.overflowed for ring in self._error_rings)
            self._begin_errors(thresholds)

    def expire(self, now: float) -> None:
        """Move all windows on to `now`."""
        for ring in self._rings:
            ring.expire(now)

    def next_round(self) -> Steps[Callable[[], None]]:
        """Return a call that forgets what was to be known until this round only.

        Nothing may be counted before it is called.
        """
        hot: dict[RollingWindow[Any], Hot[Any]] = {}
        for ring in self._rings:
            hot[ring] = yield from ring.next_hot()

        def begin() -> None:
            self.limited.clear()
            for ring, each in hot.items():
                ring.begin_evaluation(each)

        return begin

    def add(self, rows: Rows) -> None:
        """Count `rows` now, and go on with forgetting what is too old."""
        kinds: list[TrafficClass] = []
        for (master, key, kind), (requests, tokens) in rows.items():
            if not kind.requests:
                kinds.append(kind)
            kind.requests += requests
            whose = _subject(master)
            if kind.is_traffic:
                self.minute.add(whose, requests, tokens)
                self.day.add(whose, requests, tokens)
            if kind.is_judged:
                self._add_judged(_subject(key), kind, requests)
            elif kind.limited:
                self.limited.add(whose, requests)
        for kind in kinds:
            self._add_kind(kind, kind.requests)
            kind.requests = 0
        for ring in self._rings:
            ring.drain()

    def _add_judged(self, key: str, kind: TrafficClass, requests: int) -> None:
        self.errors.add(key, requests, requests if kind.fails_key else 0)
        if kind.is_failure and kind.upstream:
            self.failures_by_upstream.add(("key", key, kind.upstream), requests)

    def _add_kind(self, kind: TrafficClass, requests: int) -> None:
        if kind.is_traffic:
            self.request_rate.add(GATEWAY, requests)
        if kind.is_traffic and kind.refused:
            self.rate_limited.add(kind.provider, requests, requests if kind.limited else 0)
        if kind.is_judged:
            failures = requests if kind.is_failure else 0
            self.latencies.add((kind.provider, kind.bucket), requests, failures)
        if kind.is_failure and kind.upstream:
            self.failures_by_upstream.add(("provider", kind.provider, kind.upstream), requests)
            self.upstreams.add(kind.upstream, requests)

    def _begin_errors(self, thresholds: Thresholds) -> None:
        self._window, self.count_client_errors = (
            thresholds.error_window,
            thresholds.count_client_errors,
        )
        self.bounds = latency_bounds(thresholds)
        window, slots, most = self._window, _ERROR_SLOTS, self._most
        several = most * (len(self.bounds) + 1)
        self.errors: ErrorWindow[str] = ErrorWindow(
            window=window, slots=slots, max_subjects=most, overflow=OVERFLOW
        )
        self.latencies: RollingWindow[tuple[str, int]] = RollingWindow(
            window=window, slots=slots, max_subjects=several, overflow=(OVERFLOW, 0)
        )
        self.failures_by_upstream: RollingWindow[Blame] = RollingWindow(
            window=window, slots=slots, max_subjects=2 * most, overflow=_NOBODY
        )
        self.upstreams: RollingWindow[Upstream] = RollingWindow(
            window=window, slots=slots, max_subjects=most, overflow=_NOBODY[2]
        )
        self._error_rings: tuple[RollingWindow[Any], ...] = (
            self.errors,
            self.latencies,
            self.failures_by_upstream,
            self.upstreams,
        )
        self._rings = (
            self.request_rate,
            self.minute,
            self.day,
            self.rate_limited,
            *self._error_rings,
        )

    def watch(self, thresholds: Thresholds) -> Steps[None]:
        """Let those subjects be hot that are near one of `thresholds`, one window in a step."""
        ratio = thresholds.resolve_ratio
        level = {metric: thresholds.fires_at(metric) * ratio for metric in METRICS}
        # A little less, as 1.1 x 10 is more than 11 in floats; the rule itself compares exactly.
        self.request_rate.set_levels(count=level["global_qps"] * ARRIVAL_SECONDS * 0.999)
        refusals = thresholds.provider_429_rpm
        self.rate_limited.set_levels(count=float("inf") if refusals is None else refusals * ratio)
        self.minute.set_levels(count=level["master_rpm"], weight=level["master_tpm"])
        yield
        self.day.set_levels(count=level["master_rpd"], weight=level["master_tpd"])
        yield
        self.errors.set_levels(weight=min_failures(thresholds))

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Restore in the end what `watch` changes in the body, in which nothing is counted."""
        with ExitStack() as stack:
            for ring in self._rings:
                stack.enter_context(ring.keeping())
            yield
