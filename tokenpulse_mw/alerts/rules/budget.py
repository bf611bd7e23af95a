"""The rule for budgets in money, with a forecast of when they will be empty."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ..lifecycle import Finding, Subject
from ..thresholds import Thresholds
from ..traffic.bucket import ReportKey, Usage, merge_reports
from ..traffic.traffic import Traffic
from .rule import Owner, Steps, escaped, owner_of_limit, severity_for
from .source import MAX_NUMBER, Kind, PolledSource, Source, near_limit, parse_identity, parse_number

_MICROS = 1_000_000
_MIN_TREND_SECONDS = 300  # that a forecast needs
_MIN_GROWTHS = 3  # evaluations with more usage than before, that a forecast needs
_TREND_SECONDS = 600  # after which the usage since then replaces the older usage
_MAX_SHIFT = 5.0  # seconds by which the end of one window may differ between two evaluations
_MAX_FORECAST_SECONDS = 366 * 86_400

_KIND = Kind(
    "budget",
    "(key, used, limit, policy) or (key, used, limit, policy, reset_after), with key and policy as "
    "strings or integers, and used, limit and reset_after as numbers",
    "[Budget('acme', used=19, limit=20, policy='dollars')]",
)


class Budget(NamedTuple):
    """The use of one key's budget.

    Attributes:
        key: The key's id.
        used: The dollars that are used or reserved.
        limit: The dollars of a window; None or a number not above 0 if the key has no budget.
        policy: Name of the limit; not empty.
        reset_after: Seconds until the window ends; without it, there is no forecast.
    """

    key: str
    used: float
    limit: float | None
    policy: str
    reset_after: float | None = None


class BudgetRule:
    """The rule that `budget` returns.

    Attributes:
        name: The rule's name.
        per_process: Processes that do not lead refresh too, and report their budgets.
        wall: Returns seconds since the epoch; a test may replace it.
    """

    name = "budget"

    def __init__(
        self,
        source: Source | None,
        *,
        timeout: float,
        max_keys: int,
        per_process: bool,
        wall: Callable[[], float],
    ) -> None:
        self.per_process = per_process
        self.wall = wall
        self._source: PolledSource[_Entry] = PolledSource(
            source, self._entry, _identity, _KIND, timeout=timeout, max_keys=max_keys
        )
        self._trends: dict[ReportKey, _Trend] = {}

    async def refresh(self) -> None:
        """Call the source; if it fails, keep the last budgets.

        Raises:
            TimeoutError: The source took too long.
            ValueError: The source returned too many budgets, or an invalid one. Valid budgets next
                to it are used; a key with an invalid budget keeps its last one.
        """
        await self._source.refresh()

    def __call__(
        self, traffic: Traffic, thresholds: Thresholds, now: float
    ) -> Iterator[Finding | None]:
        """Return a finding for each key near or above its budget."""
        threshold = thresholds.budget_warning
        if threshold is None:
            return
        self._source.check()
        usages, trends, wall = dict[ReportKey, Usage](), dict[ReportKey, _Trend](), self.wall()
        for key, usage in self._usages(traffic):
            if not 0 < usage[2] <= wall:  # the window has not ended since the report
                merge_reports(usages, {key: usage})
            yield None
        for key, (used, limit, ends) in usages.items():
            forecast = None
            if ends > 0:
                trend = _followed(self._trends.get(key), _Point(now, used, 0), ends)
                trends[key] = trend
                forecast = _forecast(trend, limit, wall)
            state = _State(_micros(used), _micros(limit), forecast, wall)
            if state.limit and state.share >= threshold * thresholds.resolve_ratio:
                owner = owner_of_limit(traffic, key.key)
                yield _finding(key, owner, state, threshold, thresholds)
            else:
                yield None
        self._trends = trends

    async def report(self) -> dict[ReportKey, Usage]:
        """Refresh, and return the usage of the keys near their budget; at most 1,000.

        Raises:
            TimeoutError, ValueError: See `refresh`.
        """
        if not self.per_process:
            return {}
        await self.refresh()
        return near_limit(self._own())

    def _usages(self, traffic: Traffic) -> Iterator[tuple[ReportKey, Usage]]:
        yield from self._own()
        if self.per_process:
            for key, usage in traffic.reports.items():
                if key.rule == self.name:
                    yield key, usage

    def _own(self) -> Iterator[tuple[ReportKey, Usage]]:
        for key, used, limit, policy, ends in self._source.rows:
            if limit > 0:
                yield ReportKey(self.name, policy, key), (used, limit, ends)

    def _entry(self, row: Any) -> _Entry:
        key, used, limit, policy, reset_after = Budget(*row)
        if policy == "":
            raise ValueError
        return _Entry(
            parse_identity(key),
            parse_number(used),
            0 if limit is None else parse_number(limit),
            parse_identity(policy),
            0.0 if reset_after is None else self.wall() + parse_number(reset_after),
        )


def budget(
    source: Source | None,
    *,
    timeout: float = 5,
    max_keys: int = 100_000,
    per_process: bool = False,
    wall: Callable[[], float] = time.time,
) -> BudgetRule:
    """Return a rule that fires when a key has used 80 % of its budget; critical from 100 %.

    A forecast of when the budget will be empty is part of the message if it lies before the end of
    the window. It is the average of the last 10 to 20 minutes, and needs 5 minutes in which the
    usage has grown between at least 3 pairs of evaluations.

    The engine calls the source before each evaluation. A key that the source no longer returns
    no longer has an alert. While the source fails, all alerts stay as they are; from its third
    failure in a row on, the rule and so the evaluation fail too.

    Args:
        source: A function without arguments, async or not, that returns the budgets, such as
            `budgets(policies)`. One that is not async must not block. None: there are no budgets.
        timeout: Seconds that an async source may take.
        max_keys: Maximum number of budgets; a source may return only those near their limit.
        per_process: The source knows only the usage in its own process, such as that of a limiter
            in memory. Every process of the fleet then calls it, and reports the keys that have used
            half of their budget to the leader once in an interval; their largest share counts.
        wall: Returns seconds since the epoch.

    Raises:
        ValueError: An argument is invalid.
    """
    return BudgetRule(
        source, timeout=timeout, max_keys=max_keys, per_process=per_process, wall=wall
    )


class _Entry(NamedTuple):
    """A valid budget; its window ends at `ends` in seconds since the epoch, or 0."""

    key: str
    used: float
    limit: float
    policy: str
    ends: float


def _identity(row: Any) -> tuple[str, str]:
    return parse_identity(row[3]), parse_identity(row[0])


class _Point(NamedTuple):
    """The usage at a time of the engine's clock, and how often it has grown until then."""

    at: float
    used: float
    growths: int


