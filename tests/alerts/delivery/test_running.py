"""Outbox that delivers in the background, and its cancellation."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.sinks import RetryLater

from ...support.waiting import PATIENCE
from .harness import DeliveryHarness, RecordingSink, ResendingSink, make_event, summaries

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


class CountingSink(RecordingSink):
    """Sink whose event `complete` is set after so many deliveries."""

    def __init__(self, *errors: Exception | None, until: int) -> None:
        super().__init__(*errors)
        self.complete = anyio.Event()
        self._until = until

    async def __call__(self, event: AlertEvent) -> None:
        await super().__call__(event)
        if len(self.delivered) == self._until:
            self.complete.set()


async def test_published_event_is_delivered_at_once() -> None:
    """A running outbox delivers an event without waiting for the next evaluation."""
    sink = CountingSink(until=2)
    harness = DeliveryHarness({"sink": sink})

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.outbox.run)
            await anyio.wait_all_tasks_blocked()
            await harness.publish(make_event())
            await anyio.wait_all_tasks_blocked()
            await harness.publish(make_event("resolved"))
            await sink.complete.wait()
            tasks.cancel_scope.cancel()

    assert summaries(sink.delivered) == ["fired k1", "resolved k1"]


async def test_internal_error_does_not_end_a_worker() -> None:
    """An error outside of the sink is reported, and the worker continues."""
    sink = CountingSink(until=1)
    errors = [OSError("no clock")]

    def clock() -> float:
        if errors and harness.outbox.queue_length()[("sink",)]:
            raise errors.pop()
        return time.monotonic() * 100  # so that pauses are short

    harness = DeliveryHarness({"sink": sink}, clock=clock)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.outbox.run)
            await harness.publish(make_event())
            await sink.complete.wait()
            tasks.cancel_scope.cancel()

    assert harness.reported == [("sink sink", "OSError")]
    assert summaries(sink.delivered) == ["fired k1"]


async def test_delivery_continues_when_a_pause_ends() -> None:
    """A running outbox retries after a pause without a new event."""
    sink = CountingSink(RetryLater("busy", after=0.01), until=1)
    harness = DeliveryHarness({"sink": sink}, clock=lambda: time.monotonic() * 100)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.outbox.run)
            await harness.publish(make_event(), make_event(key="k2"))
            await sink.complete.wait()
            tasks.cancel_scope.cancel()

    assert summaries(sink.attempted)[:2] == ["fired k1", "fired k2"]


async def test_resend_continues_when_a_pause_ends() -> None:
    """A running outbox sends firing alerts again after a pause, even if nothing is queued."""
    sink = ResendingSink(RetryLater("busy", after=0.01))
    harness = DeliveryHarness({"sink": sink}, clock=time.monotonic)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.outbox.run)
            await harness.publish(firing=[make_event()])
            await anyio.wait_all_tasks_blocked()
            await harness.publish(firing=[make_event(), make_event(key="k2")])
            await sink.succeeded.wait()
            tasks.cancel_scope.cancel()

    assert [summaries(events) for events in sink.resent] == [
        ["fired k1"],
        ["fired k1", "fired k2"],
    ]


async def test_error_with_an_invalid_wait_does_not_stop_other_sinks() -> None:
    """A `RetryLater` whose `after` is not a number is handled as one without it."""
    sink, other = RecordingSink(RetryLater("busy", after="soon")), CountingSink(until=2)  # type: ignore[arg-type]
    harness = DeliveryHarness({"sink": sink, "other": other})

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(harness.outbox.run)
            await harness.publish(make_event())
            await anyio.wait_all_tasks_blocked()
            await harness.publish(make_event("resolved"))
            await other.complete.wait()
            tasks.cancel_scope.cancel()

    assert summaries(other.delivered) == ["fired k1", "resolved k1"]


async def test_delivery_that_was_cancelled_is_repeated() -> None:
    """A cancelled delivery stays stored, and is repeated with the same id."""
    started, attempted = anyio.Event(), list[AlertEvent]()

    async def slow(event: AlertEvent) -> None:
        attempted.append(event)
        if len(attempted) == 1:
            started.set()
            await anyio.sleep_forever()

    harness = DeliveryHarness({"slow": slow})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(harness.outbox.run)
        await harness.publish(make_event(), make_event("resolved"))
        await started.wait()
        tasks.cancel_scope.cancel()
    assert len(await harness.stored()) == 2

    await harness.outbox.attempt()

    assert summaries(attempted) == ["fired k1", "fired k1", "resolved k1"]
    assert attempted[0].id == attempted[1].id
    assert await harness.stored() == ()


async def test_publish_is_completed_when_cancelled() -> None:
    """The notifications of an evaluation are stored and queued, even if it is cancelled."""
    sink = RecordingSink()
    harness = DeliveryHarness({"sink": sink})

    with anyio.CancelScope() as scope:
        scope.cancel()
        await harness.publish(make_event())
    await harness.outbox.attempt()

    assert summaries(sink.delivered) == ["fired k1"]


async def test_outcome_is_stored_when_cancelled() -> None:
    """A delivered notification is deleted from the store, even if the outbox is cancelled."""
    scopes: list[anyio.CancelScope] = []

    async def last(event: AlertEvent) -> None:
        scopes[0].cancel()

    harness = DeliveryHarness({"last": last})
    await harness.publish(make_event())
    with anyio.CancelScope() as scope:
        scopes.append(scope)
        await harness.outbox.attempt()

    assert await harness.stored() == ()


async def test_concurrent_attempts_deliver_once() -> None:
    """Two evaluations that deliver at the same time do not deliver a notification twice."""
    attempted: list[AlertEvent] = []

    async def slow(event: AlertEvent) -> None:
        attempted.append(event)
        await anyio.lowlevel.checkpoint()

    harness = DeliveryHarness({"slow": slow})
    await harness.publish(make_event(), make_event("resolved"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(harness.outbox.attempt)
        tasks.start_soon(harness.outbox.attempt)

    assert summaries(attempted) == ["fired k1", "resolved k1"]
