"""Rows of all families, with a cache of the rows that a request is counted in."""

from __future__ import annotations

import sys
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from . import families
from .callbacks import CallbackFamilies, count_tasks
from .families import Family
from .rows import Labels, NewRow, Row, Rows, Series, row_in_memory

# Rows of requests, durations, responses and times to the first byte. A plain tuple, since it is
# unpacked on every request.
RequestRows = tuple[Row, Row, Row, Row | None]

# Row of requests to models, and the rows of tokens by kind; none without usage.
UsageRows = tuple[Row, tuple[Row, ...]]
_TOKEN_KINDS = ("input", "output", "cache_read", "cache_write", "reasoning")


class Tables:
    """Rows of all families.

    Args:
        max_series: Maximum number of series per family.
        buckets: Upper bounds of the duration histograms in seconds.
        new_row: Creates rows.
        serves: Open the row of requests in progress at once. False for a process that may never
            serve requests, such as the parent of the workers.

    Attributes:
        row_cache: Rows by method, route, status, provider, outcome and whether the response had
            no body. `request_rows` adds missing entries.
        usage_row_cache: Rows by provider, model, source of the usage, and whether there is usage.
            `usage_rows` adds missing entries.
        callbacks: Families whose values are read by callbacks.
        in_progress: Row of requests in progress; empty until `open_in_progress` is called.
        other_metrics: Returns a registry with the other metrics in a scrape of a given registry;
            None if they are those of the registry itself.
    """

    def __init__(
        self,
        *,
        max_series: int,
        buckets: tuple[float, ...] = families.DURATION_BUCKETS,
        new_row: NewRow = row_in_memory,
        serves: bool = True,
    ) -> None:
        self.all: list[Rows] = []
        self.other_metrics: Callable[[CollectorRegistry], CollectorRegistry] | None = None

        def rows(family: Family, max_series: int = max_series) -> Rows:
            table = Rows(
                family, max_series=max_series, on_overflow=self._count_overflow, new_row=new_row
            )
            self.all.append(table)
            return table

        self.buckets = buckets
        self.requests = rows(families.REQUESTS)
        self.duration = rows(families.DURATION._replace(buckets=buckets))
        self._in_progress = rows(families.IN_PROGRESS)
        self.websockets = rows(families.WEBSOCKETS)
        self.first_byte = rows(families.FIRST_BYTE._replace(buckets=buckets))
        self.responses = rows(families.RESPONSES)
        self.failures = rows(families.FAILURES)
        self.tokens = rows(families.TOKENS)
        self.usage = rows(families.USAGE)
        self.cost = rows(families.COST)
        self.cost_missing = rows(families.COST_MISSING)
        self.first_token = rows(families.FIRST_TOKEN._replace(buckets=buckets))
        self.per_token = rows(families.PER_TOKEN)
        self.decisions = rows(families.DECISIONS)
        self.evaluations = rows(families.EVALUATIONS)
        self.evaluation_duration = rows(families.EVALUATION_DURATION)
        self.deliveries = rows(families.DELIVERIES)
        self.heartbeats = rows(families.HEARTBEATS)
        self.internal_errors = rows(families.INTERNAL_ERRORS)
        # Unlimited: its labels are the names of the families, so it cannot overflow.
        self.overflow = rows(families.OVERFLOW, sys.maxsize)
        self.callbacks = CallbackFamilies(
            [rows(family) for family in families.CALLBACK_FAMILIES],
            on_error=lambda: self.internal_errors.add(("metrics",)),
        )
        self.callbacks.callbacks_of(families.ASYNCIO_TASKS.name).add(count_tasks)
        self.row_cache: dict[Labels, RequestRows] = {}
        self.usage_row_cache: dict[Labels, UsageRows] = {}
        self._overflows = 0
        self.in_progress: Row = []
        if serves:
            self.open_in_progress()

    def open_in_progress(self) -> Row:
        """Open the row of requests in progress and return it; open that of WebSockets, too."""
        self.websockets.row(())
        self.in_progress = self._in_progress.row(())
        return self.in_progress

    def request_rows(self, kind: Labels) -> RequestRows:
        """Return the rows of a kind of request, and cache them."""
        method, route, status, provider, outcome, bodiless = kind
        labels = (method, route, status, provider)
        overflows = self._overflows
        rows = (
            self.requests.row(labels),
            self.duration.row(labels),
            self.responses.row((provider, outcome)),
            None if bodiless else self.first_byte.row((route, provider)),
        )
        if self._overflows == overflows:  # overflow rows are not cached: each request is counted
            self.row_cache[kind] = rows
        return rows

    def usage_rows(self, kind: Labels) -> UsageRows:
        """Return the rows of a kind of usage, and cache them."""
        provider, model, source, has_usage = kind
        overflows = self._overflows
        token_kinds = _TOKEN_KINDS if has_usage else ()
        rows = (
            self.usage.row((provider, model, source)),
            tuple(self.tokens.row((provider, model, name)) for name in token_kinds),
        )
        if self._overflows == overflows:
            self.usage_row_cache[kind] = rows
        return rows

    def clear_caches(self) -> None:
        """Empty the caches of rows; rows returned before must no longer be used."""
        self.row_cache.clear()
        self.usage_row_cache.clear()

    def series(self) -> list[Series]:
        """Return every family with its rows."""
        return [rows.series() for rows in self.all]

    def own_series(self) -> list[Series]:
        """Return the families that this process counts."""
        return self.series()

    def workers(self) -> int:
        """Return the number of workers that count together."""
        return 1

    def recover(self) -> None:
        """Retry to create rows that could not be created; a no-op for rows in memory."""

    def clear(self) -> None:
        """Remove all rows except that of the requests in progress, which are about to end."""
        for rows in self.all:
            if rows is not self._in_progress:
                rows.clear()
        self.clear_caches()

    def reset_after_fork(self) -> None:
        """Remove all rows in a forked child; they belong to the parent process."""
        for rows in self.all:
            rows.clear()
        self.clear_caches()
        self.in_progress = []

    def _count_overflow(self, family: Family) -> None:
        self._overflows += 1
        self.overflow.add((family.name,))
