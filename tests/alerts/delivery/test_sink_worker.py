"""Retries, order and dead letters of one sink."""

from __future__ import annotations

import logging
from dataclasses import replace

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent, Subject
from tokenpulse_mw.alerts.delivery.sink_worker import backoff
from tokenpulse_mw.alerts.sinks import Rejected, RetryLater

from .harness import DeliveryHarness, RecordingSink, make_event, summaries

pytestmark = pytest.mark.anyio


_HOUR = 3600.0


async def test_delivered_notification_is_neither_repeated_nor_stored() -> None:
    """A delivered notification is counted once and deleted from the store."""
    sink = RecordingSink()
    harness = DeliveryHarness({"sink": sink})

    await harness.deliver(make_event())
    await harness.attempt_after(_HOUR)

    assert summaries(sink.attempted) == ["fired k1"]
    assert await harness.stored() == ()
    assert harness.results == [("sink", "ok")]


async def test_pause_doubles_with_every_failure() -> None:
    """A failing sink is paused twice as long each time, up to a minute."""
    sink = RecordingSink(*[ConnectionError()] * 9)
    harness = DeliveryHarness({"sink": sink})
    await harness.publish(make_event())
    attempted_at: list[float] = []

    for second in range(250):
        before = len(sink.attempted)
        await harness.outbox.attempt()
        attempted_at += [second] * (len(sink.attempted) - before)
        harness.advance(1)

    assert attempted_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert summaries(sink.delivered) == ["fired k1"]
    assert len({event.id for event in sink.attempted}) == 1


async def test_requested_wait_applies_to_all_notifications_of_the_sink() -> None:
    """A `RetryLater` with `after` pauses the sink for that time, for all alerts."""
    sink = RecordingSink(RetryLater("busy", after=120))
    harness = DeliveryHarness({"sink": sink})
    await harness.deliver(make_event(), make_event(key="k2"))

    await harness.attempt_after(119)
    await harness.deliver(make_event(key="k3"))
    assert summaries(sink.attempted) == ["fired k1"]

    await harness.attempt_after(1)
    assert sorted(summaries(sink.delivered)) == ["fired k1", "fired k2", "fired k3"]


async def test_one_notification_is_attempted_after_a_pause_and_all_follow() -> None:
    """A failing sink is called once per pause, however many notifications are queued."""
    sink = RecordingSink(*[ConnectionError()] * 4)
    harness = DeliveryHarness({"sink": sink})
    await harness.deliver(*(make_event(key=f"k{number}") for number in range(50)))
    assert len(sink.attempted) == 1

    await harness.attempt_after(1)
    await harness.attempt_after(2)
    await harness.attempt_after(4)
    assert len(sink.attempted) == 4
    assert harness.outbox.queue_length() == {("sink",): 50}

    await harness.attempt_after(8)
    assert len(sink.delivered) == 50
    assert harness.outbox.queue_length() == {("sink",): 0}


async def test_end_of_an_alert_is_not_delivered_before_its_beginning() -> None:
    """The notification `resolved` waits until `fired` is delivered."""
    sink = RecordingSink(ConnectionError(), ConnectionError())
    harness = DeliveryHarness({"sink": sink})
    await harness.deliver(make_event())
    await harness.deliver(make_event("resolved", at=1_700_000_060.0))

    await harness.attempt_after(1)
    await harness.attempt_after(2)

    assert summaries(sink.attempted) == ["fired k1", "fired k1", "fired k1", "resolved k1"]


async def test_rejected_notification_becomes_a_dead_letter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A rejection is logged, is not retried, and does not delay other notifications."""
    sink = RecordingSink(Rejected("too long"))
    harness = DeliveryHarness({"sink": sink})

    await harness.deliver(
        make_event(), make_event("resolved", at=1_700_000_060.0), make_event(key="k2")
    )
    await harness.attempt_after(_HOUR)

    assert summaries(sink.attempted) == ["fired k1", "fired k2", "resolved k1"]
    assert await harness.dead_letters() == [("trouble:key:k1", "too long")]
    assert sorted(harness.results) == [("sink", "ok")] * 2 + [("sink", "rejected")]
    assert caplog.messages == [
        "notification dropped: sink=sink alert=trouble:key:k1 transition=fired error=too long"
    ]


async def test_dead_letter_is_logged_with_the_name_of_its_subject(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The fingerprint has only the id."""
    harness = DeliveryHarness({"sink": RecordingSink(Rejected("too long"))})
    event = make_event()
    subject = Subject("key", "k1", "Acme\nforged")

    await harness.deliver(replace(event, finding=replace(event.finding, subject=subject)))

    (line,) = caplog.messages
    assert "alert=trouble:key:k1 name='Acme forged' transition=fired" in line


