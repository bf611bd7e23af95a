"""What is said of an exchange before it has begun, by whoever stands outside of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .tap import Tap

EARLY_KEY = "tokenpulse_mw.said_early"


class Early:
    """Keeps facts in the place of a tap, until there is one.

    A middleware that authenticates may be the outermost of all; what it has found out is known
    to limits and to the exchange all the same.
    """

    __slots__ = ("_failure", "said")

    def __init__(self) -> None:
        self.said: Mapping[str, Any] = {}
        self._failure: Exception | None = None

    def say(self, **facts: Any) -> None:
        """Note what is known; later words override earlier ones."""
        self.said = {**self.said, **facts}

    def misspeak(self, failure: Exception) -> None:
        """Note that something could not be told."""
        self._failure = failure

    def hand_over(self, tap: Tap) -> None:
        """Tell `tap` all of it."""
        tap.said = self.said
        if self._failure is not None:
            tap.misspeak(self._failure)
