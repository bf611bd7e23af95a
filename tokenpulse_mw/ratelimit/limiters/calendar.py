"""Calendar windows: hours, days, weeks, months and years of a time zone.

A window ends where the civil calendar says, so a day may have 23 or 25 hours. Windows are the same
for all keys, and begin whether or not a request arrives.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from .decision import Decision
from .fixed_window import FixedWindow, Window

logger = logging.getLogger("tokenpulse_mw.ratelimit")

# Seconds of the largest window of each period: a change of the clocks may add two hours.
_EXTRA = 2 * 3600
PERIODS = {
    "hour": 3600,
    "day": 86_400 + _EXTRA,
    "week": 7 * 86_400 + _EXTRA,
    "month": 31 * 86_400 + _EXTRA,
    "year": 366 * 86_400 + _EXTRA,
}
_HOUR = 3600
_BEHIND_SECONDS = 60.0  # from here on, a wall clock that was set back is reported


@lru_cache(maxsize=64)
def time_zone(name: str) -> tzinfo:
    """Return a time zone by its IANA name, such as "Europe/Berlin".

    Raises:
        ValueError: The zone is unknown, or the system has no time zone data.
    """
    if name == "UTC":
        return UTC  # needs no data
    try:
        return ZoneInfo(name)
    except Exception:  # noqa: BLE001 - of a name that is a path, a folder or not a string
        raise ValueError(
            f"timezone must be an IANA name such as 'Europe/Berlin', got {name!r}; if the name is "
            "right, this system has no time zone data: pip install tzdata"
        ) from None


class Calendar:
    """Windows of one period in one time zone.

    Args:
        period: "hour", "day", "week" (from Monday), "month" or "year".
        timezone: IANA name of the time zone.

    Raises:
        ValueError: The time zone is unknown.
    """

    def __init__(self, period: str, timezone: str = "UTC") -> None:
        self.period = period
        self.timezone = timezone
        self._zone = time_zone(timezone)
        self._last = (math.inf, -math.inf)

    def window(self, at: float) -> tuple[float, float]:
        """Return the start and the end of the window of `at`, in seconds since the epoch."""
        starts, ends = self._last
        if not starts <= at < ends:
            self._last = starts, ends = self._hour(at) if self.period == "hour" else self._days(at)
        return starts, ends

    def _hour(self, at: float) -> tuple[float, float]:
        """Return the hour of `at`; a change of the clocks by half an hour divides an hour."""
        offset = _offset(at, self._zone)
        starts = (at + offset) // _HOUR * _HOUR - offset
        ends = starts + _HOUR
        if (_offset(starts, self._zone) - offset) % _HOUR:
            starts = _change(starts, at, self._zone)
        if (_offset(ends, self._zone) - offset) % _HOUR:
            ends = _change(at, ends, self._zone)
        return starts, ends

    def _days(self, at: float) -> tuple[float, float]:
        first = _first_day(datetime.fromtimestamp(at, self._zone).date(), self.period)
        following = _next_first_day(first, self.period)
        # Midnight may occur twice. The first one counts, so the date may be of the day before.
        while self._midnight(following) <= at:
            first, following = following, _next_first_day(following, self.period)
        return self._midnight(first), self._midnight(following)

    def _midnight(self, day: date) -> float:
        """Return the begin of a day; if the clocks skip midnight, the time when they do."""
        midnight = datetime(day.year, day.month, day.day, tzinfo=self._zone)
        at = midnight.timestamp()
        if datetime.fromtimestamp(at, self._zone).replace(fold=0) == midnight:
            return at
        return _change(at - 86_400, at, self._zone)


def _first_day(day: date, period: str) -> date:
    if period == "week":
        return day - timedelta(days=day.weekday())
    if period == "day":
        return day
    return day.replace(day=1) if period == "month" else day.replace(month=1, day=1)


def _next_first_day(first: date, period: str) -> date:
    if period in ("day", "week"):
        return first + timedelta(days=1 if period == "day" else 7)
    # 32 days after the first of a month is in the next one, and 370 days after a year's begin too.
    return _first_day(first + timedelta(days=32 if period == "month" else 370), period)


def _offset(at: float, zone: tzinfo) -> float:
    offset = datetime.fromtimestamp(at, zone).utcoffset()
    return 0.0 if offset is None else offset.total_seconds()


def _change(before: float, after: float, zone: tzinfo) -> float:
    """Return the second in which the offset changes between two times."""
    offset, low, high = _offset(before, zone), math.floor(before), math.ceil(after)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _offset(middle, zone) == offset else (low, middle)
    return float(high)


class CalendarClock:
    """Wall clock that does not return to a window that has ended.

    If the wall clock is set back to an earlier window, this clock stops at the start of the
    present one until the wall clock has arrived there. So no window has a second budget.

    Args:
        calendar: Windows.
        wall_clock: Seconds since the epoch.

    Attributes:
        calendar: The argument.
    """

    def __init__(self, calendar: Calendar, wall_clock: Callable[[], float] = time.time) -> None:
        self.calendar = calendar
        self._wall_clock = wall_clock
        self._starts, self._ends = math.inf, -math.inf
        self._warned = False

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        now = self._wall_clock()
        if now >= self._ends:
            self._starts, self._ends = self.calendar.window(now)
        elif now < self._starts:
            self._report(self._starts - now)
            return self._starts
        return now

    def window(self) -> tuple[float, float]:
        """Return the start and the end of the present window, in seconds since the epoch."""
        self()
        return self._starts, self._ends

    def left(self) -> float:
        """Return the seconds until the present window ends."""
        return self.until(self.window()[1])

    def until(self, ends: float) -> float:
        """Return the seconds until a window that was present ends; 0 if it has ended."""
        left = ends - self()
        return left + self.behind() if left > 0 else 0.0

    def behind(self) -> float:
        """Return the seconds until the wall clock arrives at the present window."""
        return max(self._starts - self._wall_clock(), 0.0) if self._ends > 0 else 0.0

    def _report(self, seconds: float) -> None:
        if seconds > _BEHIND_SECONDS and not self._warned:
            self._warned = True
            logger.warning(
                "wall clock was set back by %.0f s to before the current calendar %s: requests "
                "count in the later window until its end (logged once); if the clock was wrong "
                "before, restart the process",
                seconds,
                self.calendar.period,
            )


class CalendarWindow(FixedWindow):
    """At most `limit` in each window of a calendar.

    Times are seconds since the epoch. `window` is the length of the largest window.

    Args:
        limit: Requests, tokens or micro-dollars per window.
        clock: Clock of the limiter, with the windows.
    """

    def __init__(self, limit: int, clock: CalendarClock) -> None:
        super().__init__(limit, PERIODS[clock.calendar.period])
        self._calendar, self._behind = clock.calendar, clock.behind

    def change(self, limit: int, window: int) -> None:  # noqa: ARG002
        """Set the limit; the windows of a calendar do not change."""
        self.limit = limit

    def new_state(self, now: float) -> Window:
        """Return an empty window of the calendar."""
        return Window(self._calendar.window(now)[1], 0, self.window)

    def consume(self, state: Window, now: float, cost: int, policy: str = "default") -> Decision:
        """Count `cost` if the window has room for it; `policy` names the decision then."""
        decision = self.check(state, now, cost)
        if not decision.allowed or not cost:
            return decision
        state.used += cost
        return decision._replace(remaining=decision.remaining - cost, policy=policy)

    def check(self, state: Window, now: float, cost: int) -> Decision:
        """Return the decision on `cost` without counting."""
        limit, left = self.limit, state.ends - now + self._behind()
        remaining = max(limit - state.used, 0)
        if cost <= remaining:
            return Decision(True, limit, remaining, left, 0.0)
        return Decision(False, limit, remaining, left, left if cost <= limit else math.inf)

    def charge(self, state: Window, now: float, amount: int, since: float) -> None:  # noqa: ARG002
        """Count `amount`; a refund of a hit before this window is ignored."""
        if amount > 0 or since >= self._calendar.window(state.ends - 1.0)[0]:
            state.used = max(state.used + amount, 0)

    def adopt(self, state: Window, now: float, decision: Decision) -> None:  # noqa: ARG002
        """Count at least the usage of `decision`."""
        state.used = max(state.used, decision.limit - decision.remaining)
