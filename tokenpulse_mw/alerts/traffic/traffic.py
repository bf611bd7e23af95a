"""Counts of the recent traffic, as rules see it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from ...exchange import Exchange
from ..steps import Steps, finish
from ..thresholds import Thresholds
from . import ErrorWindow, EvaluationCounter, Streaks
from .classification import GATEWAY, TrafficClass, TrafficKey, Upstream
from .windows import TrafficWindows

__all__ = ["GATEWAY", "Traffic", "Upstream"]


_MOST_ROWS = 256  # flushing them takes less than a millisecond


_MOST_FROZEN_ROWS = 20_000  # about 6 MB


_Whose = tuple[str | None, str | None, TrafficClass]


class Traffic:
    """Counts of exchanges by subject.

    Exchanges of the same tenant, key and class are buffered in one row. The rows are flushed to the
    windows every second, when there are 256, and once at the start of an evaluation. So a request
    costs one look-up, however many windows there are. An exchange counts when it ends, when its
    tokens are known.

    Args:
        thresholds: Thresholds that the windows are configured for.
        max_subjects: Maximum number of keys, of tenants and of upstreams counted separately.

    Attributes:
        upstreams: Recent outcomes of each upstream.
        thresholds: Thresholds that the windows are configured for.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        self.upstreams: Streaks[Upstream] = Streaks(max_subjects=max_subjects)
        self.thresholds = thresholds
        self._counts = TrafficWindows(thresholds, max_subjects=max_subjects)
        self._bounds = self._counts.bounds
        self._kinds: dict[tuple[Any, ...], TrafficClass] = {}
        self._rows: dict[_Whose, list[int]] = {}
        self._backlog: dict[_Whose, list[int]] = {}  # of an evaluation, not counted yet
        self._most_rows: float = _MOST_ROWS
        self._due = float("-inf")

    def observe(self, exchange: Exchange, now: float) -> None:
        """Count one exchange, `now` being when it ended."""
        if now >= self._due:
            self.roll(now)
        seen = (
            exchange.provider,
            exchange.credential,
            exchange.status,
            exchange.outcome,
            exchange.limited,
            exchange.method,
            bisect_left(self._bounds, exchange.duration),
        )
        kind = self._kinds.get(seen) or self._new_kind(seen)
        whose = (exchange.tenant, exchange.api_key, kind)
        row = self._rows.get(whose)
        if row is None:
            if len(self._rows) >= self._most_rows:
                self._count_rows()
            row = self._rows[whose] = [0, 0]
        row[0] += 1
        usage = exchange.usage
        if usage is not None:
            row[1] += usage.input + usage.output
        streak, upstream = kind.streak, kind.upstream
        if streak and upstream and (kind.is_failure or not streak.clean):
            self.upstreams.note(upstream, streak, failed=kind.is_failure)

    def roll(self, now: float) -> None:
        """Flush the rows and move all windows on to `now`; call it before rules are evaluated."""
        self._count_rows()
        self._counts.expire(now)
        self._due = self._counts.next_at

    def begin_evaluation(self) -> None:
        """Forget what happened since the last evaluation; call it when all rules are evaluated."""
        finish(self.next_round())()

    def next_round(self) -> Steps[Callable[[], None]]:
        """Prepare `begin_evaluation` in bounded steps; return the call that completes it."""
        return self._counts.next_round()

    @contextmanager
    def frozen(self, now: float | None = None) -> Iterator[None]:
        """Keep the windows constant in the body, so that it can read them in many steps.

        Exchanges observed meanwhile are buffered and counted afterwards. Call `settle` before.

        Args:
            now: Time to move the windows on to first; None leaves them where they are.
        """
        if now is None:
            self._count_rows()
        else:
            self.roll(now)
        self._due, self._most_rows = float("inf"), float("inf")
        try:
            yield
        finally:
            self._due, self._most_rows = float("-inf"), _MOST_ROWS
            if len(self._rows) > _MOST_ROWS:
                self._backlog, self._rows, self._kinds = self._rows, {}, {}

    @property
    def is_crowded(self) -> bool:
        """True while frozen if the buffer is so large that the body must not pause any more."""
        return len(self._rows) >= _MOST_FROZEN_ROWS

    def settle(self) -> Steps[None]:
        """Count the exchanges buffered while frozen, in bounded steps."""
        while self._backlog:
            self._count_backlog()
            if self._backlog:
                yield

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds from now on; call it while frozen.

        Counts of tenants are kept. Error rates and latencies are reset if `error_window`,
        `count_client_errors` or `provider_latency_p95` changes.
        """
        self.thresholds = thresholds
        self._counts.fit(thresholds)
        self._bounds, self._kinds = self._counts.bounds, {}
        yield from self._counts.watch(thresholds)

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Restore what `watch` changes in the body; use it while frozen."""
        with self._counts.keeping():
            yield

    def watch(self, thresholds: Thresholds) -> Steps[None]:
        """Select the subjects near other thresholds, so that rules find them."""
        return self._counts.watch(thresholds)

    @property
    def counts(self) -> TrafficWindows:
        """All windows, with everything observed before the evaluation or until now."""
        if self._rows and self._most_rows == _MOST_ROWS:
            self._count_rows()
        return self._counts

    @property
    def errors(self) -> ErrorWindow[str]:
        """Requests and failures of each key, over the error window."""
        return self.counts.errors

    @property
    def limited(self) -> EvaluationCounter:
        """Limited requests of each tenant since the last evaluation."""
        return self.counts.limited

    @property
    def overflowed(self) -> int:
        """Events counted as `__overflow__`, until the last `roll`."""
        return self._counts.overflowed  # no flush: a scrape may run in another thread

    def _new_kind(self, seen: tuple[Any, ...]) -> TrafficClass:
        kind = TrafficClass(TrafficKey(*seen), count_client_errors=self._counts.count_client_errors)
        if kind.upstream is not None:
            evicted = self.upstreams.evicted
            kind.streak = self.upstreams.of(kind.upstream, name=kind.provider)
            if self.upstreams.evicted != evicted:
                self._kinds = {}  # another kind may hold the streak that was evicted
        self._kinds[seen] = kind
        return kind

    def _count_rows(self) -> None:
        # Reset first: if these rows cannot be counted, the next ones still can. The classes are
        # reset too, so that active upstreams are marked as used.
        rows, self._rows, self._kinds = self._rows, {}, {}
        self._counts.add(rows)
        self._count_backlog()

    def _count_backlog(self) -> None:
        """Count at most 256 rows of the backlog."""
        whose = list(islice(self._backlog, _MOST_ROWS))
        if whose:
            self._counts.add({each: self._backlog.pop(each) for each in whose})
