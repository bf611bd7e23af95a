"""The generic cell rate algorithm: requests fill a bucket that drains evenly."""

from __future__ import annotations

import math
from collections.abc import Hashable

from .decision import EPSILON, Decision
from .sketch import WindowSketch

_MAX_DEBT_WINDOWS = 10  # any debt drains within these: a wrong number must not limit for years


class Bucket:
    """Level of a key's bucket at a time, and the time when it is empty.

    It drains evenly until then, at the rate of the limit when the key last used something. A change
    of the limit and a refund keep this rate.
    """

    __slots__ = ("at", "ends", "level")

    def __init__(self, at: float, level: float, ends: float) -> None:
        self.at = at
        self.level = level
        self.ends = ends


class Gcra:
    """At most `limit` at once, then evenly spread at `limit` per window.

    This is a token bucket: the continuous-state leaky bucket of ITU-T I.371.
    """

    extends_expiry = True

    def __init__(self, limit: int, window: int) -> None:
        self.limit = limit
        self.window = window
        self._rate = limit / window

    def change(self, limit: int, window: int) -> None:
        """Set the rate; a bucket drains at its rate before, until its key uses something."""
        self.limit, self.window, self._rate = limit, window, limit / window

    def new_state(self, now: float) -> Bucket:
        """Return an empty bucket."""
        return Bucket(now, 0.0, now)

    def consume(self, state: Bucket, now: float, cost: int) -> Decision:
        """Add `cost` to the bucket if there is room for it."""
        decision = self.check(state, now, cost)
        if not decision.allowed or not cost:
            return decision
        self._fill(state, now, self._level(state, now) + cost, self._rate)
        return self.check(state, now, 0)

    def has_room(self, state: Bucket, now: float, cost: int) -> bool:
        """Return True if the bucket has room for `cost`."""
        return self.check(state, now, cost).allowed

    def check(self, state: Bucket, now: float, cost: int) -> Decision:
        """Return the decision on `cost` without counting."""
        rate, limit = self._rate_of(state), self.limit
        level = max(state.level - (now - state.at) * rate, 0.0)
        room = max(int(limit - level + EPSILON), 0)
        wait = self._wait(level, cost, rate) if cost else 0.0
        more_after = self._wait(level, room + 1, rate) if room < limit else 0.0
        return Decision(wait == 0.0, limit, room, level / rate, wait, more_after=more_after)

    def charge(self, state: Bucket, now: float, amount: int, since: float) -> None:
        """Count `amount`, up to ten windows of debt; a refund excludes the drained amount."""
        level, rate = self._level(state, now), self._rate_of(state)
        if amount < 0:
            refund = min(amount + (now - since) * rate, 0.0)
            self._fill(state, now, max(level + refund, 0.0), rate)
        elif amount:
            level = min(level + amount, _MAX_DEBT_WINDOWS * self.limit)
            self._fill(state, now, level, self._rate)

    def adopt(self, state: Bucket, now: float, decision: Decision) -> None:
        """Fill the bucket at least to the level of `decision`."""
        used = decision.limit - decision.remaining
        if used > self._level(state, now):
            self._fill(state, now, used, self._rate)

    def save(self, sketch: WindowSketch, key: Hashable, state: Bucket, now: float) -> None:
        """Store the time when the bucket is empty, from which its level follows."""
        sketch.save(key, 1, state.ends, now)

    def load(self, sketch: WindowSketch, key: Hashable, now: float) -> Bucket | None:
        """Return the stored bucket of `key`, or None."""
        _, ends = sketch.load(key, now)
        return Bucket(now, (ends - now) * self._rate, ends) if ends > now else None

    def clear(self, sketch: WindowSketch, key: Hashable, now: float) -> None:
        """Remove the stored bucket of `key`."""
        sketch.clear(key)

    def _level(self, state: Bucket, now: float) -> float:
        return max(state.level - (now - state.at) * self._rate_of(state), 0.0)

    def _rate_of(self, state: Bucket) -> float:
        """Return the rate at which a bucket drains, which another limit may have set."""
        seconds = state.ends - state.at
        return (state.level / seconds if seconds > 0 else 0.0) or self._rate

    def _fill(self, state: Bucket, now: float, level: float, rate: float) -> None:
        state.at, state.level, state.ends = now, level, now + level / rate

    def _wait(self, level: float, cost: int, rate: float) -> float:
        """Return the seconds until a bucket that drains at `rate` has room for `cost`."""
        if cost > self.limit:
            return math.inf
        excess = level + cost - self.limit
        return excess / rate + EPSILON if excess > EPSILON else 0.0
