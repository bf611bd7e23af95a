"""Log levels, and the level of the process."""

from __future__ import annotations

import logging
from collections.abc import Mapping

LEVELS: Mapping[str, int] = {
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "WARN": logging.WARNING,
    "ERROR": logging.ERROR,
}

LIBRARY = "tokenpulse_mw"  # logger of this library
LAST_RESORT_LEVEL = logging.INFO - 1  # not a standard level, so that it is recognized later

# At DEBUG they log each step of a database or connection, with its parameters.
NOISY_LOGGERS = ("aiosqlite", "httpcore", "httpcore2", "httpx", "httpx2")
_QUIET_LEVEL = logging.DEBUG + 1  # not a standard level either


def check_level(level: object) -> str:
    """Return the name of a level in upper case; WARNING is WARN.

    Raises:
        ValueError: The level is unknown.
    """
    name = level.upper() if isinstance(level, str) else ""
    if name == "WARNING":
        return "WARN"
    if name not in LEVELS:
        raise ValueError(f"log level must be one of {', '.join(LEVELS)}, got {level!r}")
    return name


def level_number(level: object) -> int:
    """Return the number of a level in `logging`.

    Raises:
        ValueError: The level is unknown.
    """
    return LEVELS[check_level(level)]


def log_level() -> str:
    """Return the level of the root logger: the lowest level that is written.

    While the application configures no logging, it is that of the handler of last resort: INFO.
    """
    library = logging.getLogger(LIBRARY)
    logger = library if library.level == LAST_RESORT_LEVEL else logging.getLogger()
    number = logger.getEffectiveLevel()
    return next((name for name, minimum in LEVELS.items() if minimum >= number), "ERROR")


def set_log_level(level: str) -> None:
    """Set the level of the root logger.

    It applies to every logger of this process that has no level of its own. A few libraries that
    log each step write no DEBUG lines.

    Args:
        level: "DEBUG", "INFO", "WARN" or "ERROR", case-insensitive; "WARNING" is "WARN".

    Raises:
        ValueError: The level is unknown.
    """
    number = level_number(level)
    logging.getLogger().setLevel(number)
    library = logging.getLogger(LIBRARY)
    if library.level == LAST_RESORT_LEVEL:
        library.setLevel(logging.NOTSET)
    for name in NOISY_LOGGERS:
        logger = logging.getLogger(name)
        if logger.level in (logging.NOTSET, _QUIET_LEVEL):
            logger.setLevel(_QUIET_LEVEL if number < _QUIET_LEVEL else logging.NOTSET)
