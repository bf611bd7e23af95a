"""Log lines of Outage and Outages."""

from __future__ import annotations

import logging

import pytest

from tokenpulse_mw.outages import MAX_CAUSES, RECURRENCE_SECONDS, REMINDER_SECONDS, Outage, Outages

from .support.clock import FakeClock

logger = logging.getLogger("tokenpulse_mw.test")


@pytest.fixture(autouse=True)
def _every_level(caplog: pytest.LogCaptureFixture) -> None:
    """Capture recoveries, which are logged as INFO."""
    caplog.set_level(logging.INFO, logger=logger.name)


def test_outage_is_logged_at_its_start_and_end(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The line of the recovery has the duration and the number of failures."""
    outage = Outage(logger, clock=clock)

    assert outage.failed("no response from %s", "db")
    clock.advance(30)
    assert not outage.failed("no response from %s", "db")
    clock.advance(12)
    outage.recovered("%s responds", "db")

    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "no response from db"),
        ("INFO", "db responds (seconds=42 failures=2)"),
    ]
    assert outage.failures == 0


def test_lasting_outage_is_logged_again(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """The reminder has the number of failures since the last line."""
    outage = Outage(logger, clock=clock)

    for _ in range(3):
        outage.failed("no response")
        clock.advance(REMINDER_SECONDS / 2)

    assert caplog.messages == ["no response", "no response (failures=2)"]


def test_recurring_outage_is_logged_once_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Recoveries of unlogged outages are not logged, and the next line has their failures."""
    outage = Outage(logger, clock=clock)

    for seconds in (1.0, 1.0, RECURRENCE_SECONDS, 1.0):
        outage.failed("no response")
        outage.recovered("recovered")
        clock.advance(seconds)

    assert caplog.messages == [
        "no response",
        "recovered (seconds=0 failures=1)",
        "no response (failures=3)",
        "recovered (seconds=0 failures=1)",
    ]


def test_recurring_outage_that_lasts_is_logged_after_a_minute(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A recurrence within a minute of the last line is logged later."""
    outage = Outage(logger, clock=clock)
    outage.failed("no response")
    outage.recovered("recovered")

    outage.failed("no response")
    clock.advance(RECURRENCE_SECONDS)
    outage.failed("no response")

    assert caplog.messages[2:] == ["no response (failures=2)"]


def test_recovery_without_an_outage_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A success without a failure before is not logged."""
    Outage(logger).recovered("recovered")
    Outages(logger).recovered("db", "recovered")

    assert not caplog.messages


def test_outages_log_with_level_and_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The level and the traceback are those that the caller passes."""
    Outages(logger, level=logging.ERROR).failed("db", "no response", error=OSError("refused"))

    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "OSError: refused" in caplog.text


def test_causes_recover_independently(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """The recovery of one cause does not end the outage of another."""
    outages = Outages(logger, clock=clock)
    outages.failed("db", "no db")
    outages.failed("disk", "no disk")

    outages.recovered("db", "db recovered")

    assert outages.lasting() == ["disk"]
    assert caplog.messages == ["no db", "no disk", "db recovered (seconds=0 failures=1)"]


def test_number_of_causes_is_bounded(clock: FakeClock, caplog: pytest.LogCaptureFixture) -> None:
    """Causes beyond the limit share one outage, which is logged too."""
    outages = Outages(logger, clock=clock)

    for number in range(MAX_CAUSES + 50):
        outages.failed(number, "no %d", number)

    assert len(caplog.messages) == len(outages.lasting()) == MAX_CAUSES + 1
