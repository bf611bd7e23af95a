"""The seed's four log levels, and which of them the process has."""

from __future__ import annotations

import logging
from collections.abc import Mapping

LEVELS: Mapping[str, int] = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}

# At DEBUG they tell each step with a database or a connection, parameters and all.
_NOISY_LOGGERS = ("aiosqlite", "httpcore", "httpcore2", "httpx", "httpx2")
_QUIET_LEVEL = logging.DEBUG + 1  # nobody else sets this one, so that ours is told from theirs


def check_level(level: object) -> str:
    """The name of ours for `level`, which may be in any case; WARNING is WARN.

    Raises:
        ValueError: There is no such level.
    """
    name = level.upper() if isinstance(level, str) else ""
    if name == "WARNING":
        return "WARN"
    if name not in LEVELS:
        raise ValueError(f"log level {level!r} is none: expected one of {', '.join(LEVELS)}")
    return name


def level_number(level: object) -> int:
    """The number that `logging` has for `level`.

    Raises:
        ValueError: There is no such level.
    """
    return LEVELS[check_level(level)]


def log_level() -> str:
    """The level of the root logger: the lowest of ours that is written."""
    number = logging.getLogger().getEffectiveLevel()
    return next((name for name, least in LEVELS.items() if least >= number), "ERROR")


def set_log_level(level: str) -> None:
    """Set the level of the root logger, from the next line on.

    It holds for this process, and for every logger that was not given a level of its own; those of
    a few libraries that tell each step of theirs have no lines at DEBUG.

    Args:
        level: "DEBUG", "INFO", "WARN" or "ERROR", in any case; "WARNING" is "WARN".

    Raises:
        ValueError: There is no such level.
    """
    number = level_number(level)
    logging.getLogger().setLevel(number)
    for name in _NOISY_LOGGERS:
        logger = logging.getLogger(name)
        if logger.level in (logging.NOTSET, _QUIET_LEVEL):
            logger.setLevel(_QUIET_LEVEL if number < _QUIET_LEVEL else logging.NOTSET)
