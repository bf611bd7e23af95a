"""The rows of every family, and where each kind of request is counted."""

from __future__ import annotations

import sys

from prometheus_client import CollectorRegistry

from . import families
from .callbacks import RefreshedCallbacks, tasks
from .families import Family
from .rows import Labels, NewRow, Row, Rows, Series, row_in_memory

# Where requests of one kind are counted: themselves, their durations, how they ended, and when
# their first byte came. A plain tuple, since this is unpacked on every request.
RequestRows = tuple[Row, Row, Row, Row | None]


class Tables:
    """The rows of every family; one for each registry, however often it is asked for.

    Args:
        most: Series that each family keeps.
        buckets: Upper bounds of the histograms of durations, in seconds.
        new_row: Makes the rows.
        serves: Whether this process is known to serve, so that it may have rows at once.

    Attributes:
        row_cache: Rows by the kind of a request: its method, route, status, provider and outcome,
            and whether its answer had no body. `rows_of` finds those that are not here yet.
        looked_up: The families that are not counted here.
        in_progress: The row of requests in progress; empty until `open_in_progress` is called.
        others: Shows what else there is to a scrape; None where it is the registry's.
    """

    def __init__(
        self,
        *,
        most: int,
        buckets: tuple[float, ...] = families.DURATION_BUCKETS,
        new_row: NewRow = row_in_memory,
        serves: bool = True,
    ) -> None:
        self.all: list[Rows] = []
        self.others: CollectorRegistry | None = None

        def rows(family: Family, most: int = most) -> Rows:
            made = Rows(family, most=most, on_overflow=self._overflowed, new_row=new_row)
            self.all.append(made)
            return made

        self.buckets = buckets
        self.requests = rows(families.REQUESTS)
        self.duration = rows(families.DURATION._replace(buckets=buckets))
        self._in_progress = rows(families.IN_PROGRESS)
        self.first_byte = rows(families.FIRST_BYTE._replace(buckets=buckets))
        self.responses = rows(families.RESPONSES)
        self.tokens = rows(families.TOKENS)
        self.usage = rows(families.USAGE)
        self.first_token = rows(families.FIRST_TOKEN._replace(buckets=buckets))
        self.per_token = rows(families.PER_TOKEN)
        self.decisions = rows(families.DECISIONS)
        self.evaluations = rows(families.EVALUATIONS)
        self.evaluation_duration = rows(families.EVALUATION_DURATION)
        self.deliveries = rows(families.DELIVERIES)
        self.self_errors = rows(families.INTERNAL_ERRORS)
        # Not capped: its labels are our own names, and it could not tell of an overflow of its own.
        self.overflow = rows(families.OVERFLOW, sys.maxsize)
        self.looked_up = RefreshedCallbacks(
            [rows(each) for each in families.CALLBACK_FAMILIES],
            on_error=lambda: self.self_errors.add(("metrics",)),
        )
        self.looked_up.callbacks(families.ASYNCIO_TASKS.name).add(tasks)
        self.row_cache: dict[Labels, RequestRows] = {}
        self._folded = 0
        self.in_progress: Row = []
        if serves:
            self.open_in_progress()

    def open_in_progress(self) -> Row:
        """The row of requests in progress, asked for when the first one comes.

        A process that never serves, such as the parent of the workers, needs none.
        """
        self.in_progress = self._in_progress.row(())
        return self.in_progress

    def rows_of(self, kind: Labels) -> RequestRows:
        """Where requests of this kind are counted."""
        method, route, status, provider, outcome, bodiless = kind
        labels = (method, route, status, provider)
        folded = self._folded
        found = (
            self.requests.row(labels),
            self.duration.row(labels),
            self.responses.row((provider, outcome)),
            None if bodiless else self.first_byte.row((route, provider)),
        )
        if self._folded == folded:  # else every time is to be told
            self.row_cache[kind] = found
        return found

    def series(self) -> list[Series]:
        """Every family with its rows."""
        return [rows.series() for rows in self.all]

    def recover(self) -> None:
        """Move rows that could not be made where they belong; in memory there are none."""

    def reset_after_fork(self) -> None:
        """Let go of every row: they are another process's from now on."""
        for rows in self.all:
            rows.clear()
        self.row_cache.clear()
        self.in_progress = []

    def _overflowed(self, family: Family) -> None:
        self._folded += 1
        self.overflow.add((family.name,))
