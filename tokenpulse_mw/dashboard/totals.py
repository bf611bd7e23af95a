"""Cumulative numbers by provider, route and model, read from the rows of the metrics."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import add
from typing import Any, Protocol

from anyio.lowlevel import checkpoint

from .history import FAULTS, KINDS, Layout

_CELLS_PER_STEP = 4000  # about a millisecond


class Family(Protocol):
    """Metric family."""

    @property
    def name(self) -> str:
        """Exported name."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the label values of a row."""
        ...

    @property
    def buckets(self) -> tuple[float, ...]:
        """Upper bounds of a histogram."""
        ...


# A family and its rows by label values. The row of a histogram is the sum of all observations, then
# the count of each bucket.
Series = tuple[Family, Mapping[tuple[Any, ...], Any]]

_DURATION = "tokenpulse_http_request_duration_seconds"
# Of a provider, failures are errors unless they are the fault of the client or of a limit. A
# rejected credential is one, though its status is 401.
_OF_ERRORS = ("gateway", "provider", "network")
_TOKENS = {"input": "input_tokens", "output": "output_tokens"}


def model_name(provider: str, model: str) -> str:
    """Return the name under which a model of a provider is counted."""
    return f"{provider}/{model}"


def bounds_of(series: Iterable[Series]) -> tuple[float, ...]:
    """Return the bounds of the duration histogram; empty without one."""
    found = (tuple(family.buckets) for family, _ in series if family.name == _DURATION)
    return next(found, ())


class Totals:
    """Cumulative numbers since the start of the metrics.

    Args:
        bounds: Upper bounds of the histograms; histograms with other bounds are left out.

    Attributes:
        bounds: The argument.
        rows: By kind and name, a row of numbers.
        models: Provider and model by the name of a model.
        in_flight: Requests in progress.
        internal_errors: Errors of this library that did not affect requests.
        overflow: Observations in series that are full.
    """

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.rows: dict[str, dict[str, array[float]]] = {kind: {} for kind in KINDS}
        self.models: dict[str, tuple[str, str]] = {}
        self.in_flight = self.internal_errors = self.overflow = 0.0
        self._layouts = {kind: Layout(columns, bounds) for kind, columns in KINDS.items()}
        self._has_faults = False
        self._readers: dict[str, Callable[[dict[str, str], Sequence[float]], None]] = {
            "tokenpulse_http_requests_total": self._add_requests,
            _DURATION: self._histogram("duration"),
            "tokenpulse_http_time_to_first_byte_seconds": self._histogram("ttfb"),
            "tokenpulse_llm_time_to_first_token_seconds": self._histogram("ttft"),
            "tokenpulse_http_responses_total": self._add_responses,
            "tokenpulse_http_failures_total": self._add_failures,
            "tokenpulse_llm_tokens_total": self._add_tokens,
            "tokenpulse_llm_requests_total": self._add_usage,
            "tokenpulse_llm_cost_usd_total": self._add_cost,
            "tokenpulse_http_requests_in_progress": self._add_in_flight,
            "tokenpulse_internal_errors_total": self._add_internal_errors,
            "tokenpulse_series_overflow_total": self._add_overflow,
        }

    async def read(self, series: Iterable[Series]) -> None:
        """Add all rows, in bounded steps, between which other tasks run."""
        cells = 0
        for family, rows in series:
            reader = self._readers.get(family.name)
            if reader is None or (family.buckets and tuple(family.buckets) != self.bounds):
                continue
            self._has_faults |= reader == self._add_failures
            for values, row in rows.items():
                reader(dict(zip(family.labels, map(str, values), strict=True)), row)
                cells += 20 + 2 * len(row)
                if cells >= _CELLS_PER_STEP:
                    cells = 0
                    await checkpoint()
        self._complete_faults()

    def _row(self, kind: str, name: str) -> array[float]:
        rows = self.rows[kind]
        row = rows.get(name)
        if row is None:
            row = rows[name] = self._layouts[kind].blank()
        return row

    def _count(self, kind: str, name: str, count: str, value: float) -> None:
        row, position = self._row(kind, name), self._layouts[kind].position(count)
        assert position is not None
        before = row[position]
        row[position] = value + (before if before == before else 0.0)

    def _groups(self, labels: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the kinds and names that a row counts for."""
        provider = labels["provider"]
        yield "provider", provider
        if "route" in labels:
            yield "route", labels["route"]
        if "model" in labels:
            name = model_name(provider, labels["model"])
            self.models[name] = provider, labels["model"]
            yield "model", name

    def _add_requests(self, labels: dict[str, str], row: Sequence[float]) -> None:
        status, value = labels["status"], row[0]
        for kind, name in self._groups(labels):
            self._count(kind, name, "requests", value)
            if status.startswith("5") and len(status) == 3:
                if kind != "provider":  # counted by fault
                    self._count(kind, name, "errors", value)
            elif status == "429":
                self._count(kind, name, "limited", value)

    def _histogram(self, histogram: str) -> Callable[[dict[str, str], Sequence[float]], None]:
        def read(labels: dict[str, str], row: Sequence[float]) -> None:
            for kind, name in self._groups(labels):
                buckets = self._layouts[kind].buckets(histogram)
                assert buckets is not None
                total = self._row(kind, name)
                total[buckets] = array("d", map(add, total[buckets], row[1:]))

        return read

    def _add_responses(self, labels: dict[str, str], row: Sequence[float]) -> None:
        if labels["outcome"] in ("truncated", "error"):
            self._count("provider", labels["provider"], "truncated", row[0])

    def _add_failures(self, labels: dict[str, str], row: Sequence[float]) -> None:
        provider, fault = labels["provider"], labels["fault"]
        if fault in FAULTS:
            self._count("provider", provider, fault, row[0])
        if fault in _OF_ERRORS:
            self._count("provider", provider, "errors", row[0])

    def _add_tokens(self, labels: dict[str, str], row: Sequence[float]) -> None:
        count = _TOKENS.get(labels["kind"])
        for kind, name in self._groups(labels) if count else ():
            self._count(kind, name, str(count), row[0])

    def _add_usage(self, labels: dict[str, str], row: Sequence[float]) -> None:
        for kind, name in self._groups(labels):
            requests = "requests" if kind == "model" else "llm_requests"
            self._count(kind, name, requests, row[0])
            if labels["usage"] == "missing":
                self._count(kind, name, "usage_missing", row[0])

    def _add_cost(self, labels: dict[str, str], row: Sequence[float]) -> None:
        for kind, name in self._groups(labels):
            self._count(kind, name, "cost_usd", row[0])

    def _add_in_flight(self, _labels: dict[str, str], row: Sequence[float]) -> None:
        self.in_flight += row[0]

    def _add_internal_errors(self, _labels: dict[str, str], row: Sequence[float]) -> None:
        self.internal_errors += row[0]

    def _add_overflow(self, _labels: dict[str, str], row: Sequence[float]) -> None:
        self.overflow += row[0]

    def _complete_faults(self) -> None:
        """Set the failures of providers without one to 0 if failures are counted."""
        if self._has_faults:
            for row in self.rows["provider"].values():
                for count in (*FAULTS, "errors"):
                    position = self._layouts["provider"].position(count)
                    assert position is not None
                    if row[position] != row[position]:
                        row[position] = 0.0


def difference(before: Sequence[float] | None, now: Sequence[float]) -> list[float]:
    """Return the increase of each number; one that was unknown or missing before began at 0."""
    if before is None:
        return list(now)
    return [y - (x if x == x else 0.0) for x, y in zip(before, now, strict=True)]
