"""The level of the log."""

from __future__ import annotations

import logging
import re

import pytest

from tokenpulse_mw.logs import LEVELS, check_level, log_level, set_log_level

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


@pytest.mark.parametrize("level", ["LOUD", "", " INFO", "CRITICAL", None, 20])
def test_an_unknown_level_is_refused(level: object) -> None:
    """And the level stays as it was."""
    set_log_level("WARN")

    with pytest.raises(
        ValueError,
        match=re.escape(f"log level must be one of DEBUG, INFO, WARN, ERROR, got {level!r}"),
    ):
        set_log_level(level)  # type: ignore[arg-type]  # which is what is tested
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
def test_a_level_may_be_written_as_other_programs_have_it(level: str, name: str) -> None:
    """In any case, and with Python's own name for WARN."""
    assert check_level(level) == name
    set_log_level(level)
    assert log_level() == name


def test_at_debug_libraries_that_tell_each_step_do_not() -> None:
    """A database's parameters would be in the log, dozens of lines a round; theirs at INFO stay."""
    connection = logging.getLogger("httpcore2.connection")

    set_log_level("DEBUG")
    assert logging.getLogger("anything").isEnabledFor(logging.DEBUG)
    assert not connection.isEnabledFor(logging.DEBUG)
    assert connection.isEnabledFor(logging.INFO)

    set_log_level("WARN")
    assert not connection.isEnabledFor(logging.INFO)


def test_a_library_that_was_given_a_level_keeps_it() -> None:
    """Whoever looks for a fault in the database wants its lines."""
    database = logging.getLogger("aiosqlite")
    set_log_level("DEBUG")

    database.setLevel(logging.DEBUG)
    set_log_level("DEBUG")
    assert database.isEnabledFor(logging.DEBUG)

    database.setLevel(logging.NOTSET)
