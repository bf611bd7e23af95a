"""Sliding window counters: two windows of the clock, of which the previous one fades."""

from __future__ import annotations

import math
from collections.abc import Hashable

from .decision import EPSILON, Decision
from .sketch import WindowSketch


class Windows:
    """Usage of a key in window number `index` of the clock, and in the previous window."""

    __slots__ = ("current", "ends", "index", "previous")

    def __init__(self, index: int, current: float, previous: float, ends: float) -> None:
        self.index = index
        self.current = current
        self.previous = previous
        self.ends = ends


class SlidingWindowCounter:
    """At most `limit` in any window that ends now, approximated by two counters.

    The previous window counts by the share of it that is less than a window ago, as if its
    requests were evenly spread. This avoids bursts around the end of a window.
    """

    extends_expiry = True

    def __init__(self, limit: int, window: int) -> None:
        self.limit = limit
        self.window = window

    def change(self, limit: int, window: int) -> None:  # noqa: ARG002
        """Set the limit; the counters have windows of one length."""
        self.limit = limit

    def new_state(self, now: float) -> Windows:
        """Return empty counters for the current window."""
        return self._windows(int(now // self.window), 0, 0)

    def consume(self, state: Windows, now: float, cost: int) -> Decision:
        """Count `cost` if both windows together have room for it."""
        self._roll(state, now)
        decision = self.check(state, now, cost)
        if not decision.allowed or not cost:
            return decision
        state.current += cost
        return self.check(state, now, 0)

    def has_room(self, state: Windows, now: float, cost: int) -> bool:
        """Return True if both windows together have room for `cost`."""
        return self.check(state, now, cost).allowed

    def check(self, state: Windows, now: float, cost: int) -> Decision:
        """Return the decision on `cost` without counting."""
        current, previous, ends = self._counts_at(state, now)
        limit, window = self.limit, self.window
        used = int(previous * (ends - now) / window) + current
        free_after = ends + window - now if current else ends - now if previous else 0.0
        remaining = int(limit - used) if used < limit else 0
        wait = 0.0 if cost <= remaining else self._wait(state, now, cost)
        more_after = self._wait(state, now, remaining + 1) if remaining < limit else 0.0
        return Decision(not wait, limit, remaining, free_after, wait, more_after=more_after)

    def charge(self, state: Windows, now: float, amount: int, since: float) -> None:
        """Count `amount`; a refund goes to the window of the hit."""
        self._roll(state, now)
        window_index = state.index if amount > 0 else int(since // self.window)
        if window_index == state.index:
            state.current = max(state.current + amount, 0)
        elif window_index == state.index - 1:
            state.previous = max(state.previous + amount, 0)

    def adopt(self, state: Windows, now: float, decision: Decision) -> None:
        """Count at least the usage of `decision`, whose windows may begin at other times.

        If `decision` leaves nothing, nothing remains until its `more_after`.
        """
        self._roll(state, now)
        window, left = self.window, state.ends - self.window - now
        used, full_for = decision.limit - decision.remaining, 0.0
        if not decision.remaining:
            full_for = decision.more_after or 0.0
            fades_now = full_for < left
        elif self.check(state, now, 0).remaining <= decision.remaining:
            return
        else:
            fades_now = decision.reset_after <= left
        if fades_now:
            # Fractional counts, so that the client is limited for exactly this time.
            fading = max(left - full_for - EPSILON, EPSILON)
            state.previous, state.current = used * window / fading, 0
        else:
            fading = min(max(left + window - full_for - EPSILON, EPSILON), window)
            state.previous, state.current = 0, used * window / fading

    def save(self, sketch: WindowSketch, key: Hashable, state: Windows, now: float) -> None:
        """Store both windows in `sketch`, under their numbers."""
        sketch.save((key, state.index), math.ceil(state.current), state.ends, now)
        sketch.save(
            (key, state.index - 1), math.ceil(state.previous), state.ends - self.window, now
        )

    def load(self, sketch: WindowSketch, key: Hashable, now: float) -> Windows | None:
        """Return the stored windows of `key`, or None."""
        index = int(now // self.window)
        current, _ = sketch.load((key, index), now)
        previous, _ = sketch.load((key, index - 1), now)
        return self._windows(index, current, previous) if current or previous else None

    def clear(self, sketch: WindowSketch, key: Hashable, now: float) -> None:
        """Remove both stored windows of `key`."""
        index = int(now // self.window)
        sketch.clear((key, index))
        sketch.clear((key, index - 1))

    def _windows(self, index: int, current: float, previous: float) -> Windows:
        return Windows(index, current, previous, float((index + 2) * self.window))

    def _counts_at(self, state: Windows, now: float) -> tuple[float, float, float]:
        """Return the counts of the current and the previous window, and the current one's end."""
        index = int(now // self.window)
        ends = float((index + 1) * self.window)
        if index == state.index:
            return state.current, state.previous, ends
        return 0, state.current if index == state.index + 1 else 0, ends

    def _roll(self, state: Windows, now: float) -> None:
        """Advance the counters to the window of `now`."""
        index = int(now // self.window)
        if index != state.index:
            state.current, state.previous, ends = self._counts_at(state, now)
            state.index, state.ends = index, ends + self.window

    def _wait(self, state: Windows, now: float, cost: int) -> float:
        """Return the seconds until enough has faded to have room for `cost`."""
        current, previous, ends = self._counts_at(state, now)
        room = self.limit - cost + 1  # usage must be less, since it is rounded down
        if room < 1:
            return math.inf
        if current < room:  # the previous window has to fade
            faded = ends - (room - current) * self.window / previous
        else:  # the current window has to become the previous one, and fade
            faded = ends + self.window - room * self.window / current
        return faded - now + EPSILON
