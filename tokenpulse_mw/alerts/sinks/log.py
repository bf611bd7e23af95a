"""Sink that logs alerts."""

from __future__ import annotations

import logging

from .event import AlertEvent
from .text import LONGEST_FINGERPRINT, single_line

logger = logging.getLogger("tokenpulse_mw.alerts")

_LEVELS = {"info": logging.INFO, "warning": logging.WARNING, "critical": logging.ERROR}


class LogSink:
    """Logs every event, with the level of its severity; resolved alerts are logged as INFO."""

    async def __call__(self, event: AlertEvent) -> None:
        """Log one line."""
        finding = event.finding
        resolved = event.transition == "resolved"
        logger.log(
            logging.INFO if resolved else _LEVELS[finding.severity or "info"],
            "%s %s [%s]: %s",
            event.transition,
            single_line(event.fingerprint, LONGEST_FINGERPRINT),
            finding.severity,
            finding.title if resolved else finding.message,
        )
