"""A limit of 0, which rejects every request for a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .decision import Decision
from .strategy import Strategy

BLOCKED_RETRY_SECONDS = 60.0  # `Retry-After` of a block whose end is not known


class Blocked:
    """Strategy that rejects every request until a time, and keeps the states of another one.

    Args:
        strategy: Strategy of the states, which decides after the block.
        until: Time on the limiter's clock at which the block ends; None if it is not known.
        on_end: Called once the block has ended.
    """

    limit = 0

    def __init__(
        self,
        strategy: Strategy,
        until: float | None = None,
        on_end: Callable[[], object] = lambda: None,
    ) -> None:
        self.strategy = strategy
        self.until = until
        self.window = strategy.window
        self.extends_expiry = strategy.extends_expiry
        self.change, self.new_state = strategy.change, strategy.new_state
        self.charge, self.adopt = strategy.charge, strategy.adopt
        self.save, self.load, self.clear = strategy.save, strategy.load, strategy.clear
        self._on_end = on_end

    def consume(self, state: Any, now: float, cost: int) -> Decision:
        """Reject a request, unless it costs nothing or the block has ended."""
        if self._has_ended(now):
            return self.strategy.consume(state, now, cost)
        return self._decision(now, cost)

    def has_room(self, state: Any, now: float, cost: int) -> bool:
        """Return True if `consume` would allow `cost`."""
        return self.check(state, now, cost).allowed

    def check(self, state: Any, now: float, cost: int) -> Decision:
        """Return what `consume` would decide, without counting."""
        if self._has_ended(now):
            return self.strategy.check(state, now, cost)
        return self._decision(now, cost)

    def at(self, now: float) -> Strategy:
        """Return the strategy that decides at a time."""
        return self if self.until is None or now < self.until else self.strategy

    def _has_ended(self, now: float) -> bool:
        if self.at(now) is self:
            return False
        self._on_end()
        return True

    def _decision(self, now: float, cost: int) -> Decision:
        return blocked_decision(cost, None if self.until is None else self.until - now)


def blocked_decision(cost: int, seconds: float | None) -> Decision:
    """Return the decision of a limit of 0 that ends after `seconds`, or at an unknown time."""
    wait = BLOCKED_RETRY_SECONDS if seconds is None else seconds
    return Decision(not cost, 0, 0, wait, wait if cost else 0.0)
