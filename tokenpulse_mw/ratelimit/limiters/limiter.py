"""Limiter with a bounded table of keys that a flood of keys cannot reset.

Guarantees for any number of keys (`docs/ratelimit.md` explains them):

P1  The table never has more than `max_keys` entries.
P2  A key over its limit stays limited until its window ends, regardless of other keys.
P3  No key exceeds its limit in a window, so k keys never exceed k times the limit.
P4  No request does work that grows with the table.
P5  In a flood of ten times `max_keys` keys, a new key is still allowed.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from heapq import nlargest
from itertools import islice
from typing import Any

from ...validation import check_integer
from ..encoding import decode_key, encode_key
from .blocked import Blocked
from .calendar import Calendar, CalendarClock
from .decision import Decision
from .fixed_window import FixedWindow, Window
from .rate import Changes, Rate, check_amount, parse_change, parse_rate
from .saved import SavedWindow
from .sketch import EvictedWindows
from .strategy import FIXED_WINDOWS, Strategy, create_strategy

_MAX_KEYS = 10_000_000
_MIN_SAVED_SECONDS = 3600
_MAX_RESETS = 1000
_MAX_EXPIRED_PER_HIT = 2  # one more than a request can add, so that the table becomes empty


class Limiter:
    """Rate limiter with a bounded table of keys, independent of HTTP.

    Entries are stored approximately in the order of their expiry, so the first entry is among the
    first to expire. A full table evicts it into a sketch of fixed size, from which it is restored
    if the key returns before its window ends.

    Use a limiter in one thread only, such as that of the event loop.

    Args:
        limit: A rate such as "100/minute" or "1000 per day", an amount of money such as
            "20 USD/day", or a rate of the calendar such as "100 USD per calendar month". With an
            amount of 0, every request that costs something is rejected.
        max_keys: Size of the table. The sketch for more keys is created when the table is full for
            the first time, and takes 1,408 bytes for each of `max_keys`.
        strategy: "fixed-window", "sliding-window-counter" or "gcra" (token bucket).
        clock: Monotonic seconds; not used for calendar windows.
        timezone: IANA name of the time zone of calendar windows, such as "Europe/Berlin"; UTC when
            None.
        wall_clock: Seconds since the epoch, for calendar windows.

    Attributes:
        limit: Requests, tokens or micro-dollars per window.
        window: Seconds; of the largest calendar window.
        currency: "USD" if the limiter counts micro-dollars, else None.
        period: "hour", "day", "week", "month" or "year" of calendar windows, else None.
        timezone: Time zone of calendar windows, else None.
        evictions: Entries evicted from the full table before they expired.
        clears: Number of calls of `clear`. A hit from before the last one must not be charged.
        storage_kind: Place of the counts: "memory" of this process, or "workers" of this machine.

    Raises:
        ValueError: `limit` is not a rate, `max_keys` is not an integer from 1 to 10,000,000, the
            strategy is unknown, a clock is not callable, or the time zone is unknown or not used.
    """

    storage_kind = "memory"

    def __init__(
        self,
        limit: str,
        *,
        max_keys: int = 5000,
        strategy: str = "fixed-window",
        clock: Callable[[], float] = time.monotonic,
        timezone: str | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.limit, self.window, self.currency, self.period = rate = parse_rate(limit)
        self.max_keys = check_integer("max_keys", max_keys, maximum=_MAX_KEYS)
        for name, function in {"clock": clock, "wall_clock": wall_clock}.items():
            if not callable(function):
                raise ValueError(
                    f"{name} must be a function such as time.monotonic, got {function!r}"
                )
        self.clock = clock
        self._wall_clock = wall_clock
        self._fixed_window = f"with strategy {strategy!r}" if strategy in FIXED_WINDOWS else ""
        if self.currency is not None and strategy != "fixed-window":
            raise ValueError(
                "strategy must be 'fixed-window' for a limit of money, which is counted exactly, "
                f"got {strategy!r}"
            )
        self._calendar_clock = calendar_clock = self._open_calendar(timezone)
        self.timezone = None if calendar_clock is None else calendar_clock.calendar.timezone
        self.evictions = self.clears = 0
        self._use(
            create_strategy(
                strategy,
                limit=max(rate.amount, 1),
                window=self.window,
                clock=calendar_clock,
            )
        )
        if not rate.amount:
            self._use(Blocked(self._strategy))
        self._states: OrderedDict[Hashable, Any] = OrderedDict()
        self._get = self._states.get
        self._sketch: EvictedWindows | None = None
        self._resets: dict[Hashable, float] = {}  # times of the last resets

    @property
    def fixed_windows(self) -> FixedWindow | None:
        """Strategy if it has fixed windows; with `window_of`, it replaces `hit` for open windows.

        So a caller can decide on several limits before it counts.
        """
        return self._strategy if type(self._strategy) is FixedWindow else None

    @property
    def window_of(self) -> Callable[[Hashable], Window | None]:
        """Function that returns the fixed window of a key, which may have ended, if it is known."""
        return self._get

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Hashable]:
        """Return an iterator over a copy of the table's keys; some may have expired."""
        return iter(list(self._states))

    def sample(self, most: int) -> list[Hashable]:
        """Return at most `most` keys of the table, in a time that does not grow with the table.

        Of a larger table, half of them are those that were added last.
        """
        return sample_keys(self._states, most)

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` for `key` if it is within the limit.

        A rejected request is not counted.

        Raises:
            ValueError: `cost` is not an integer of at least 0.
        """
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        now = self.clock()
        state = self._get(key)
        if state is None or state.ends <= now:
            state = self._create(key, now)
        elif self._extends_expiry:
            self._states.move_to_end(key)
        return self._consume(state, now, cost)

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Return what `hit` would decide, without counting.

        Raises:
            ValueError: `cost` is not an integer of at least 0.
        """
        if type(cost) is not int or cost < 0:
            check_integer("cost", cost, minimum=0)
        now = self.clock()
        state = self._states.get(key)
        if state is None or state.ends <= now:
            state = self._load(key, now) or self._strategy.new_state(now)
        return self._strategy.check(state, now, cost)

    def has_room(self, key: Hashable, cost: int) -> bool:
        """Return True if `hit` would allow a valid `cost`; faster than `peek`."""
        now = self.clock()
        state = self._get(key)
        if state is None or state.ends <= now:
            state = self._load(key, now) or self._strategy.new_state(now)
        return self._strategy.has_room(state, now, cost)

    def charge(self, key: Hashable, amount: int, *, since: float | None = None) -> None:
        """Correct the cost of a hit, regardless of the limit.

        A negative amount is a refund, for the part of the hit that still counts. No amount limits a
        key for long: windows end, and a bucket is empty after ten windows.

        Args:
            key: Key to charge.
            amount: Difference between the real cost and the cost of the hit.
            since: Seconds of `clock`, read after the hit; now when None.

        Raises:
            ValueError: `amount` is not an integer.
        """
        amount = check_amount(amount)
        now = self.clock()
        if (
            self._resets
            and amount < 0
            and since is not None
            and since < self._resets.get(key, since)
        ):
            return  # the reset has removed the hit
        state = self._states.get(key)
        if state is None or state.ends <= now:
            if amount <= 0:  # expired, or in the sketch, which supports no refunds
                return
            state = self._create(key, now)
        self._strategy.charge(state, now, amount, now if since is None else since)

    def adopt(self, key: Hashable, decision: Decision) -> None:
        """Count at least the usage in a decision that another limiter made just now.

        Args:
            key: Key of the decision.
            decision: Decision of a limiter with the same limit and strategy.
        """
        now = self.clock()
        state = self._get(key)
        if state is None or state.ends <= now:
            state = self._create(key, now)
        elif self._extends_expiry:
            self._states.move_to_end(key)
        self._strategy.adopt(state, now, decision)

    def reset(self, key: Hashable) -> None:
        """Remove the usage of `key`; refunds of hits before it are ignored.

        If the table has been full, this may also reduce the usage of keys that share a cell of
        the sketch with `key`.
        """
        self._states.pop(key, None)
        self._resets.pop(key, None)
        self._resets[key] = self.clock()
        if len(self._resets) > _MAX_RESETS:
            del self._resets[next(iter(self._resets))]
        if self._sketch is not None:
            self._strategy.clear(self._sketch, key, self.clock())

    @property
    def rate(self) -> Rate:
        """Present rate; its text can be parsed again."""
        strategy = self._strategy
        if isinstance(strategy, Blocked):
            strategy = strategy.at(self.clock())  # no request may have come since the end
        return Rate(strategy.limit, strategy.window, self.currency, self.period)

    def set_limit(self, limit: str, *, seconds: float | None = None) -> None:
        """Change the limit; the usage of all keys and the ends of their windows stay.

        Other processes keep their limit, even if they count in the same file.

        Args:
            limit: A rate of the same currency and calendar period, or "0".
            seconds: For a limit of 0: seconds after which the limit before returns; until it is
                changed again when None.

        Raises:
            ValueError: `limit` is not such a rate, or the strategy needs the same window.
        """
        change = self.check_limit(limit, seconds=seconds)
        strategy = self._strategy
        if isinstance(strategy, Blocked):
            strategy = strategy.strategy
        if change is None:
            until = None if seconds is None else self.clock() + seconds
            self._use(Blocked(strategy, until, lambda: self._use(strategy)))
        else:
            strategy.change(change.amount, change.seconds)
            self._use(strategy)

    def check_limit(self, limit: str, *, seconds: float | None = None) -> Rate | None:
        """Return the rate that `set_limit` would set, or None for a block, without changing it.

        Raises:
            ValueError: As `set_limit`.
        """
        return parse_change(limit, self.rate, seconds, fixed=self._fixed_window)

    def blocked_for(self) -> float | None:
        """Return the seconds until a block ends, infinite if that is not known; None without."""
        strategy = self._strategy
        if not isinstance(strategy, Blocked):
            return None
        if strategy.until is None:
            return math.inf
        left = strategy.until - self.clock()
        return left if left > 0 else None

    def _use(self, strategy: Strategy) -> None:
        self._strategy, self._consume = strategy, strategy.consume
        self._extends_expiry = strategy.extends_expiry
        self.limit, self.window = strategy.limit, strategy.window
        Changes.count += 1

    def _open_calendar(self, timezone: str | None) -> CalendarClock | None:
        """Return the clock of the calendar, which replaces the monotonic clock."""
        if self.period is None:
            if timezone is not None:
                raise ValueError(
                    "timezone must be None without a calendar window, such as "
                    f"'1000/calendar day', got {timezone!r}"
                )
            return None
        calendar = Calendar(self.period, "UTC" if timezone is None else timezone)
        self.clock = clock = CalendarClock(calendar, self._wall_clock)
        return clock

    def dump(self, *, max_keys: int = 10_000) -> list[SavedWindow]:
        """Return the windows of keys, so that a store can keep them over a restart.

        Only windows of at least an hour are worth it, so shorter ones are left out, and so are
        strategies without fixed windows, evicted keys, and keys that only this process can have.

        Args:
            max_keys: Maximum number of windows; those that have used the most.
        """
        if not self._is_saved():
            return []
        now, wall = self._times()
        windows = [
            SavedWindow(encoded, state.used, wall + state.ends - now)
            for key, state in list(self._states.items())
            if isinstance(state, Window)
            and state.ends > now
            and (encoded := _encoded(key)) is not None
        ]
        return nlargest(max_keys, windows, key=lambda window: window.used)

    def restore(self, windows: Iterable[SavedWindow]) -> None:
        """Add the usage in windows that `dump` returned, before or after a restart.

        Call it once for each dump, since usage is added. Windows that have ended, and those of
        another calendar, are left out; none lasts longer than a window from now.

        Raises:
            ValueError: A key is malformed. Nothing is added then.
        """
        now, wall = self._times()
        windows = sorted(windows, key=lambda window: window.ends)
        for key, window in [(decode_key(window.key), window) for window in windows]:
            ends = now + window.ends - wall
            fresh = self._fresh(key, now)
            if ends <= now or not isinstance(fresh, Window):
                continue
            if self._calendar_clock is not None and abs(ends - fresh.ends) > 1.0:
                continue
            state = self._get(key)
            if state is None or state.ends <= now:
                state = self._create(key, now)
                if not state.used:
                    state.ends = min(ends, fresh.ends)
            state.used += max(window.used, 0)

    def _times(self) -> tuple[float, float]:
        """Return the time of the clock, and the same one in seconds since the epoch."""
        now = self.clock()  # of a calendar, it already is; the wall clock may be behind it
        return now, self._wall_clock() if self._calendar_clock is None else now

    def _is_saved(self) -> bool:
        return self.window >= _MIN_SAVED_SECONDS

    def _fresh(self, key: Hashable, now: float) -> Any:  # noqa: ARG002
        """Return the state of an unused key."""
        return self._strategy.new_state(now)

    def clear(self) -> None:
        """Remove the usage of all keys, as in a new limiter."""
        self._states.clear()
        self._resets.clear()
        self._sketch, self.evictions = None, 0
        self.clears += 1

    def _create(self, key: Hashable, now: float) -> Any:
        """Add a state for `key`: a new one, or the one that was evicted into the sketch."""
        states, strategy, sketch = self._states, self._strategy, self._sketch
        if key in states:
            del states[key]  # it has expired
        state = None if sketch is None else strategy.load(sketch, key, now)
        if len(states) < self.max_keys:
            self._expire(now, _MAX_EXPIRED_PER_HIT)
        else:
            evicted, oldest = states.popitem(last=False)
            if oldest.ends <= now:
                self._expire(now, _MAX_EXPIRED_PER_HIT - 1)
            else:
                if sketch is None:
                    sketch = self._sketch = EvictedWindows(self.max_keys)
                strategy.save(sketch, evicted, oldest, now)
                self.evictions += 1
        if state is None:
            state = states[key] = strategy.new_state(now)
            return state
        states[key] = state
        if not self._extends_expiry and state.ends < states[next(iter(states))].ends:
            states.move_to_end(key, last=False)  # else entries that end later would precede it
        return state

    def _expire(self, now: float, count: int) -> None:
        """Remove at most `count` expired entries."""
        states = self._states
        for _ in range(count):
            if not states:
                return
            first = next(iter(states))
            if states[first].ends > now:
                return
            del states[first]

    def _load(self, key: Hashable, now: float) -> Any:
        return self._strategy.load(self._sketch, key, now) if self._sketch is not None else None


def sample_keys(table: dict[Hashable, Any], most: int) -> list[Hashable]:
    """Return at most `most` keys of a table: those that were added first, and last."""
    # The iterators of `dict` are 20 times as fast as those of an OrderedDict.
    if len(table) <= most:
        return list(dict.__iter__(table))
    first = islice(dict.__iter__(table), most - most // 2)
    return [*first, *islice(dict.__reversed__(table), most // 2)]


def _encoded(key: Hashable) -> bytes | None:
    """Return the encoding of `key`; None if another process cannot have it."""
    try:
        return encode_key(key)
    except ValueError:
        return None
