"""The ways to count against a limit, and what they have in common."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

from .decision import Decision
from .fixed_window import FixedWindow
from .gcra import Gcra
from .sketch import WindowSketch
from .sliding_window import SlidingWindowCounter


class Strategy(Protocol):
    """Values in, decisions out: what one key has used is a state, which the limiter keeps.

    Every state has `ends`: from then on it is as good as none.

    Attributes:
        limit: What a window has room for.
        window: Seconds.
        extends_expiry: Each hit may put off the end of its key's state.
    """

    limit: int
    window: int
    extends_expiry: bool

    def new_state(self, now: float) -> Any:
        """The state of a key that has used nothing."""
        ...

    def consume(self, state: Any, now: float, cost: int) -> Decision:
        """Count `cost` in `state` if there is room for it."""
        ...

    def check(self, state: Any, now: float, cost: int) -> Decision:
        """What `consume` would decide, without counting."""
        ...

    def charge(self, state: Any, now: float, amount: int, since: float) -> None:
        """Count `amount` with no regard to the limit; a negative one gives back since `since`."""
        ...

    def adopt(self, state: Any, now: float, decision: Decision) -> None:
        """Raise `state` to what `decision`, made just now by another limiter, has counted."""
        ...

    def save(self, sketch: WindowSketch, key: Hashable, state: Any, now: float) -> None:
        """Write into `sketch` what has to be known of `key` when its state is let go."""
        ...

    def load(self, sketch: WindowSketch, key: Hashable, now: float) -> Any:
        """A state from what `sketch` remembers of `key`, which is never too little; or None."""
        ...

    def clear(self, sketch: WindowSketch, key: Hashable, now: float) -> None:
        """Let `sketch` remember nothing of `key`."""
        ...


STRATEGIES: dict[str, type[FixedWindow] | type[SlidingWindowCounter] | type[Gcra]] = {
    "fixed-window": FixedWindow,
    "sliding-window-counter": SlidingWindowCounter,
    "gcra": Gcra,
}


def strategy_named(name: str, *, limit: int, window: int) -> Strategy:
    """The strategy called `name`, for `limit` in each `window` of seconds.

    Raises:
        ValueError: There is no such strategy.
    """
    if not isinstance(name, str) or name not in STRATEGIES:
        raise ValueError(f"strategy {name!r} is not known: expected one of {list(STRATEGIES)}")
    return STRATEGIES[name](limit, window)
