"""Loggers and log records for tests."""

from __future__ import annotations

import logging
from typing import Any


class RecordList(logging.Handler):
    """Handler that stores the records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def messages(self) -> list[str]:
        """Return the message of each record."""
        return [record.getMessage() for record in self.records]


def logger_into(handler: logging.Handler, level: int = logging.DEBUG) -> logging.Logger:
    """Return a new logger, outside of the logger tree, with `handler`."""
    logger = logging.Logger("test", level)
    logger.addHandler(handler)
    return logger


def record_of(message: object, **fields: Any) -> logging.LogRecord:
    """Return a warning of the logger `Migration` with a fixed time."""
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
