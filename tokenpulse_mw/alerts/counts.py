"""The windows that rules look at, and what a row of exchanges adds to each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from .kinds import GATEWAY, Kind, Upstream
from .shares import fewest_failures
from .steps import Steps, finish
from .thresholds import METRICS, Thresholds
from .windows import OVERFLOW, ErrorRing, Hot, Ring, Tally

ARRIVAL_SECONDS = 10  # a moment long enough that one page that loads is no spike

# Requests and tokens of exchanges that agree in master, key and kind.
Rows = Mapping[tuple[str | None, str | None, Kind], list[int]]

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


def _ring(window: float, slots: int, max_subjects: int) -> Ring[str]:
    return Ring(window=window, slots=slots, max_subjects=max_subjects, overflow=OVERFLOW)


class Counts:
    """What is known of the recent past.

    Attributes:
        arrivals: Requests of the whole gateway, over 10 s.
        minute: Requests and tokens of each master, over a minute.
        day: Requests and tokens of each master, over 24 hours.
        errors: Requests and failures of each key, over the error window.
        answers: Requests and failures of each provider, by bucket of their duration.
        blame: Failures of each key and each provider, by the upstream that they came from.
        upstreams: Failures of each upstream.
        refusals: Answers of 429 of each provider, over a minute, and how many were our own.
        limited: Limited requests of each master, since the last round.
        bounds: Upper bounds of the buckets of `answers`, in seconds.
        count_client_errors: What `errors` takes for a failure, as in the thresholds.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        self._most = most = max_subjects
        self.arrivals = _ring(ARRIVAL_SECONDS, 10, 1)
        self.minute = _ring(60, 10, most)
        self.day = _ring(86400, 24, most)
        self.refusals = _ring(60, 10, most)
        self.limited = Tally(max_subjects=most)
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
        hot: dict[Ring[Any], Hot[Any]] = {}
        for ring in self._rings:
            hot[ring] = yield from ring.next_hot()

        def begin() -> None:
            self.limited.clear()
            for ring, each in hot.items():
                ring.begin_round(each)

        return begin

    def add(self, rows: Rows) -> None:
        """Count `rows` now, and go on with forgetting what is too old."""
        kinds: list[Kind] = []
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

    def _add_judged(self, key: str, kind: Kind, requests: int) -> None:
        self.errors.add(key, requests, requests if kind.fails_key else 0)
        if kind.is_failure and kind.upstream:
            self.blame.add(("key", key, kind.upstream), requests)

    def _add_kind(self, kind: Kind, requests: int) -> None:
        if kind.is_traffic:
            self.arrivals.add(GATEWAY, requests)
        if kind.is_traffic and kind.refused:
            self.refusals.add(kind.provider, requests, requests if kind.limited else 0)
        if kind.is_judged:
            failures = requests if kind.is_failure else 0
            self.answers.add((kind.provider, kind.bucket), requests, failures)
        if kind.is_failure and kind.upstream:
            self.blame.add(("provider", kind.provider, kind.upstream), requests)
            self.upstreams.add(kind.upstream, requests)

    def _begin_errors(self, thresholds: Thresholds) -> None:
        self._window, self.count_client_errors = (
            thresholds.error_window,
            thresholds.count_client_errors,
        )
        self.bounds = latency_bounds(thresholds)
        window, slots, most = self._window, _ERROR_SLOTS, self._most
        several = most * (len(self.bounds) + 1)
        self.errors: ErrorRing[str] = ErrorRing(
            window=window, slots=slots, max_subjects=most, overflow=OVERFLOW
        )
        self.answers: Ring[tuple[str, int]] = Ring(
            window=window, slots=slots, max_subjects=several, overflow=(OVERFLOW, 0)
        )
        self.blame: Ring[Blame] = Ring(
            window=window, slots=slots, max_subjects=2 * most, overflow=_NOBODY
        )
        self.upstreams: Ring[Upstream] = Ring(
            window=window, slots=slots, max_subjects=most, overflow=_NOBODY[2]
        )
        self._error_rings: tuple[Ring[Any], ...] = (
            self.errors,
            self.answers,
            self.blame,
            self.upstreams,
        )
        self._rings = (self.arrivals, self.minute, self.day, self.refusals, *self._error_rings)

    def watch(self, thresholds: Thresholds) -> Steps[None]:
        """Let those subjects be hot that are near one of `thresholds`, one window in a step."""
        ratio = thresholds.resolve_ratio
        level = {metric: thresholds.fires_at(metric) * ratio for metric in METRICS}
        # A little less, as 1.1 x 10 is more than 11 in floats; the rule itself compares exactly.
        self.arrivals.watch(count=level["global_qps"] * ARRIVAL_SECONDS * 0.999)
        refusals = thresholds.provider_429_rpm
        self.refusals.watch(count=float("inf") if refusals is None else refusals * ratio)
        self.minute.watch(count=level["master_rpm"], weight=level["master_tpm"])
        yield
        self.day.watch(count=level["master_rpd"], weight=level["master_tpd"])
        yield
        self.errors.watch(weight=fewest_failures(thresholds))

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Restore in the end what `watch` changes in the body, in which nothing is counted."""
        with ExitStack() as stack:
            for ring in self._rings:
                stack.enter_context(ring.keeping())
            yield
