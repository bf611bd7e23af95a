"""Where alerts are told."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from .lifecycle import Finding, Transition

logger = logging.getLogger("tokenpulse_mw.alerts")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """One transition of one alert.

    Attributes:
        transition: "fired", "escalated", "deescalated", "reminded" or "resolved".
        finding: What is, or was, wrong; its severity is the alert's.
        at: When, in seconds since the epoch.
    """

    transition: Transition
    finding: Finding
    at: float

    @property
    def fingerprint(self) -> str:
        """Which alert it is."""
        return self.finding.fingerprint


class Sink(Protocol):
    """Anything that can be awaited with an event. What it raises is logged, and stops there."""

    async def __call__(self, event: AlertEvent) -> None:
        """Tell somebody."""
        ...


class LogSink:
    """Writes every event to the log: resolved ones as INFO, others by their severity."""

    async def __call__(self, event: AlertEvent) -> None:
        """Write one line."""
        finding = event.finding
        resolved = event.transition == "resolved"
        logger.log(
            logging.INFO if resolved else _LEVELS[finding.severity or "info"],
            "%s %s [%s]: %s",
            event.transition,
            event.fingerprint,
            finding.severity,
            finding.title if resolved else finding.message,
        )
