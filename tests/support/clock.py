"""A clock that stands still until a test moves it."""

from __future__ import annotations


class FakeClock:
    """Seconds that only `advance` moves."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        self.now += seconds
