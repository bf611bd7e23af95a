"""Recent traffic, as rules read it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from cachetools import LRUCache

from ...exchange import Exchange
from ..steps import Steps, finish
from ..thresholds import Thresholds
from . import ErrorWindow, EvaluationCounter, Streaks
from .classification import GATEWAY, TrafficClass, TrafficKey, Upstream
from .windows import TrafficWindows

__all__ = ["GATEWAY", "Traffic", "Upstream"]


_MAX_ROWS = 256  # flushing them takes less than a millisecond


_MAX_FROZEN_ROWS = 20_000  # about 6 MB


_RowKey = tuple[str | None, str | None, TrafficClass]


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
        tenant_names: Last known name of each recent tenant.
        thresholds: Thresholds that the windows are configured for.
    """

    def __init__(self, thresholds: Thresholds, *, max_subjects: int) -> None:
        self.upstreams: Streaks[Upstream] = Streaks(max_subjects=max_subjects)
        self.tenant_names: LRUCache[str, str] = LRUCache(max_subjects)
        self.thresholds = thresholds
        self._counts = TrafficWindows(thresholds, max_subjects=max_subjects)
        self._bounds = self._counts.bounds
        self._classes: dict[tuple[Any, ...], TrafficClass] = {}
        self._rows: dict[_RowKey, list[int]] = {}
        self._backlog: dict[_RowKey, list[int]] = {}  # of an evaluation, not counted yet
        self._max_rows: float = _MAX_ROWS
        self._due = float("-inf")

    def observe(self, exchange: Exchange, now: float) -> None:
        """Count one exchange that ended at `now`."""
        if now >= self._due:
            self.roll(now)
        latency = exchange.time_to_first_byte
        key = (
            exchange.provider,
            exchange.credential,
            exchange.status,
            exchange.outcome,
            exchange.limited,
            exchange.method,
            bisect_left(self._bounds, exchange.duration if latency is None else latency),
        )
        traffic_class = self._classes.get(key) or self._new_class(key)
        row_key = (exchange.tenant, exchange.api_key, traffic_class)
        row = self._rows.get(row_key)
        if row is None:
            if len(self._rows) >= self._max_rows:
                self._count_rows()
            row = self._rows[row_key] = [0, 0]
            if exchange.tenant and exchange.tenant_name:
                self.tenant_names[exchange.tenant] = exchange.tenant_name
        row[0] += 1
        usage = exchange.usage
        if usage is not None:
            row[1] += usage.input + usage.output
        streak, upstream = traffic_class.streak, traffic_class.upstream
        if streak and upstream and (traffic_class.is_failure or not streak.is_clean):
            self.upstreams.record(upstream, streak, failed=traffic_class.is_failure)

    def roll(self, now: float) -> None:
        """Flush the rows and move all windows on to `now`; call it before rules are evaluated."""
        self._count_rows()
        self._counts.expire(now)
        self._due = self._counts.next_at

    def begin_evaluation(self) -> None:
        """Reset the counts since the last evaluation; call it after all rules."""
        finish(self.prepare_next_evaluation())()

    def prepare_next_evaluation(self) -> Steps[Callable[[], None]]:
        """Prepare `begin_evaluation` in bounded steps; return the call that completes it."""
        return self._counts.prepare_next_evaluation()

    @contextmanager
    def frozen(self, now: float | None = None) -> Iterator[None]:
        """Keep the windows constant in the body, so that it can read them in many steps.

        Exchanges observed meanwhile are buffered and counted afterwards. Call `count_backlog`
        before.

        Args:
            now: Time to move the windows on to first; None leaves them where they are.
        """
        if now is None:
            self._count_rows()
        else:
            self.roll(now)
        self._due, self._max_rows = float("inf"), float("inf")
        try:
            yield
        finally:
            self._due, self._max_rows = float("-inf"), _MAX_ROWS
            if len(self._rows) > _MAX_ROWS:
                self._backlog, self._rows, self._classes = self._rows, {}, {}

    @property
    def is_crowded(self) -> bool:
        """True if the buffer is so large that the body of `frozen` must no longer pause."""
        return len(self._rows) >= _MAX_FROZEN_ROWS

    def count_backlog(self) -> Steps[None]:
        """Count the exchanges buffered while frozen, in bounded steps."""
        while self._backlog:
            self._count_next_batch()
            if self._backlog:
                yield

    def set_thresholds(self, thresholds: Thresholds) -> Steps[None]:
        """Use other thresholds from now on; call it while frozen.

        Counts of tenants are kept. Error rates and latencies are reset if `error_window`,
        `count_client_errors` or `provider_latency_p95` changes.
        """
        self.thresholds = thresholds
        self._counts.reset_if_incompatible(thresholds)
        self._bounds, self._classes = self._counts.bounds, {}
        yield from self._counts.set_levels(thresholds)

    @contextmanager
    def preserve_levels(self) -> Iterator[None]:
        """Restore the levels after the body; use it while frozen."""
        with self._counts.preserve_levels():
            yield

    def set_levels(self, thresholds: Thresholds) -> Steps[None]:
        """Select the subjects near other thresholds, so that rules find them."""
        return self._counts.set_levels(thresholds)

    @property
    def counts(self) -> TrafficWindows:
        """All windows, up to date; while frozen, as they were at its start."""
        if self._rows and self._max_rows == _MAX_ROWS:
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

    def _new_class(self, key: tuple[Any, ...]) -> TrafficClass:
        traffic_class = TrafficClass(
            TrafficKey(*key), count_client_errors=self._counts.count_client_errors
        )
        upstream = traffic_class.upstream
        if upstream is not None:
            evicted = self.upstreams.evicted
            traffic_class.streak = self.upstreams.get_or_add(upstream, name=traffic_class.provider)
            if self.upstreams.evicted != evicted:
                self._classes = {}  # another class may hold the evicted streak
        self._classes[key] = traffic_class
        return traffic_class

    def _count_rows(self) -> None:
        # Reset first: if these rows cannot be counted, the next ones still can. The classes are
        # reset too, so that active upstreams are marked as used.
        rows, self._rows, self._classes = self._rows, {}, {}
        self._counts.add(rows)
        self._count_next_batch()

    def _count_next_batch(self) -> None:
        """Count at most 256 rows of the backlog."""
        keys = list(islice(self._backlog, _MAX_ROWS))
        if keys:
            self._counts.add({key: self._backlog.pop(key) for key in keys})
