"""Log levels."""

from __future__ import annotations

import logging
import re

import pytest

from tokenpulse_mw.logs import LEVELS, check_level, log_level, set_log_level

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.mark.parametrize("level", LEVELS)
def test_set_level_applies_to_all_loggers(level: str) -> None:
    """The level is that of the root logger."""
    set_log_level(level)

    assert log_level() == level
    assert logging.getLogger("anything").getEffectiveLevel() == LEVELS[level]


@pytest.mark.parametrize(
    ("number", "level"),
    [(logging.NOTSET, "DEBUG"), (25, "WARN"), (logging.CRITICAL, "ERROR")],
)
def test_other_level_is_reported_as_the_next_higher_one(number: int, level: str) -> None:
    """The reported level is the lowest of the four that is written, at most ERROR."""
    logging.getLogger().setLevel(number)

    assert log_level() == level


@pytest.mark.parametrize("level", ["LOUD", "", " INFO", "CRITICAL", None, 20])
def test_unknown_level_is_rejected(level: object) -> None:
    """The level is unchanged."""
    set_log_level("WARN")

    with pytest.raises(
        ValueError,
        match=re.escape(f"log level must be one of DEBUG, INFO, WARN, ERROR, got {level!r}"),
    ):
        set_log_level(level)  # type: ignore[arg-type]  # invalid on purpose
    assert log_level() == "WARN"


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("debug", "DEBUG"),
        ("Info", "INFO"),
        ("warn", "WARN"),
        ("WARNING", "WARN"),
        ("Warning", "WARN"),
        ("error", "ERROR"),
    ],
)
def test_level_is_case_insensitive(level: str, name: str) -> None:
    """WARNING is an alias of WARN."""
    assert check_level(level) == name
    set_log_level(level)
    assert log_level() == name


def test_noisy_libraries_write_no_debug_lines() -> None:
    """Debug lines of these libraries contain parameters; their INFO lines are written."""
    connection = logging.getLogger("httpcore2.connection")

    set_log_level("DEBUG")
    assert logging.getLogger("anything").isEnabledFor(logging.DEBUG)
    assert not connection.isEnabledFor(logging.DEBUG)
    assert connection.isEnabledFor(logging.INFO)

    set_log_level("WARN")
    assert not connection.isEnabledFor(logging.INFO)


def test_noisy_library_keeps_a_level_that_was_set() -> None:
    """A level of DEBUG was set on purpose, such as to debug the database."""
    database = logging.getLogger("aiosqlite")
    set_log_level("DEBUG")

    database.setLevel(logging.DEBUG)
    set_log_level("DEBUG")
    assert database.isEnabledFor(logging.DEBUG)

    database.setLevel(logging.NOTSET)
