"""The logging of a gateway, as the settings say."""

from __future__ import annotations

import logging

from ..config import Settings
from ..logs import ACCESS_LOGGER, checked_level, configure_logging, formatter_for
from .heed import set_by


def check_logs(settings: Settings) -> None:
    """Refuse a level or a format that there is not, before the server starts.

    Raises:
        ValueError: There is none such.
    """
    if settings.log_level is not None:
        with set_by("log_level"):
            checked_level(settings.log_level)
    if settings.log_format is not None:
        with set_by("log_format"):
            formatter_for(settings.log_format)


def configure_logs(settings: Settings) -> None:
    """Log as the settings say, and tell whoever wants an access log that nobody would see it."""
    if settings.log_level is not None or settings.log_format is not None:
        configure_logging(
            settings.log_level or "INFO",
            settings.log_format or "text",
            capture=["uvicorn"],  # a log is of one format, the server's lines with it
            request_id=settings.access_log,
        )
    access = logging.getLogger(ACCESS_LOGGER)
    if settings.access_log and not access.isEnabledFor(logging.INFO):
        access.warning(
            "the access log is not written, as the level of logging is above INFO: call "
            "configure_logging(), or set TOKENPULSE_LOG_LEVEL=INFO"
        )
