"""Limiter with a bounded table of keys that a flood of keys cannot reset.

Guarantees for any number of keys (`docs/ratelimit.md` explains them):

P1  The table never has more than `max_keys` entries.
P2  A key over its limit stays limited until its window ends, regardless of other keys.
P3  No key exceeds its limit in a window, so k keys never exceed k times the limit.
P4  No request does work that grows with the table.
P5  In a flood of ten times `max_keys` keys, a new key is still allowed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from ...validation import check_integer
from .decision import Decision
from .fixed_window import FixedWindow, Window
from .rate import check_amount, parse_rate
from .sketch import EvictedWindows
from .strategy import create_strategy

_MAX_KEYS = 10_000_000
_MAX_EXPIRED_PER_HIT = 2  # one more than a request can add, so that the table becomes empty


class Limiter:
    """Rate limiter with a bounded table of keys, independent of HTTP.

    Entries are stored approximately in the order of their expiry, so the first entry is among the
    first to expire. A full table evicts it into a sketch of fixed size, from which it is restored
    if the key returns before its window ends.

    Use a limiter in one thread only, such as that of the event loop.

    Args:
        limit: A rate such as "100/minute" or "1000 per day".
        max_keys: Size of the table. The sketch for more keys is created when the table is full for
            the first time, and takes 1,408 bytes for each of `max_keys`.
        strategy: "fixed-window", "sliding-window-counter" or "gcra" (token bucket).
        clock: Monotonic seconds.

    Attributes:
        limit: Requests or tokens per window.
        window: Seconds.
        evictions: Entries evicted from the full table before they expired.
        clears: Number of calls of `clear`. A hit from before the last one must not be charged.

    Raises:
        ValueError: `limit` is not a rate, `max_keys` is not an integer from 1 to 10,000,000, the
            strategy is unknown, or `clock` is not callable.
    """

    def __init__(
        self,
        limit: str,
        *,
        max_keys: int = 5000,
        strategy: str = "fixed-window",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.window = parse_rate(limit)
        self.max_keys = check_integer("max_keys", max_keys, maximum=_MAX_KEYS)
        if not callable(clock):
            raise ValueError(f"clock must be a function such as time.monotonic, got {clock!r}")
        self.clock = clock
        self.evictions = self.clears = 0
        self._strategy = create_strategy(strategy, limit=self.limit, window=self.window)
        self._consume = self._strategy.consume
        self._extends_expiry = self._strategy.extends_expiry
        self._states: OrderedDict[Hashable, Any] = OrderedDict()
        self._get = self._states.get
        self._sketch: EvictedWindows | None = None

    @property
    def fixed_windows(self) -> FixedWindow | None:
        """Strategy if it has fixed windows; with `window_of`, it replaces `hit` for open windows.

        So a caller can decide on several limits before it counts.
        """
        return self._strategy if isinstance(self._strategy, FixedWindow) else None

    @property
    def window_of(self) -> Callable[[Hashable], Window | None]:
        """Function that returns the fixed window of a key, which may have ended, if it is known."""
        return self._get

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Hashable]:
        """Return an iterator over a copy of the table's keys; some may have expired."""
        return iter(list(self._states))

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
        """Remove the usage of `key`.

        If the table has been full, this may also reduce the usage of keys that share a cell of
        the sketch with `key`.
        """
        self._states.pop(key, None)
        if self._sketch is not None:
            self._strategy.clear(self._sketch, key, self.clock())

    def clear(self) -> None:
        """Remove the usage of all keys, as in a new limiter."""
        self._states.clear()
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
