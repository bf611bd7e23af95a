"""Sink that logs alerts."""

from __future__ import annotations

import logging

from ...web.text import single_line
from ..lifecycle import Finding
from .event import AlertEvent
from .text import LONGEST_FINGERPRINT, name_of

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
            _resolved_text(finding) if resolved else finding.message,
        )


def _resolved_text(finding: Finding) -> str:
    """Return the title, and the name of the subject if the title does not have it."""
    name = name_of(finding.subject)
    return finding.title if name in finding.title else f"{finding.title} ({name})"
