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


def level_number(level: str) -> int:
    """The number that `logging` has for `level`.

    Raises:
        ValueError: There is no such level.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r} is none: expected one of {', '.join(LEVELS)}")
    return LEVELS[level]


def log_level() -> str:
    """The level of the root logger: the lowest of ours that is written."""
    number = logging.getLogger().getEffectiveLevel()
    return next((name for name, least in LEVELS.items() if least >= number), "ERROR")


def set_log_level(level: str) -> None:
    """Set the level of the root logger, from the next line on.

    It holds for this process, and for every logger that was not given a level of its own.

    Raises:
        ValueError: There is no such level.
    """
    logging.getLogger().setLevel(level_number(level))
