"""Helpers for tests of an application that has a `TokenPulse`; they work without pytest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from .stack import TokenPulse
from .validation import check_seconds


class FakeClock:
    """Clock that only `advance` moves, for any argument `clock`.

    Args:
        now: Monotonic seconds at the start.

    Attributes:
        now: Monotonic seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._epoch = time.time() - now

    def __call__(self) -> float:
        """Return the monotonic seconds."""
        return self.now

    def wall(self) -> float:
        """Return the seconds since the epoch, for any argument `wall`."""
        return self._epoch + self.now

    def advance(self, seconds: float) -> None:
        """Advance the time.

        Raises:
            ValueError: `seconds` is negative or not a number.
        """
        check_seconds("seconds", seconds, zero=True)
        self.now += seconds


@contextmanager
def fake_clock(pulse: TokenPulse) -> Iterator[FakeClock]:
    """Replace the clocks of the limits and the alerts of `pulse` during the body.

    Windows, refunds, cooldowns and delays between attempts follow it. Durations of requests are
    real, and so is the time in the storage of a `SharedLimiter`. `pulse` is reset at the start and
    at the end, because times of two clocks cannot be compared.
    """
    clock = FakeClock()
    limiters = [policy.limiter for policy in pulse.policies]
    rules = pulse.engine.rules.values()
    clocks: list[tuple[object, str, object]] = [
        (pulse.engine, "wall", clock.wall),
        (pulse.engine, "clock", clock),
        *((rule, "wall", clock.wall) for rule in rules if hasattr(rule, "wall")),
        *((limiter, "clock", clock) for limiter in limiters if hasattr(limiter, "clock")),
    ]
    with ExitStack() as exits:
        exits.callback(pulse.reset)  # after all clocks are restored
        for part, name, fake in clocks:
            exits.callback(setattr, part, name, getattr(part, name))
            setattr(part, name, fake)
        pulse.reset()
        yield clock
