"""Outage and Outages: which failures are logged."""

from __future__ import annotations

import logging

import pytest

from tokenpulse_mw.outages import MAX_CAUSES, REMINDER_SECONDS, RECURRENCE_SECONDS, Outage, Outages

from .support.clock import FakeClock

logger = logging.getLogger("tokenpulse_mw.test")


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    """Capture recoveries, too."""
    caplog.set_level(logging.INFO, logger=logger.name)


def test_an_outage_is_logged_when_it_begins_and_when_it_ends(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The recovery has the duration and the number of failures."""
    outage = Outage(logger, clock=clock)

    assert outage.failed("no answer from %s", "db")
    clock.advance(30)
    assert not outage.failed("no answer from %s", "db")
    clock.advance(12)
    outage.recovered("%s answers", "db")

    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("WARNING", "no answer from db"),
        ("INFO", "db answers (seconds=42 failures=2)"),
    ]
    assert outage.failures == 0


def test_an_outage_that_lasts_is_logged_again(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The reminder has the number of failures since the last line."""
    outage = Outage(logger, clock=clock)

    for _ in range(3):
        outage.failed("no answer")
        clock.advance(REMINDER_SECONDS / 2)

    assert caplog.messages == ["no answer", "no answer (failures=2)"]


def test_an_outage_that_returns_is_logged_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Those without a line end without one, and the next line counts their failures."""
    outage = Outage(logger, clock=clock)

    for seconds in (1.0, 1.0, RECURRENCE_SECONDS, 1.0):
        outage.failed("no answer")
        outage.recovered("it answers")
        clock.advance(seconds)

    assert caplog.messages == [
        "no answer",
        "it answers (seconds=0 failures=1)",
        "no answer (failures=3)",
        "it answers (seconds=0 failures=1)",
    ]


def test_an_outage_that_returns_and_lasts_is_logged_after_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A return within a minute of the last line is delayed, and not lost."""
    outage = Outage(logger, clock=clock)
    outage.failed("no answer")
    outage.recovered("it answers")

    outage.failed("no answer")
    clock.advance(RECURRENCE_SECONDS)
    outage.failed("no answer")

    assert caplog.messages[2:] == ["no answer (failures=2)"]


def test_a_recovery_without_an_outage_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Success is no event."""
    Outage(logger).recovered("it answers")
    Outages(logger).recovered("db", "it answers")

    assert not caplog.messages


def test_outages_have_the_level_and_traceback_that_are_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Both are the caller's."""
    Outages(logger, level=logging.ERROR).failed("db", "no answer", error=OSError("refused"))

    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "OSError: refused" in caplog.text


def test_causes_have_outages_of_their_own(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The end of one is not the end of another."""
    outages = Outages(logger, clock=clock)
    outages.failed("db", "no db")
    outages.failed("disk", "no disk")

    outages.recovered("db", "db is back")

    assert outages.lasting() == ["disk"]
    assert caplog.messages == ["no db", "no disk", "db is back (seconds=0 failures=1)"]


def test_causes_are_bounded(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Those beyond share one outage, which is logged as any other."""
    outages = Outages(logger, clock=clock)

    for number in range(MAX_CAUSES + 50):
        outages.failed(number, "no %d", number)

    assert len(caplog.messages) == len(outages.lasting()) == MAX_CAUSES + 1
