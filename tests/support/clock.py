"""Clock that only a test advances."""

from __future__ import annotations


class FakeClock:
    """Clock whose time only `advance` changes."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Advance the time by `seconds`."""
        self.now += seconds