async def test_notification_that_fails_for_a_day_becomes_a_dead_letter() -> None:
    """After a day of failures a notification is dropped, and newer ones are delivered."""
    sink = RecordingSink(*[ConnectionError("the password is hunter2")] * 1500)
    harness = DeliveryHarness({"sink": sink})
    await harness.deliver(make_event())

    for _ in range(24 * 60):
        await harness.attempt_after(60)
    assert await harness.dead_letters() == []
    await harness.attempt_after(60)
    assert await harness.dead_letters() == [("trouble:key:k1", "ConnectionError")]

    sink.errors = iter([])
    await harness.deliver(make_event("resolved"))
    await harness.attempt_after(60)
    assert summaries(sink.delivered) == ["resolved k1"]


async def test_error_of_an_attempt_is_stored() -> None:
    """The text of an error of our sinks is stored, of another only its class: it may be secret."""
    sink = RecordingSink(RetryLater("it is busy"), ValueError("the password is hunter2"))
    harness = DeliveryHarness({"sink": sink})
    began = harness.wall()

    await harness.deliver(make_event())
    (first,) = await harness.stored()
    await harness.attempt_after(1)
    (second,) = await harness.stored()

    assert (first.attempts, first.last_error, first.due_at) == (1, "it is busy", began + 1)
    assert (second.attempts, second.last_error, second.due_at) == (2, "ValueError", began + 3)
    assert first.id == second.id


async def test_busy_sink_is_logged_when_it_begins_and_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Attempts in between are not logged, and nothing is reported as an internal error."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    sink = RecordingSink(RetryLater("busy"), RetryLater("busy"))
    harness = DeliveryHarness({"sink": sink})

    await harness.deliver(make_event(), make_event(key="k2"))
    await harness.attempt_after(1)
    await harness.attempt_after(2)

    assert caplog.messages == [
        "sink unavailable, notifications wait: sink=sink error=busy",
        "sink available again: sink=sink waiting=2 (seconds=3 failures=2)",
    ]
    assert harness.reported == []


async def test_attempt_that_hangs_is_retried_after_its_timeout() -> None:
    """An attempt fails at its timeout and is repeated with the same id."""
    attempted: list[AlertEvent] = []

    async def hangs_once(event: AlertEvent) -> None:
        attempted.append(event)
        if len(attempted) == 1:
            await anyio.sleep_forever()

    harness = DeliveryHarness({"sink": hangs_once}, deadline=0.01)
    await harness.deliver(make_event())
    await harness.attempt_after(1)

    assert [event.id for event in attempted] == [make_event().id] * 2
    assert harness.results == [("sink", "timeout"), ("sink", "ok")]
    assert harness.reported == [("sink sink", "TimeoutError")]


@pytest.mark.parametrize("after", [float("inf"), float("nan"), -5, 1e300])
async def test_implausible_wait_does_not_affect_other_sinks(after: float) -> None:
    """A sink with an implausible `after` does not affect deliveries to another sink."""
    other = RecordingSink()
    odd = RecordingSink(RetryLater("busy", after=after))
    harness = DeliveryHarness({"odd": odd, "other": other})

    await harness.deliver(make_event())
    await harness.deliver(make_event(key="k2"))

    assert summaries(other.delivered) == ["fired k1", "fired k2"]
    waiting = await harness.stored()
    assert {notification.sink for notification in waiting} <= {"odd"}


_ERRORS = st.lists(
    st.sampled_from([None, None, ConnectionError(), RetryLater("busy", after=7), Rejected("no")]),
    max_size=30,
)


_KEYS = st.lists(st.lists(st.sampled_from(["k1", "k2"]), max_size=3), max_size=8)


@given(_ERRORS, _KEYS, st.integers(1, 30))
def test_every_event_is_delivered_once_and_in_order_or_rejected(
    errors: list[Exception | None], evaluations: list[list[str]], pause: int
) -> None:
    """For any errors of a sink, no event is lost, repeated or out of order."""
    sink = RecordingSink(*errors)
    published = []

    async def run() -> None:
        harness = DeliveryHarness({"sink": sink})
        for number, keys in enumerate(evaluations):
            events = [
                make_event("fired", key, episode=f"e{number}-{index}")
                for index, key in enumerate(keys)
            ]
            published.extend(events)
            await harness.deliver(*events)
            harness.advance(pause)
        for _ in range(40):
            await harness.attempt_after(60)
        dead_letters = await harness.store.dead_letters(99)
        rejected = [dead_letter.notification.event["id"] for dead_letter in dead_letters]
        delivered = [event.id for event in sink.delivered]
        assert sorted(delivered + rejected) == sorted(event.id for event in published)
        assert await harness.stored() == ()
        order = [event.id for event in published]
        for key in ("k1", "k2"):
            of_key = [
                order.index(event.id) for event in sink.delivered if event.fingerprint.endswith(key)
            ]
            assert of_key == sorted(of_key)

    anyio.run(run)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (5000, 60)]
)
def test_backoff_doubles_up_to_a_minute(failures: int, seconds: float) -> None:
    """The longest wait doubles with each failure, and is at most a minute."""
    assert backoff(failures, 1.0) == seconds


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_jitter_shortens_the_backoff_by_at_most_half(failures: int, jitter: float) -> None:
    """The wait is between half of the longest wait and the longest wait."""
    longest = backoff(failures, 1.0)

    assert longest / 2 <= backoff(failures, jitter) <= longest
