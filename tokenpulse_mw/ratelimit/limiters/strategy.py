"""Rate limiting strategies and their interface."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from ...validation import check_choice
from .calendar import CalendarClock, CalendarWindow
from .decision import Decision
from .fixed_window import FixedWindow
from .gcra import Gcra
from .sketch import WindowSketch
from .sliding_window import SlidingWindowCounter


class Strategy(Protocol):
    """Pure functions on the state of a key, which the limiter stores.

    A state has an attribute `ends`, the time when it expires.

    Attributes:
        limit: Requests or tokens per window.
        window: Seconds.
        extends_expiry: True if a hit may postpone the expiry of its state.
    """

    limit: int
    window: int
    extends_expiry: bool

    def change(self, limit: int, window: int) -> None:
        """Set the limit and the window, and keep the states.

        A strategy in `FIXED_WINDOWS` gets its own window.
        """
        ...

    def new_state(self, now: float) -> Any:
        """Return the state of an unused key."""
        ...

    def consume(self, state: Any, now: float, cost: int) -> Decision:
        """Count `cost` in `state` if it is within the limit."""
        ...

    def has_room(self, state: Any, now: float, cost: int) -> bool:
        """Return True if `consume` would allow `cost`."""
        ...

    def check(self, state: Any, now: float, cost: int) -> Decision:
        """Return what `consume` would decide, without counting."""
        ...

    def charge(self, state: Any, now: float, amount: int, since: float) -> None:
        """Count `amount` regardless of the limit; a negative one refunds a hit at `since`."""
        ...

    def adopt(self, state: Any, now: float, decision: Decision) -> None:
        """Raise `state` to the usage in a decision that another limiter made just now."""
        ...

    def save(self, sketch: WindowSketch, key: Hashable, state: Any, now: float) -> None:
        """Store an evicted `state` of `key` in `sketch`."""
        ...

    def load(self, sketch: WindowSketch, key: Hashable, now: float) -> Any:
        """Return a state with at least the usage of `key` that was saved in `sketch`, or None."""
        ...

    def clear(self, sketch: WindowSketch, key: Hashable, now: float) -> None:
        """Remove `key` from `sketch`."""
        ...


FIXED_WINDOWS = ("sliding-window-counter",)  # strategies whose window cannot change

STRATEGIES: dict[str, type[FixedWindow] | type[SlidingWindowCounter] | type[Gcra]] = {
    "fixed-window": FixedWindow,
    "sliding-window-counter": SlidingWindowCounter,
    "gcra": Gcra,
}


def create_strategy(
    name: str,
    *,
    limit: int,
    window: int,
    clock: CalendarClock | None = None,
) -> Strategy:
    """Return the strategy `name` for `limit` per `window` seconds, or per window of a calendar.

    Raises:
        ValueError: The strategy is unknown, or is not "fixed-window" and has a calendar.
    """
    create = STRATEGIES[check_choice("strategy", name, tuple(STRATEGIES))]
    if clock is None:
        return create(limit, window)
    if create is not FixedWindow:
        raise ValueError(
            f"strategy must be 'fixed-window' for a calendar {clock.calendar.period}, got {name!r}"
        )
    return CalendarWindow(limit, clock)
