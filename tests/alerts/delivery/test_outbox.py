"""Delivery to several sinks, names of sinks, and test alerts."""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent, Sink
from tokenpulse_mw.alerts.delivery import names_of
from tokenpulse_mw.alerts.sinks import RetryLater

from .harness import DeliveryHarness, RecordingSink, make_event, summaries


@pytest.mark.anyio
async def test_every_event_is_delivered_to_every_sink() -> None:
    """Each event has one notification for each sink, whose id contains the event and the sink."""
    first, second = RecordingSink(), RecordingSink()
    harness = DeliveryHarness({"first": first, "second": second})
    events = [make_event(), make_event(key="k2")]
    await harness.publish(*events)

    waiting = await harness.stored()
    assert [notification.id for notification in waiting] == [
        f"{event.id}:{sink}" for event in events for sink in ("first", "second")
    ]
    assert harness.outbox.queue_length() == {("first",): 2, ("second",): 2}

    await harness.outbox.attempt()
    assert summaries(first.delivered) == summaries(second.delivered) == ["fired k1", "fired k2"]
    assert await harness.stored() == ()


@pytest.mark.anyio
async def test_sink_that_fails_does_not_delay_others() -> None:
    """A failure pauses only the sink that failed."""
    down, up = RecordingSink(*[RetryLater("no", after=1000)] * 9), RecordingSink()
    harness = DeliveryHarness({"down": down, "up": up})

    await harness.deliver(make_event())
    await harness.deliver(make_event("resolved"))

    assert summaries(down.attempted) == ["fired k1"]
    assert summaries(up.delivered) == ["fired k1", "resolved k1"]
    assert harness.outbox.queue_length() == {("down",): 2, ("up",): 0}


@pytest.mark.anyio
async def test_slow_sink_does_not_delay_others() -> None:
    """All sinks are called concurrently: one may wait for the call of another."""
    called = anyio.Event()

    async def waits(event: AlertEvent) -> None:
        await called.wait()

    async def sets(event: AlertEvent) -> None:
        called.set()

    harness = DeliveryHarness({"waits": waits, "sets": sets})
    await harness.deliver(make_event())

    assert sorted(harness.results) == [("sets", "ok"), ("waits", "ok")]


@pytest.mark.anyio
async def test_reminder_of_a_queued_alert_is_omitted() -> None:
    """A sink is not reminded of an alert while a notification of that alert is queued."""
    down, up = RecordingSink(RetryLater("no", after=1000)), RecordingSink()
    harness = DeliveryHarness({"down": down, "up": up})

    await harness.deliver(make_event())
    await harness.deliver(make_event("reminded"))
    await harness.attempt_after(1000)

    assert summaries(down.delivered) == ["fired k1"]
    assert summaries(up.delivered) == ["fired k1", "reminded k1"]


@pytest.mark.anyio
async def test_full_queue_dead_letters_the_oldest_alert() -> None:
    """All notifications of the alert that has waited longest become dead letters."""
    sink = RecordingSink(RetryLater("no", after=1000))
    harness = DeliveryHarness({"sink": sink}, max_pending=2)
    await harness.deliver(make_event(), make_event("resolved"))

    await harness.deliver(make_event(key="k2"))
    await harness.attempt_after(1000)
    await harness.deliver(make_event(key="k3"))

    dead_letter = ("trouble:key:k1", "superseded by later notifications")
    assert await harness.dead_letters() == [dead_letter] * 2
    assert harness.results.count(("sink", "dropped")) == 2
    assert summaries(sink.delivered) == ["fired k2", "fired k3"]
    assert await harness.stored() == ()


@pytest.mark.parametrize("error", [ConnectionError(), None])
@pytest.mark.anyio
async def test_notification_dropped_during_its_attempt_is_not_retried(
    error: Exception | None,
) -> None:
    """A dropped notification is neither queued nor stored, for any result of its attempt."""

    async def slow(event: AlertEvent) -> None:
        if event.fingerprint.endswith("k1"):
            await harness.publish(make_event(key="k2"))
            if error is not None:
                raise error

    harness = DeliveryHarness({"slow": slow}, max_pending=1)
    await harness.deliver(make_event())
    await harness.attempt_after(60)
    await harness.publish()

    assert harness.outbox.queue_length() == {("slow",): 0}
    assert await harness.stored() == ()


@pytest.mark.anyio
async def test_test_alert_is_sent_ahead_of_the_queue() -> None:
    """A test alert is sent to one sink at once, and is neither stored nor counted."""
    sink, other = RecordingSink(RetryLater("no", after=1000)), RecordingSink()
    harness = DeliveryHarness({"sink": sink, "other": other})
    await harness.deliver(make_event(key="k2"))

    assert await harness.outbox.test("sink") is None

    test = sink.delivered[0]
    assert (test.transition, test.finding.type, test.at) == ("fired", "test", harness.wall())
    assert test.finding.severity == "info"
    assert summaries(other.attempted) == ["fired k2"]
    assert sorted(harness.results) == [("other", "ok"), ("sink", "error")]


@pytest.mark.parametrize(
    ("error", "message"),
    [(RetryLater("it is busy"), "it is busy"), (OSError("hunter2"), "OSError")],
)
@pytest.mark.anyio
async def test_failed_test_alert_returns_the_error(error: Exception, message: str) -> None:
    """A failed test alert returns the error, and does not pause the sink."""
    sink = RecordingSink(error)
    harness = DeliveryHarness({"sink": sink})

    assert await harness.outbox.test("sink") == message
    await harness.deliver(make_event())

    assert summaries(sink.delivered) == ["fired k1"]


@pytest.mark.anyio
async def test_test_alert_of_a_sink_that_hangs_returns_at_the_timeout() -> None:
    """A test alert ends at the timeout of an attempt."""

    async def hangs(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    harness = DeliveryHarness({"hangs": hangs}, deadline=0.01)

    assert await harness.outbox.test("hangs") == "TimeoutError"


@pytest.mark.anyio
async def test_test_alert_of_an_unknown_sink_raises() -> None:
    """A test alert of an unknown sink raises KeyError with the name."""
    with pytest.raises(KeyError, match="gone"):
        await DeliveryHarness({}).outbox.test("gone")


class Named:
    """Sink with a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, event: AlertEvent) -> None:
        """Accept the event."""


async def page(event: AlertEvent) -> None:
    """Accept the event."""


class Frequent(Named):
    """Sink whose alerts end if they are not sent again in time."""

    resend_every = 4.0

    def __repr__(self) -> str:
        return "Frequent()"


def test_sinks_are_named_by_attribute_or_class() -> None:
    """Sinks of the same name are numbered in their order."""
    sinks: list[Sink] = [RecordingSink(), Named("ops"), page, RecordingSink(), Named("ops")]
    sinks.append(Named(""))

    names = ["RecordingSink", "ops", "page", "RecordingSink-2", "ops-2", "Named"]
    assert list(names_of(sinks, interval=60).items()) == list(zip(names, sinks, strict=True))


def test_names_of_sinks_are_unique() -> None:
    """A name with a number that is already used is not used twice."""
    sinks = [Named("ops"), Named("ops"), Named("ops-2")]

    assert len(names_of(sinks, interval=60)) == 3


def test_sink_that_resends_more_often_than_evaluations_is_rejected() -> None:
    """`resend_every` below the interval is rejected: alerts would end between evaluations."""
    assert list(names_of([Frequent("ops")], interval=4)) == ["ops"]

    with pytest.raises(
        ValueError,
        match=r"^resend_every of Frequent\(\) must be at least the interval .* 5 s, got 4$",
    ):
        names_of([Frequent("ops")], interval=5)
