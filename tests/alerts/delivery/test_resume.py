"""After a restart the sinks are told what the process before had no time for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tokenpulse_mw.alerts.sinks import RetryLater
from tokenpulse_mw.alerts.steps import finish
from tokenpulse_mw.alerts.store import Changes, Notification

from ..store.samples import notification
from .office import DeliveryHarness, Taking, make_event, seen

pytestmark = pytest.mark.anyio


AT = 1_700_000_000.0  # when an office opens


def kept(identity: str = "n1", **changes: Any) -> Notification:
    """What the process before has left."""
    event = make_event()
    waiting = notification(identity, sink="sink", event=event.to_dict(), created_at=AT, due_at=AT)
    return replace(waiting, **changes)


async def restarted(before: DeliveryHarness, **sinks: Taking) -> DeliveryHarness:
    """A process after the one of `before`, on the same store, at the same time of the day."""
    after = DeliveryHarness(sinks, store=before.store)
    after.wall.now = before.wall.now
    finish(after.outbox.resume((await before.kept()).notifications))
    return after


async def test_what_was_not_taken_is_told_after_a_restart() -> None:
    """With the ids it had, in its order, and as often tried as it was; and then it is done."""
    office = DeliveryHarness({"sink": Taking(*[ConnectionError()] * 9)})
    await office.tell(make_event(), make_event("resolved"), make_event(key="k2"))
    await office.after(1)
    before = (await office.kept()).notifications
    assert sorted(each.attempts for each in before) == [0, 1, 1]

    sink = Taking()
    office = await restarted(office, sink=sink)
    await office.after(2)

    assert [each for each in seen(sink.taken) if each.endswith("k1")] == ["fired k1", "resolved k1"]
    assert {f"{each.id}:sink" for each in sink.taken} == {each.id for each in before}
    assert (await office.kept()).notifications == ()


async def test_a_restart_does_not_shorten_the_wait_that_a_sink_has_asked_for() -> None:
    """It is asked when it is due."""
    office = DeliveryHarness({"sink": Taking(RetryLater("busy", after=120))})
    await office.tell(make_event())
    office.advance(20)

    sink = Taking()
    office = await restarted(office, sink=sink)
    await office.after(99)
    assert sink.asked == []
    await office.after(1)
    assert seen(sink.taken) == ["fired k1"]


async def test_after_a_restart_nobody_waits_for_more_than_an_hour() -> None:
    """Not for what was to be in a year, and not where the time of the day was set back."""
    office = DeliveryHarness({"sink": Taking(RetryLater("never", after=1e9))})
    await office.tell(make_event())

    sink = Taking()
    office = await restarted(office, sink=sink)
    await office.after(3600)

    assert seen(sink.taken) == ["fired k1"]


async def test_attempts_from_before_a_restart_count() -> None:
    """A sink that failed six times is not asked every second again."""
    sink = Taking(ConnectionError())
    left = kept(attempts=6)
    office = DeliveryHarness({"sink": sink})
    await office.store.commit(Changes(notifications=(left,)))
    finish(office.outbox.resume([left]))

    await office.after(0)

    (waiting,) = (await office.kept()).notifications
    assert (waiting.attempts, waiting.due_at) == (7, AT + 60)


@pytest.mark.parametrize(
    "changes",
    [{"sink": "gone"}, {"event": {}}, {"event": {"id": "x y"}}, {"event": {"subject": [1]}}],
)
async def test_what_cannot_be_told_any_more_is_a_dead_letter(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A sink that was taken out, or an event that nobody can read, holds up nothing."""
    sink = Taking()
    good, bad = kept("good"), kept("bad", **changes)
    office = DeliveryHarness({"sink": sink})
    await office.store.commit(Changes(notifications=(bad, good)))

    finish(office.outbox.resume([bad, good]))
    await office.after(0)

    assert seen(sink.taken) == ["fired k1"]
    assert (await office.kept()).notifications == ()
    ((_, error),) = await office.dead()
    assert error.startswith("it cannot be delivered any more: ")
    assert caplog.messages == [f"bad: {error}"]
