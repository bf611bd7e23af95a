"""Closing of an outbox."""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.sinks import RetryLater

from ...support.waiting import PATIENCE
from .harness import DeliveryHarness, RecordingSink, make_event, summaries

pytestmark = pytest.mark.anyio


class ClosableSink(RecordingSink):
    """Sink that records that it is closed, and then may fail."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error
        self.closed = False

    async def aclose(self) -> None:
        """Record the call and raise the error."""
        self.closed = True
        if self.error is not None:
            raise self.error


async def test_due_notifications_are_delivered_before_the_sinks_are_closed() -> None:
    """The notifications of the last evaluation are not left to the next process."""
    sink = ClosableSink()
    harness = DeliveryHarness({"sink": sink})
    await harness.publish(make_event(), make_event("resolved"))

    await harness.outbox.aclose(last_chance=PATIENCE)

    assert summaries(sink.delivered) == ["fired k1", "resolved k1"]
    assert sink.closed


async def test_queued_notifications_are_logged_and_stay_stored(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Notifications that are still queued are logged, and stored for the next process."""
    sink = RecordingSink(RetryLater("busy", after=60))
    harness = DeliveryHarness({"sink": sink})
    await harness.deliver(make_event(), make_event("resolved"))

    await harness.outbox.aclose(last_chance=PATIENCE)

    assert caplog.messages[-1] == "notifications still queued: sink=sink waiting=2"
    assert len(await harness.stored()) == 2


async def test_last_deliveries_end_at_the_timeout() -> None:
    """A sink that never returns does not prevent the application from ending."""

    async def hangs(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    harness = DeliveryHarness({"hangs": hangs})
    await harness.publish(make_event())

    with anyio.fail_after(PATIENCE):
        await harness.outbox.aclose(last_chance=0.01)

    assert len(await harness.stored()) == 1


async def test_sink_that_fails_to_close_does_not_keep_others_open() -> None:
    """The failure of one sink is reported, and all other sinks are closed."""
    sinks = {"first": ClosableSink(OSError()), "plain": RecordingSink(), "last": ClosableSink()}
    harness = DeliveryHarness(sinks)

    await harness.outbox.aclose(last_chance=PATIENCE)

    assert [sink.closed for sink in sinks.values() if isinstance(sink, ClosableSink)] == [True] * 2
    assert harness.reported == [("sink first", "OSError")]


async def test_sink_that_hangs_when_closed_is_abandoned() -> None:
    """Closing a sink ends at the timeout of an attempt, which is reported."""

    class Hanging(RecordingSink):
        async def aclose(self) -> None:
            await anyio.sleep_forever()

    harness = DeliveryHarness({"hangs": Hanging()}, deadline=0.01)

    with anyio.fail_after(PATIENCE):
        await harness.outbox.aclose(last_chance=PATIENCE)

    assert harness.reported == [("sink hangs", "TimeoutError")]
