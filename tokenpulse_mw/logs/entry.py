"""What a line says of a record: a dict of its fields, which cannot fail."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from .levels import LEVELS

FIELDS = ("time", "level", "module", "message", "error")

_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "ERROR"}
# What every record has, or is given by other formatters; `color_message` is uvicorn's.
_NO_EXTRAS = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "color_message"}


def entry_of(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    """`time`, `level`, `module`, `message` and, where there is one, `error`."""
    entry = {
        "time": _time(record),
        "level": _NAMES.get(record.levelno, record.levelname),
        "module": record.name,
        "message": _message(record),
    }
    if record.exc_info or record.stack_info:
        entry["error"] = _error(formatter, record)
    return {name: text_of(text) for name, text in entry.items()}


def extras_of(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """What was given as `extra={...}`."""
    for name, value in vars(record).items():
        if name not in _NO_EXTRAS:
            yield text_of(name), value


def text_of(value: object) -> str:
    """`value` as text that can be written.

    A lone surrogate, as in a path that is no UTF-8, could not be written at all.
    """
    try:
        text = str(value)
    except Exception as error:  # noqa: BLE001 - a line that says so is better than none
        text = f"<{type(value).__name__}, of which str() raised {type(error).__name__}>"
    return text.encode("utf-8", "backslashreplace").decode()


def _time(record: logging.LogRecord) -> str:
    """When it was logged; now, where that is no time, for a line without one may be refused."""
    try:
        time = datetime.fromtimestamp(record.created, UTC)
    except Exception:  # noqa: BLE001 - as above
        time = datetime.now(UTC)
    return f"{time.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - arguments that do not fit, say
        return f"{text_of(record.msg)} <its arguments raised {type(error).__name__}>"


def _error(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    try:
        if record.exc_info:
            return formatter.formatException(record.exc_info)
        return formatter.formatStack(record.stack_info or "")
    except Exception as error:  # noqa: BLE001 - as above
        return f"<the traceback raised {type(error).__name__}>"
