"""Fixed windows: each opens with its key's first request and ends a whole window later."""

from __future__ import annotations

import math
from collections.abc import Hashable

from .decision import EPSILON, Decision
from .sketch import WindowSketch

_new = tuple.__new__  # what most requests get is made in half the time


class Window:
    """What a key has used, and when that is forgotten."""

    __slots__ = ("ends", "used")

    def __init__(self, ends: float, used: int) -> None:
        self.ends = ends
        self.used = used


class FixedWindow:
    """At most `limit` in each window (the seed's way, and the default).

    Around the end of a window a client can use twice the limit in a short time.
    """

    extends_expiry = False

    def __init__(self, limit: int, window: int) -> None:
        self.limit = limit
        self.window = window

    def new_state(self, now: float) -> Window:
        """A window that begins now."""
        return Window(now + self.window, 0)

    def consume(self, state: Window, now: float, cost: int) -> Decision:
        """Count `cost` if the window has room for it."""
        limit = self.limit
        used = state.used + cost
        if used > limit:
            return self.check(state, now, cost)
        state.used = used
        fields = (True, limit, limit - used, state.ends - now, 0.0, "default", (), False, None)
        return _new(Decision, fields)

    def check(self, state: Window, now: float, cost: int) -> Decision:
        """Whether the window has room for `cost`."""
        limit, left = self.limit, state.ends - now
        while now + left < state.ends:  # floats may lose a hair, and whoever waits must be let in
            left = math.nextafter(left, math.inf)
        remaining = max(limit - state.used, 0)
        if cost <= remaining:
            return Decision(True, limit, remaining, left, 0.0)
        return Decision(False, limit, remaining, left, left if cost <= limit else math.inf)

    def charge(self, state: Window, now: float, amount: int, since: float) -> None:
        """Count `amount`; what was taken before this window began cannot be given back in it."""
        if amount > 0 or since >= state.ends - self.window - EPSILON:
            state.used = max(state.used + amount, 0)

    def adopt(self, state: Window, now: float, decision: Decision) -> None:
        """Count at least what `decision` has counted, until the window ends that it is of."""
        used, ends = decision.limit - decision.remaining, now + decision.reset_after
        if not state.used or ends - state.ends > self.window / 2:  # a newer window
            state.used, state.ends = used, ends
        else:
            state.used, state.ends = max(state.used, used), max(state.ends, ends)

    def save(self, sketch: WindowSketch, key: Hashable, state: Window, now: float) -> None:
        """Keep the window as it is."""
        sketch.save(key, state.used, state.ends, now)

    def load(self, sketch: WindowSketch, key: Hashable, now: float) -> Window | None:
        """The window that `key` had."""
        used, ends = sketch.load(key, now)
        return Window(ends, used) if ends > now else None

    def clear(self, sketch: WindowSketch, key: Hashable, now: float) -> None:
        """Forget the window."""
        sketch.clear(key)