class _Trend(NamedTuple):
    """The usage of a window: now, and at two earlier times of which the older one is compared."""

    older: _Point
    newer: _Point
    last: _Point
    ends: float


def _followed(trend: _Trend | None, point: _Point, ends: float) -> _Trend:
    """Return the trend with a further usage; a new one if the window or the clock changed."""
    if (
        trend is None
        or abs(ends - trend.ends) > _MAX_SHIFT
        or point.used < trend.older.used
        or point.at < trend.last.at
    ):
        return _Trend(point, point, point, ends)
    older, newer, last, _ = trend
    last = point._replace(growths=last.growths + (point.used > last.used))
    if last.at - newer.at >= _TREND_SECONDS and last.growths - newer.growths >= _MIN_GROWTHS:
        older, newer = newer, last
    return _Trend(older, newer, last, ends)


def _forecast(trend: _Trend, limit: float, wall: float) -> float | None:
    """Return when the budget will be empty, in seconds since the epoch; None without evidence."""
    older, _, last, ends = trend
    seconds, used = last.at - older.at, last.used - older.used
    if seconds < _MIN_TREND_SECONDS or last.growths - older.growths < _MIN_GROWTHS or used <= 0:
        return None
    left = (limit - last.used) / used * seconds
    if not 0 < left <= _MAX_FORECAST_SECONDS:
        return None
    at = math.ceil((wall + left) / 60) * 60.0
    return at if wall < at < ends else None


class _State(NamedTuple):
    """A budget in micro-dollars, when it will be empty, and now, in seconds since the epoch."""

    used: int
    limit: int
    forecast: float | None
    now: float

    @property
    def share(self) -> float:
        """The used share, from integers: 0.08 / 0.1 is below 0.8."""
        return self.used / self.limit


def _finding(
    key: ReportKey, owner: Owner, state: _State, threshold: float, thresholds: Thresholds
) -> Finding:
    _, policy, identity = key
    share = state.share
    steps: Steps = ((1, "critical"), (threshold, "warning"))
    subject = Subject("budget", identity, owner.name)
    per_mille = state.used * 1000 // state.limit  # rounded down: 99.99 % is not used up
    used, limit = (_dollars(micros, state.limit) for micros in (state.used, state.limit))
    return Finding(
        type="budget",
        subject=subject,
        metric=policy,
        severity=severity_for(share, steps),
        keeps=severity_for(share, steps, thresholds.resolve_ratio),
        title="Budget used up" if share >= 1 else f"Budget at {per_mille // 10} %",
        message=f"Budget {identity!r}{owner.suffix(identity)} of policy {escaped(policy)} has used "
        f"{used} of {limit} USD ({per_mille // 10}.{per_mille % 10} %){_forecast_text(state)}",
        value=share,
        metadata={
            "used": state.used / _MICROS,
            "limit": state.limit / _MICROS,
            "policy": policy,
            "threshold": threshold,
            "forecast": None if state.forecast is None else _utc(state.forecast).isoformat(),
            **owner.metadata,
        },
        keep_firing=thresholds.keep_firing,
        window=0,  # the source is complete at once after a restart
    )


def _micros(dollars: float) -> int:
    """Return dollars as micro-dollars; 0 if they are not a valid amount."""
    return round(dollars * _MICROS) if 0 <= dollars <= MAX_NUMBER else 0  # false for NaN


def _dollars(micros: int, limit: int) -> str:
    """Return dollars and cents, rounded down; exact if the limit is below a dollar."""
    whole, rest = divmod(micros, _MICROS)
    decimals = f"{rest:06d}"
    if limit >= _MICROS:
        return f"{whole}.{decimals[:2]}"
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _forecast_text(state: _State) -> str:
    if state.forecast is None:
        return ""
    at = _utc(state.forecast)
    day = "" if at.date() == _utc(state.now).date() else f" on {at:%Y-%m-%d}"
    return f", empty at about {at:%H:%M} UTC{day}"


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
