"""The level of the log."""

from __future__ import annotations

import logging

import pytest

from tokenpulse_mw.logs import LEVELS, log_level, set_log_level

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.mark.parametrize("level", LEVELS)
def test_the_level_is_that_of_the_whole_process(level: str) -> None:
    """It is the root logger's, and holds from then on."""
    set_log_level(level)

    assert log_level() == level
    assert logging.getLogger("anything").getEffectiveLevel() == LEVELS[level]


@pytest.mark.parametrize(
    ("number", "level"),
    [(logging.NOTSET, "DEBUG"), (25, "WARN"), (logging.CRITICAL, "ERROR")],
)
def test_a_level_of_others_is_told_by_what_is_written(number: int, level: str) -> None:
    """It is the lowest of ours that is, or else the highest that there is."""
    logging.getLogger().setLevel(number)

    assert log_level() == level


def test_an_unknown_level_is_refused() -> None:
    """And the level stays as it was."""
    set_log_level("WARN")

    with pytest.raises(ValueError, match="'info' is none: expected one of DEBUG, INFO, WARN, ERR"):
        set_log_level("info")
    assert log_level() == "WARN"
