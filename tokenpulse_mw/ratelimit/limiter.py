"""A fixed window for each client, opened by its first request, in a table that cannot be flooded.

What holds, however many clients come (`docs/ratelimit.md` says what it means for users):

P1  the table never has more than `max_keys` entries;
P2  a client over its limit stays so until its window ends, whoever else arrives;
P3  no client gets more than its limit in a window, so k clients never get more than k times it;
P4  no request does work that grows with the table.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from .decision import Decision
from .rate import parse_rate
from .sketch import WindowSketch

_CELLS_PER_KEY = 16
_EXPIRED_AT_ONCE = 2  # one more than a request can add, so the table does get empty


class _Window:
    __slots__ = ("ends", "used")

    def __init__(self, ends: float, used: int) -> None:
        self.ends = ends
        self.used = used


class Limiter:
    """Decides how much each key may still do; knows nothing of HTTP.

    Windows are kept nearly in the order in which they end, so the first entry is among the first
    to expire and, when the table is full, the one to go. What it used is then remembered in a
    sketch of fixed size, from which its window is taken up again should the key come back in time.

    Args:
        limit: A rate such as "100/minute" or "1000 per day".
        max_keys: Clients that are kept one by one. The sketch for those beyond is made when the
            table is first full, and takes 1 to 2 KiB for each of `max_keys`.
        clock: Monotonic seconds.

    Attributes:
        evictions: Windows that left a full table before they ended.

    Raises:
        ValueError: `limit` is not a rate, or `max_keys` not a whole number above 0.
    """

    def __init__(
        self,
        limit: str,
        *,
        max_keys: int = 5000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.window = parse_rate(limit)
        if type(max_keys) is not int or max_keys < 1:
            raise ValueError(f"max_keys must be a whole number of at least 1, got {max_keys!r}")
        self.max_keys = max_keys
        self.evictions = 0
        self._clock = clock
        self._windows: OrderedDict[Hashable, _Window] = OrderedDict()
        self._sketch: WindowSketch | None = None

    def __len__(self) -> int:
        return len(self._windows)

    def hit(self, key: Hashable, cost: int = 1) -> Decision:
        """Count a request of `cost` against `key`, if there is room for it.

        A request that is not allowed costs nothing.

        Raises:
            ValueError: `cost` is negative, or no whole number.
        """
        if type(cost) is not int or cost < 0:
            raise ValueError(f"cost must be a whole number and not negative, got {cost!r}")
        now = self._clock()
        window = self._windows.get(key)
        if window is None or window.ends <= now:
            window = self._open(key, now)
        used = window.used + cost
        left = window.ends - now
        limit = self.limit
        if used > limit:
            return Decision(False, limit, max(limit - window.used, 0), left, left)
        window.used = used
        return Decision(True, limit, limit - used, left, 0.0)

    def peek(self, key: Hashable, cost: int = 1) -> Decision:
        """Whether a request of `cost` would be allowed now, and what remains; counts nothing."""
        now = self._clock()
        window = self._windows.get(key)
        used, ends = (window.used, window.ends) if window else self._recall(key, now)
        if ends <= now:
            used, ends = 0, now + self.window
        left = ends - now
        allowed = used + cost <= self.limit
        return Decision(
            allowed, self.limit, max(self.limit - used, 0), left, 0.0 if allowed else left
        )

    def reset(self, key: Hashable) -> None:
        """Forget what `key` has used.

        When the table has been full, others that share the key's cells in the sketch may be
        forgotten in part.
        """
        self._windows.pop(key, None)
        if self._sketch is not None:
            self._sketch.forget(key)

    def _open(self, key: Hashable, now: float) -> _Window:
        """Start a window for `key`, or take up again the one that a full table let go."""
        self._expire(now)
        windows = self._windows
        windows.pop(key, None)
        used, ends = self._recall(key, now)
        if len(windows) >= self.max_keys:
            self._evict(now)
        window = windows[key] = _Window(ends if ends > now else now + self.window, used)
        if used and ends < windows[next(iter(windows))].ends:
            # Else it would hide behind windows that end later.
            windows.move_to_end(key, last=False)
        return window

    def _recall(self, key: Hashable, now: float) -> tuple[int, float]:
        return self._sketch.recall(key, now) if self._sketch is not None else (0, now)

    def _expire(self, now: float) -> None:
        windows = self._windows
        for _ in range(_EXPIRED_AT_ONCE):
            if not windows:
                return
            oldest = next(iter(windows))
            if windows[oldest].ends > now:
                return
            del windows[oldest]

    def _evict(self, now: float) -> None:
        if self._sketch is None:
            cells = _CELLS_PER_KEY * self.max_keys
            self._sketch = WindowSketch(width=1 << (cells - 1).bit_length())
        key, window = self._windows.popitem(last=False)
        self._sketch.remember(key, window.used, window.ends, now)
        self.evictions += 1
