"""Sets up the logging of a whole process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable
from typing import TextIO

from .formatters import JsonFormatter, TextFormatter
from .levels import check_level, set_log_level
from .queue_handler import BackgroundHandler
from .request_id import add_request_id

_HANDLER = "tokenpulse_mw"  # by which our own handler is found again


def configure_logging(
    level: str = "INFO",
    format: str = "text",
    *,
    stream: TextIO | None = None,
    capture: Iterable[str] = (),
    request_id: bool = False,
    queue: int = 0,
) -> None:
    """Send the log of the whole process to `stream`, one line for each record.

    Calling it again changes all of that; handlers of others are left alone.

    Args:
        level: "DEBUG", "INFO", "WARN" or "ERROR", in any case.
        format: "text" for `[2026-01-21T14:00:42.661Z] [INFO] [Module] message`, or "json" for
            an object with `time`, `level`, `module`, `message`, where there is one `error`, and
            what was given as `extra={...}`.
        stream: Standard error by default.
        capture: Loggers that have handlers of their own, such as "uvicorn": these are taken from
            them, and from those below them, so that their lines come out here. One that was
            silenced, as uvicorn's `--no-access-log` does it, stays silent, and one with a level
            above INFO (`--log-level warning`) keeps that.
        request_id: End lines of text with the id of their request. JSON has it anyhow. See
            `RequestIdMiddleware`.
        queue: Lines that may wait to be written by a thread, so that a slow stream delays no
            request; what does not fit is dropped, and the log says how much. 0 writes at once.

    Raises:
        ValueError: There is no such level or format, `capture` is a string, or `queue` is
            below 0.
    """
    level = check_level(level)
    formatter = formatter_for(format, request_id=request_id)
    if isinstance(capture, str):
        raise ValueError(f"capture must be a list of names, got the string {capture!r}")
    names = tuple(capture)
    out = sys.stderr if stream is None else stream
    handler = BackgroundHandler(out, queue) if queue else logging.StreamHandler(out)
    handler.set_name(_HANDLER)
    handler.setFormatter(formatter)
    handler.addFilter(add_request_id)
    _put_in_place(handler)
    for name in names:
        _capture(name)
    set_log_level(level)


def formatter_for(format: str, *, request_id: bool = False) -> logging.Formatter:
    """What writes lines of `format`, as `configure_logging` has it.

    Raises:
        ValueError: There is no such format.
    """
    if format == "text":
        return TextFormatter(request_id=request_id)
    if format == "json":
        return JsonFormatter()
    raise ValueError(f"log format {format!r} is none: expected one of text, json")


def _put_in_place(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for other in root.handlers[:]:
        if other.get_name() == _HANDLER:
            root.removeHandler(other)
            if isinstance(other, BackgroundHandler):
                other.finish()  # whoever calls does not wait for a slow stream
            else:
                other.close()
    root.addHandler(handler)


def _capture(name: str) -> None:
    """Let `name`, and every logger below it, leave its lines to the root logger."""
    below = [each for each in logging.root.manager.loggerDict if each.startswith(f"{name}.")]
    for each in (name, *below):
        logger = logging.getLogger(each)
        if _is_silenced(logger):
            continue
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
        logger.propagate = True
        if logger.level <= logging.INFO:  # as servers have it when nobody asked for less
            logger.setLevel(logging.NOTSET)


def _is_silenced(logger: logging.Logger | None) -> bool:
    """Whether it, or one above it, was cut off so that its lines reach nobody."""
    while logger is not None and (logger.propagate or logger.handlers):
        logger = logger.parent
    return logger is not None
