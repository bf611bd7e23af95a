"""All sinks side by side: what a round brings reaches each of them."""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.sinks import RetryLater

from .office import DeliveryHarness, Taking, make_event, seen

pytestmark = pytest.mark.anyio


async def test_every_sink_is_told_everything() -> None:
    """Each has a notification of its own, and each of these has an id of its own."""
    first, second = Taking(), Taking()
    office = DeliveryHarness({"first": first, "second": second})
    await office.publish(make_event(), make_event(key="k2"))

    waiting = (await office.kept()).notifications
    assert [each.id for each in waiting] == [
        f"{event.id}:{sink}"
        for event in (make_event(), make_event(key="k2"))
        for sink in ("first", "second")
    ]
    assert office.outbox.queue_length() == {("first",): 2, ("second",): 2}

    await office.outbox.attempt()
    assert seen(first.taken) == seen(second.taken) == ["fired k1", "fired k2"]
    assert (await office.kept()).notifications == ()


async def test_a_sink_that_fails_delays_no_other() -> None:
    """It has its own pauses; the others know nothing of them."""
    down, up = Taking(*[RetryLater("no", after=1000)] * 9), Taking()
    office = DeliveryHarness({"down": down, "up": up})

    await office.tell(make_event())
    await office.tell(make_event("resolved"))

    assert seen(down.asked) == ["fired k1"]
    assert seen(up.taken) == ["fired k1", "resolved k1"]
    assert office.outbox.queue_length() == {("down",): 2, ("up",): 0}


async def test_a_sink_that_takes_its_time_delays_no_other() -> None:
    """All are asked at once: one may even wait for what another is told."""
    heard = anyio.Event()

    async def waits(event: AlertEvent) -> None:
        await heard.wait()

    async def hears(event: AlertEvent) -> None:
        heard.set()

    office = DeliveryHarness({"waits": waits, "hears": hears})
    await office.tell(make_event())

    assert sorted(office.tallied) == [("hears", "ok"), ("waits", "ok")]


async def test_nobody_is_reminded_of_what_still_waits() -> None:
    """It would say what the letter before it says; a sink that has heard is reminded."""
    down, up = Taking(RetryLater("no", after=1000)), Taking()
    office = DeliveryHarness({"down": down, "up": up})

    await office.tell(make_event())
    await office.tell(make_event("reminded"))
    await office.after(1000)

    assert seen(down.taken) == ["fired k1"]
    assert seen(up.taken) == ["fired k1", "reminded k1"]


async def test_for_want_of_room_the_alert_that_waited_longest_is_a_dead_letter() -> None:
    """What happens now is worth more; what was dropped can be looked up."""
    sink = Taking(RetryLater("no", after=1000))
    office = DeliveryHarness({"sink": sink}, most=2)
    await office.tell(make_event(), make_event("resolved"))

    await office.tell(make_event(key="k2"))
    await office.after(1000)
    await office.tell(make_event(key="k3"))

    said = "later events took its place"
    assert await office.dead() == [("trouble:key:k1", said)] * 2
    assert office.tallied.count(("sink", "dropped")) == 2
    assert seen(sink.taken) == ["fired k2", "fired k3"]
    assert (await office.kept()).notifications == ()


@pytest.mark.parametrize("error", [ConnectionError(), None])
async def test_what_is_dropped_on_its_way_does_not_come_back(error: Exception | None) -> None:
    """After a restart neither: whether the sink takes it or not, it does not wait any more."""

    async def slow(event: AlertEvent) -> None:
        if event.fingerprint.endswith("k1"):
            await office.publish(make_event(key="k2"))
            if error is not None:
                raise error

    office = DeliveryHarness({"slow": slow}, most=1)
    await office.tell(make_event())
    await office.after(60)
    await office.publish()

    assert office.outbox.queue_length() == {("slow",): 0}
    assert (await office.kept()).notifications == ()
