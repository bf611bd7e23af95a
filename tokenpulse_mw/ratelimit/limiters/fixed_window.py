"""Fixed windows, which a key's first request opens."""

from __future__ import annotations

import math
from collections.abc import Hashable

from .decision import EPSILON, Decision
from .sketch import WindowSketch

_new = tuple.__new__  # twice as fast as calling Decision
_UNIT = "requests"


class Window:
    """Usage of a key, and the end and the length of its window."""

    __slots__ = ("ends", "length", "used")

    def __init__(self, ends: float, used: int, length: float) -> None:
        self.ends = ends
        self.used = used
        self.length = length  # that of the limit may have changed since


class FixedWindow:
    """At most `limit` in each window; the default strategy.

    Around the end of a window a client can use twice the limit in a short time.
    """

    extends_expiry = False

    def __init__(self, limit: int, window: int) -> None:
        self.limit = limit
        self.window = window

    def change(self, limit: int, window: int) -> None:
        """Set the limit, and the length of windows that begin from now on."""
        self.limit, self.window = limit, window

    def new_state(self, now: float) -> Window:
        """Return an empty window that begins now."""
        return Window(now + self.window, 0, self.window)

    def consume(self, state: Window, now: float, cost: int, policy: str = "default") -> Decision:
        """Count `cost` if the window has room for it; `policy` names the decision then."""
        limit = self.limit
        used = state.used + cost
        if used > limit:
            return self.check(state, now, cost)
        state.used = used
        left = state.ends - now
        return _new(
            Decision,
            (True, limit, limit - used, left, 0.0, policy, (), False, None, None, _UNIT, None, 429),
        )

    def has_room(self, state: Window, now: float, cost: int) -> bool:
        """Return True if the window has room for `cost`."""
        return state.used + cost <= self.limit or not cost

    def check(self, state: Window, now: float, cost: int) -> Decision:
        """Return the decision on `cost` without counting."""
        limit, left = self.limit, state.ends - now
        while now + left < state.ends:  # round up, so that a client that waits is allowed
            left = math.nextafter(left, math.inf)
        remaining = max(limit - state.used, 0)
        if cost <= remaining:
            return Decision(True, limit, remaining, left, 0.0)
        return Decision(False, limit, remaining, left, left if cost <= limit else math.inf)

    def charge(self, state: Window, now: float, amount: int, since: float) -> None:
        """Count `amount`; a refund of a hit before this window is ignored."""
        if amount > 0 or since >= state.ends - state.length - EPSILON:
            state.used = max(state.used + amount, 0)

    def adopt(self, state: Window, now: float, decision: Decision) -> None:
        """Count at least the usage of `decision`, until the end of its window."""
        used, ends = decision.limit - decision.remaining, now + decision.reset_after
        if not state.used or ends - state.ends > self.window / 2:  # a newer window
            state.used, state.ends = used, ends
        else:
            state.used, state.ends = max(state.used, used), max(state.ends, ends)

    def save(self, sketch: WindowSketch, key: Hashable, state: Window, now: float) -> None:
        """Store the window in `sketch`."""
        sketch.save(key, state.used, state.ends, now)

    def load(self, sketch: WindowSketch, key: Hashable, now: float) -> Window | None:
        """Return the stored window of `key`, or None."""
        used, ends = sketch.load(key, now)
        # The length is not stored. It was at least the rest.
        return Window(ends, used, max(self.window, ends - now)) if ends > now else None

    def clear(self, sketch: WindowSketch, key: Hashable, now: float) -> None:
        """Remove the stored window of `key`."""
        sketch.clear(key)
