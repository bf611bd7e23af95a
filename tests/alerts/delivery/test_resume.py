"""Delivery of stored notifications after a restart."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tokenpulse_mw.alerts.sinks import RetryLater
from tokenpulse_mw.alerts.store import Notification

from ..store.samples import notification
from .harness import DeliveryHarness, RecordingSink, make_event, summaries

pytestmark = pytest.mark.anyio


AT = 1_700_000_000.0  # initial time of the harness


def stored_notification(identity: str = "n1", **changes: Any) -> Notification:
    """Return an undelivered notification of the previous process."""
    event = make_event().to_dict()
    waiting = notification(identity, sink="sink", event=event, created_at=AT, due_at=AT)
    return replace(waiting, **changes)


async def restarted(before: DeliveryHarness, **sinks: RecordingSink) -> DeliveryHarness:
    """Return the next process, on the same store and at the same wall time."""
    after = DeliveryHarness(sinks, store=before.store)
    after.wall.now = before.wall.now
    await after.resume(*await before.stored())
    return after


async def test_undelivered_notifications_are_delivered_after_a_restart() -> None:
    """Notifications are delivered with their ids, in order, and with their number of attempts."""
    harness = DeliveryHarness({"sink": RecordingSink(*[ConnectionError()] * 9)})
    await harness.deliver(make_event(), make_event("resolved"), make_event(key="k2"))
    await harness.attempt_after(1)
    before = await harness.stored()
    assert sorted(waiting.attempts for waiting in before) == [0, 1, 1]

    sink = RecordingSink()
    harness = await restarted(harness, sink=sink)
    await harness.attempt_after(2)

    of_first_alert = [text for text in summaries(sink.delivered) if text.endswith("k1")]
    assert of_first_alert == ["fired k1", "resolved k1"]
    assert {f"{event.id}:sink" for event in sink.delivered} == {waiting.id for waiting in before}
    assert await harness.stored() == ()


async def test_restart_does_not_shorten_a_requested_wait() -> None:
    """A sink that asked to wait is not called earlier after a restart."""
    harness = DeliveryHarness({"sink": RecordingSink(RetryLater("busy", after=120))})
    await harness.deliver(make_event())
    harness.advance(20)

    sink = RecordingSink()
    harness = await restarted(harness, sink=sink)
    await harness.attempt_after(99)
    assert sink.attempted == []
    await harness.attempt_after(1)
    assert summaries(sink.delivered) == ["fired k1"]


async def test_wait_after_a_restart_is_at_most_an_hour() -> None:
    """A stored time in the distant future delays a notification by an hour at most."""
    harness = DeliveryHarness({"sink": RecordingSink(RetryLater("never", after=1e9))})
    await harness.deliver(make_event())

    sink = RecordingSink()
    harness = await restarted(harness, sink=sink)
    await harness.attempt_after(3600)

    assert summaries(sink.delivered) == ["fired k1"]


async def test_attempts_before_a_restart_count_for_the_backoff() -> None:
    """A notification that failed six times before the restart waits a minute after the next."""
    sink = RecordingSink(ConnectionError())
    left = stored_notification(attempts=6)
    harness = DeliveryHarness({"sink": sink})
    await harness.resume(left)

    await harness.attempt_after(0)

    (waiting,) = await harness.stored()
    assert (waiting.attempts, waiting.due_at) == (7, AT + 60)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sink": "gone"}, "no process has a sink of this name"),
        ({"event": {}}, "the stored event is invalid: "),
        ({"event": {"id": "x y"}}, "the stored event is invalid: "),
        ({"event": {"subject": [1]}}, "the stored event is invalid: "),
    ],
)
async def test_undeliverable_notification_becomes_a_dead_letter(
    changes: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing sink or an invalid event does not delay other notifications, and is logged."""
    sink = RecordingSink()
    good, bad = stored_notification("good"), stored_notification("bad", **changes)
    harness = DeliveryHarness({"sink": sink})

    await harness.resume(bad, good)
    await harness.attempt_after(0)

    assert summaries(sink.delivered) == ["fired k1"]
    assert await harness.stored() == ()
    ((fingerprint, error),) = await harness.dead_letters()
    assert error.startswith(reason)
    assert caplog.messages == [
        f"notification dropped: sink={bad.sink} alert={fingerprint} error={error}"
    ]


async def test_notification_for_a_sink_of_another_process_stays_stored() -> None:
    """A leader without the sink leaves the notification to a leader that has it."""
    elsewhere = stored_notification(sink="pager")
    harness = DeliveryHarness({"sink": RecordingSink()})

    await harness.resume(elsewhere, known_sinks={"sink", "pager"})
    await harness.attempt_after(0)

    assert await harness.stored() == (elsewhere,)
    assert await harness.dead_letters() == []


async def test_process_that_does_not_lead_attempts_nothing() -> None:
    """A notification whose claim is refused waits, and is attempted after a later claim."""
    sink = RecordingSink()
    harness = DeliveryHarness({"sink": sink})
    await harness.resume(stored_notification())
    leader, harness.leader = harness.leader, None

    await harness.attempt_after(0)
    assert sink.attempted == []

    harness.leader = leader
    await harness.attempt_after(1)
    assert summaries(sink.delivered) == ["fired k1"]
