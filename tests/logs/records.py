"""Loggers of a test's own, and records."""

from __future__ import annotations

import logging
from typing import Any


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        """The text of each."""
        return [record.getMessage() for record in self.records]


def logger_into(handler: logging.Handler, level: int = logging.DEBUG) -> logging.Logger:
    """A logger that nobody else has."""
    logger = logging.Logger("test", level)
    logger.addHandler(handler)
    return logger


def record_of(message: object, **fields: Any) -> logging.LogRecord:
    """A warning of the module `Migration`, at a time that is known."""
    return logging.makeLogRecord(
        {
            "name": "Migration",
            "levelno": logging.WARNING,
            "msg": message,
            "created": 1769004042.6619,
            "msecs": 661.9,
            **fields,
        }
    )
