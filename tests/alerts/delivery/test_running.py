"""An outbox that runs: it wakes up for what comes, and loses nothing when it is left."""

from __future__ import annotations

import time

import anyio
import anyio.lowlevel
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.sinks import RetryLater

from ...support.waiting import PATIENCE
from .office import DeliveryHarness, Sending, Taking, make_event, seen

pytestmark = pytest.mark.anyio


class Counted(Taking):
    """A sink that lets a test wait until it has taken so many."""

    def __init__(self, *answers: Exception | None, until: int) -> None:
        super().__init__(*answers)
        self.enough = anyio.Event()
        self._until = until

    async def __call__(self, event: AlertEvent) -> None:
        await super().__call__(event)
        if len(self.taken) == self._until:
            self.enough.set()


async def test_it_wakes_up_for_what_comes() -> None:
    """A sink is told at once, and not only when somebody looks."""
    sink = Counted(until=2)
    office = DeliveryHarness({"sink": sink})

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(office.outbox.run)
            await anyio.wait_all_tasks_blocked()
            await office.publish(make_event())
            await anyio.wait_all_tasks_blocked()
            await office.publish(make_event("resolved"))
            await sink.enough.wait()
            tasks.cancel_scope.cancel()

    assert seen(sink.taken) == ["fired k1", "resolved k1"]


async def test_a_failure_of_ours_ends_no_lane() -> None:
    """It is told of, and the next attempt may fare better."""
    sink = Counted(until=1)
    trouble = [OSError("no clock")]

    def clock() -> float:
        if trouble and office.outbox.queue_length()[("sink",)]:
            raise trouble.pop()
        return time.monotonic() * 100  # so that no pause is long

    office = DeliveryHarness({"sink": sink}, clock=clock)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(office.outbox.run)
            await office.publish(make_event())
            await sink.enough.wait()
            tasks.cancel_scope.cancel()

    assert office.reported == [("sink sink", "OSError")]
    assert seen(sink.taken) == ["fired k1"]


async def test_it_wakes_up_when_a_sink_may_be_asked_again() -> None:
    """Nothing has to come for that."""
    sink = Counted(RetryLater("busy", after=0.01), until=1)
    office = DeliveryHarness({"sink": sink}, clock=lambda: time.monotonic() * 100)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(office.outbox.run)
            await office.publish(make_event(), make_event(key="k2"))
            await sink.enough.wait()
            tasks.cancel_scope.cancel()

    assert seen(sink.asked)[:2] == ["fired k1", "fired k2"]


async def test_what_fires_is_sent_again_when_a_pause_is_over() -> None:
    """Though nothing else waits for the sink."""
    sink = Sending(RetryLater("busy", after=0.01))
    office = DeliveryHarness({"sink": sink}, clock=time.monotonic)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(office.outbox.run)
            await office.publish(firing=[make_event()])
            await anyio.wait_all_tasks_blocked()
            await office.publish(firing=[make_event(), make_event(key="k2")])
            await sink.sent.wait()
            tasks.cancel_scope.cancel()

    assert [seen(each) for each in sink.asked_again] == [["fired k1"], ["fired k1", "fired k2"]]


async def test_a_sink_that_breaks_the_rules_of_python_stops_no_other() -> None:
    """Whatever it raises, and whatever that carries: the application lives on."""
    sink, other = Taking(RetryLater("busy", after="soon")), Counted(until=2)  # type: ignore[arg-type]
    office = DeliveryHarness({"sink": sink, "other": other})

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(office.outbox.run)
            await office.publish(make_event())
            await anyio.wait_all_tasks_blocked()
            await office.publish(make_event("resolved"))
            await other.enough.wait()
            tasks.cancel_scope.cancel()

    assert seen(other.taken) == ["fired k1", "resolved k1"]


async def test_what_is_left_in_the_middle_of_a_delivery_is_delivered_again() -> None:
    """It may have been taken, so it comes with the same id; and it waits in the store."""
    begun, asked = anyio.Event(), list[AlertEvent]()

    async def slow(event: AlertEvent) -> None:
        asked.append(event)
        if len(asked) == 1:
            begun.set()
            await anyio.sleep_forever()

    office = DeliveryHarness({"slow": slow})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(office.outbox.run)
        await office.publish(make_event(), make_event("resolved"))
        await begun.wait()
        tasks.cancel_scope.cancel()
    assert len((await office.kept()).notifications) == 2

    await office.outbox.attempt()

    assert seen(asked) == ["fired k1", "fired k1", "resolved k1"]
    assert asked[0].id == asked[1].id
    assert (await office.kept()).notifications == ()


async def test_what_was_decided_is_told_though_the_round_is_cancelled() -> None:
    """The alerts have changed; to keep and to tell it cannot be left out."""
    sink = Taking()
    office = DeliveryHarness({"sink": sink})

    with anyio.CancelScope() as scope:
        scope.cancel()
        await office.publish(make_event())
    await office.outbox.attempt()

    assert seen(sink.taken) == ["fired k1"]


async def test_what_was_taken_is_known_though_the_outbox_is_left() -> None:
    """Or it would be told again by the next process."""
    scopes: list[anyio.CancelScope] = []

    async def last(event: AlertEvent) -> None:
        scopes[0].cancel()

    office = DeliveryHarness({"last": last})
    await office.publish(make_event())
    with anyio.CancelScope() as scope:
        scopes.append(scope)
        await office.outbox.attempt()

    assert (await office.kept()).notifications == ()


async def test_two_that_hand_out_at_once_do_not_tell_twice() -> None:
    """As two rounds of an engine that does not run may do."""
    asked: list[AlertEvent] = []

    async def slow(event: AlertEvent) -> None:
        asked.append(event)
        await anyio.lowlevel.checkpoint()

    office = DeliveryHarness({"slow": slow})
    await office.publish(make_event(), make_event("resolved"))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(office.outbox.attempt)
        tasks.start_soon(office.outbox.attempt)

    assert seen(asked) == ["fired k1", "resolved k1"]
