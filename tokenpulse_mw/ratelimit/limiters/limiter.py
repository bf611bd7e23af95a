"""What each client has used, in a table that cannot be flooded.

What holds, however many clients come (`docs/ratelimit.md` says what it means for users):

P1  the table never has more than `max_keys` entries;
P2  a client over its limit stays so until its window ends, whoever else arrives;
P3  no client gets more than its limit in a window, so k clients never get more than k times it;
P4  no request does work that grows with the table;
P5  in a flood of ten times `max_keys` clients, a newcomer is still served.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

from .decision import Decision
from .rate import check_amount, check_cost, parse_rate
from .sketch import WindowSketch
from .strategy import strategy_named

_MAX_KEYS = 10_000_000
_CELLS_PER_KEY = 24
_MAX_EXPIRED_PER_HIT = 2  # one more than a request can add, so the table does get empty


class Limiter:
    """Decides how much each key may still do; knows nothing of HTTP.

    What the keys have used is kept nearly in the order in which it ends, so the first entry is
    among the first to expire and, when the table is full, the one to go. It is then remembered
    in a sketch of fixed size, and taken up again should the key come back in time.

    Use it in one thread, such as that of the event loop.

    Args:
        limit: A rate such as "100/minute" or "1000 per day".
        max_keys: Clients that are kept one by one. The sketch for those beyond is made when the
            table is first full, and takes 1.5 to 3 KiB for each of `max_keys`.
        strategy: "fixed-window", "sliding-window-counter" or "gcra" (also known as token bucket).
        clock: Monotonic seconds.

    Attributes:
        limit: What a window has room for.
        window: Seconds.
        evictions: Clients that left a full table before their time.

    Raises:
        ValueError: `limit` is not a rate, `max_keys` not a whole number above 0, there is no such
            strategy, or `clock` cannot be called.
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
        if type(max_keys) is not int or not 1 <= max_keys <= _MAX_KEYS:
            raise ValueError(
                f"max_keys must be a whole number from 1 to {_MAX_KEYS}, got {max_keys!r}"
            )
        if not callable(clock):
            raise ValueError(f"clock must be a function such as time.monotonic, got {clock!r}")
        self.max_keys = max_keys
        self.clock = clock
        self.evictions = 0
        self._strategy = strategy_named(strategy, limit=self.limit, window=self.window)
        self._take = self._strategy.consume
        self._moves = self._strategy.extends_expiry
        self._states: OrderedDict[Hashable, Any] = OrderedDict()
        self._get = self._states.get
        self._sketch: WindowSketch | None = None

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[Hashable]:
        """The keys in the table, as they are now; some may have expired."""
        return iter(list(self._states))

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` against `key`, if there is room for it.

        A request that is not allowed costs nothing.

        Raises:
            ValueError: `cost` is negative, or no whole number.
        """
        if type(cost) is not int or cost < 0:
            check_cost(cost)
        now = self.clock()
        state = self._get(key)
        if state is None or state.ends <= now:
            state = self._open(key, now)
        elif self._moves:
            self._states.move_to_end(key)
        return self._take(state, now, cost)

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Whether a request of `cost` would be allowed now, and what remains; counts nothing.

        Raises:
            ValueError: `cost` is negative, or no whole number.
        """
        check_cost(cost)
        now = self.clock()
        state = self._states.get(key)
        if state is None or state.ends <= now:
            state = self._recall(key, now) or self._strategy.new_state(now)
        return self._strategy.check(state, now, cost)

    def charge(self, key: Hashable, amount: int, *, since: float | None = None) -> None:
        """Count `amount` against `key` with no regard to the limit.

        A negative amount gives back what a hit has taken, as far as that still counts. No amount
        limits a key for long: windows end, and a bucket is empty after ten windows.

        Args:
            key: Who is charged.
            amount: How much, once it is known that a hit has cost more, or less.
            since: When the hit was, in seconds of `clock`, read after it; now when None.

        Raises:
            ValueError: `amount` is no whole number.
        """
        amount = check_amount(amount)
        now = self.clock()
        state = self._states.get(key)
        if state is None or state.ends <= now:
            if amount <= 0:  # forgotten, or in the sketch, which never counts less
                return
            state = self._open(key, now)
        self._strategy.charge(state, now, amount, now if since is None else since)

    def adopt(self, key: Hashable, decision: Decision) -> None:
        """Count at least what `decision`, made just now by another limiter, has counted.

        Args:
            key: Key that was decided about.
            decision: Decision of a limiter with the same limit and strategy.
        """
        now = self.clock()
        state = self._get(key)
        if state is None or state.ends <= now:
            state = self._open(key, now)
        elif self._moves:
            self._states.move_to_end(key)
        self._strategy.adopt(state, now, decision)

    def reset(self, key: Hashable) -> None:
        """Forget what `key` has used.

        When the table has been full, others that share the key's cells in the sketch may be
        forgotten in part.
        """
        self._states.pop(key, None)
        if self._sketch is not None:
            self._strategy.clear(self._sketch, key, self.clock())

    def _open(self, key: Hashable, now: float) -> Any:
        """Begin a state for `key`, or take up again the one that a full table let go."""
        self._expire(now)
        states = self._states
        states.pop(key, None)
        recalled = self._recall(key, now)
        if len(states) >= self.max_keys:
            self._evict(now)
        state = states[key] = recalled or self._strategy.new_state(now)
        if recalled and not self._moves and state.ends < states[next(iter(states))].ends:
            states.move_to_end(key, last=False)  # else it would hide behind some that end later
        return state

    def _recall(self, key: Hashable, now: float) -> Any:
        return self._strategy.load(self._sketch, key, now) if self._sketch is not None else None

    def _expire(self, now: float) -> None:
        states = self._states
        for _ in range(_MAX_EXPIRED_PER_HIT):
            if not states:
                return
            oldest = next(iter(states))
            if states[oldest].ends > now:
                return
            del states[oldest]

    def _evict(self, now: float) -> None:
        if self._sketch is None:
            cells = _CELLS_PER_KEY * self.max_keys
            self._sketch = WindowSketch(width=1 << (cells - 1).bit_length())
        key, state = self._states.popitem(last=False)
        self._strategy.save(self._sketch, key, state, now)
        self.evictions += 1
