"""Log level that all processes of a gateway share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ..alerts import AlertEngine, StoreError
from ..logs import change_level
from ..web.problems import ProblemError

logger = logging.getLogger("tokenpulse_mw")

_SETTING = "log_level"


class SharedLogLevel:
    """Log level of all processes that share the alert store.

    Each process applies it at its next heartbeat, and a new process when it starts.

    Args:
        engine: The alert engine, of which this is a listener.
    """

    def __init__(self, engine: AlertEngine) -> None:
        self._engine = engine
        engine.add_listener(self)

    async def keep(self, level: str, author: str) -> None:
        """Store a level.

        Raises:
            ProblemError: The store failed.
        """
        value = {"level": level, "by": author}
        try:
            await self._engine.controls.set_setting(_SETTING, value, by=author)
        except StoreError as error:
            logger.error("alert store failed, log level not changed: error=%s", error)
            detail = "Service unavailable: the alert store failed; see the log."
            raise ProblemError(503, detail) from None

    def on_settings(self, settings: Mapping[str, Any]) -> None:
        """Apply the stored level."""
        if _SETTING in settings:
            value = settings[_SETTING]
            change_level(value["level"], value["by"])
