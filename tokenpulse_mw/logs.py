"""The log format of the seed's guide, for people and for machines."""

from __future__ import annotations

import logging
import sys
import time
from typing import TextIO

import msgspec

LEVELS = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}
_NAMES = {number: name for name, number in LEVELS.items()} | {logging.CRITICAL: "ERROR"}
# A control character in a message could end the line and forge the next one.
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}
_ESCAPES |= {9: "\\t", 10: "\\n", 13: "\\r"}


def configure_logging(
    level: str = "INFO", format: str = "text", *, stream: TextIO | None = None
) -> None:
    """Send the log of the whole process to `stream`, one line for each record.

    Calling it again changes level and format; handlers of others are left alone.

    Args:
        level: "DEBUG", "INFO", "WARN" or "ERROR".
        format: "text" for `[2026-01-21T14:00:42.661Z] [INFO] [Module] message`, or "json" for
            an object with `time`, `level`, `module`, `message` and, where there is one, `error`.
        stream: Standard error by default.

    Raises:
        ValueError: There is no such level or format.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none: expected one of {', '.join(LEVELS)}")
    formatters = {"text": TextFormatter, "json": JsonFormatter}
    if format not in formatters:
        raise ValueError(f"log format {format!r} is none: expected one of {', '.join(formatters)}")
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if isinstance(handler.formatter, TextFormatter | JsonFormatter):
            root.removeHandler(handler)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatters[format]())
    root.addHandler(handler)
    root.setLevel(LEVELS[level])


class TextFormatter(logging.Formatter):
    """`[time] [level] [module] message`; a traceback follows on the same line, escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry = _entry(self, record)
        text = " ".join(entry[name] for name in ("message", "error") if name in entry)
        line = f"[{entry['time']}] [{entry['level']}] [{entry['module']}] {text}"
        return line.translate(_ESCAPES)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, as Loki and the ELK stack read it."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        return msgspec.json.encode(_entry(self, record)).decode()


def _entry(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, str]:
    seconds = time.gmtime(record.created)
    entry = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', seconds)}.{int(record.msecs):03d}Z",
        "level": _NAMES.get(record.levelno, record.levelname),
        "module": record.name,
        "message": record.getMessage(),
    }
    if record.exc_info:
        entry["error"] = formatter.formatException(record.exc_info)
    elif record.stack_info:
        entry["error"] = formatter.formatStack(record.stack_info)
    # A lone surrogate, as in a path that is no UTF-8, could not be written at all.
    return {name: text.encode("utf-8", "backslashreplace").decode() for name, text in entry.items()}
