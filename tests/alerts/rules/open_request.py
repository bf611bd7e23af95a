"""A request in progress, without a middleware."""

from __future__ import annotations

from typing import Any

from tokenpulse_mw import Exchange


class Open:
    """A request in progress that has sent no message."""

    messages = 0
    may_be_idle = False

    def __init__(self, started: float, phase: Any = "waiting", **facts: Any) -> None:
        self.started, self.phase = started, phase
        self._facts = {"route": "/v1/chat", "provider": "claude", **facts}

    def snapshot(self) -> Exchange:
        """Return the exchange as far as it is known."""
        return Exchange("POST", self.started, duration=1000.0 - self.started, **self._facts)
