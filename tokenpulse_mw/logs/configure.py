"""Logging configuration of the process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

from ..validation import check_choice, check_integer, check_strings
from .formatters import JsonFormatter, TextFormatter
from .levels import check_level, set_log_level
from .queue_handler import BackgroundHandler
from .request_id import add_request_id

_HANDLER = "tokenpulse_mw"  # name by which a later call finds the handler to replace


def configure_logging(
    level: str = "INFO",
    format: str = "text",
    *,
    stream: TextIO | None = None,
    capture: Iterable[str] = (),
    request_id: bool = False,
    queue: int = 0,
) -> None:
    """Write the log of the process to `stream`, one line for each record.

    A later call replaces this configuration; other handlers are kept.

    Args:
        level: "DEBUG", "INFO", "WARN" or "ERROR", case-insensitive.
        format: "text" for `[2026-01-21T14:00:42.661Z] [INFO] [Module] message`, or "json" for
            an object with `time`, `level`, `module`, `message`, `error` if there is one, and the
            fields of `extra={...}`.
        stream: Standard error by default.
        capture: Loggers whose own handlers are removed, such as "uvicorn", and those of their
            child loggers, so that their lines are written here. A silenced logger, as by uvicorn's
            `--no-access-log`, stays silent, and a level above INFO (`--log-level warning`) is kept.
        request_id: Add the request id to text lines; JSON lines always have it. See
            `RequestIdMiddleware`.
        queue: Lines that may wait for a writer thread, so that a slow stream delays no request.
            Further lines are dropped, and their number is logged. 0 writes in the calling thread.

    Raises:
        ValueError: The level or format is unknown, `capture` is not a list of strings, or `queue`
            is not an integer of at least 0.
    """
    level = check_level(level)
    formatter = formatter_for(format, request_id=request_id)
    names = check_strings("capture", capture, "['uvicorn']")
    check_integer("queue", queue, minimum=0)
    out = sys.stderr if stream is None else stream
    handler = BackgroundHandler(out, queue) if queue else logging.StreamHandler(out)
    handler.set_name(_HANDLER)
    handler.setFormatter(formatter)
    handler.addFilter(add_request_id)
    _install(handler)
    for name in names:
        _capture(name)
    if names:
        handler.addFilter(_LateCapture(names))
    set_log_level(level)


def formatter_for(format: str, *, request_id: bool = False) -> logging.Formatter:
    """Return the formatter of a format of `configure_logging`.

    Raises:
        ValueError: The format is unknown.
    """
    check_choice("log format", format, ("text", "json"))
    return JsonFormatter() if format == "json" else TextFormatter(request_id=request_id)


def _install(handler: logging.Handler) -> None:
    """Add the handler to the root logger; it replaces that of an earlier call."""
    root = logging.getLogger()
    for previous in root.handlers[:]:
        if previous.get_name() == _HANDLER:
            root.removeHandler(previous)
            if isinstance(previous, BackgroundHandler):
                previous.finish()  # does not wait for a slow stream
            else:
                previous.close()
    root.addHandler(handler)


def _capture(name: str) -> None:
    """Let the logger `name` and its child loggers propagate to the root logger."""
    existing = logging.root.manager.loggerDict
    children = [logger_name for logger_name in existing if logger_name.startswith(f"{name}.")]
    for logger_name in (name, *children):
        logger = logging.getLogger(logger_name)
        if _is_silenced(logger):
            continue
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
        logger.propagate = True
        if logger.level <= logging.INFO:  # a level above INFO was set on purpose
            logger.setLevel(logging.NOTSET)


class _LateCapture(logging.Filter):
    """Filter that captures loggers whose handlers are added later, as hypercorn does.

    Their own handler has written the record that reaches this filter.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self._names = {f"{name}.": name for name in names}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False if the logger of the record has handlers, and capture it."""
        for prefix, name in self._names.items():
            if f"{record.name}.".startswith(prefix) and logging.getLogger(record.name).handlers:
                _capture(name)
                return False
        return True


def _is_silenced(logger: logging.Logger | None) -> bool:
    """Return True if the logger or a parent neither propagates nor has handlers."""
    while logger is not None and (logger.propagate or logger.handlers):
        logger = logger.parent
    return logger is not None
