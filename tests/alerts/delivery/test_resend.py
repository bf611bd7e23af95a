"""Sinks that are sent all firing alerts after each evaluation, such as Alertmanager."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.sinks import Rejected, RetryLater

from .harness import DeliveryHarness, RecordingSink, ResendingSink, make_event, summaries

pytestmark = pytest.mark.anyio


async def test_firing_alerts_are_sent_again_after_each_evaluation() -> None:
    """A sink with `resend` gets all firing alerts once an evaluation, after its notifications."""
    sink, other = ResendingSink(), RecordingSink()
    harness = DeliveryHarness({"sink": sink, "other": other})
    fired = make_event()

    await harness.deliver(fired, firing=[fired])
    await harness.outbox.attempt()
    await harness.deliver(firing=[fired])
    await harness.deliver(make_event("resolved"))

    assert summaries(sink.delivered) == summaries(other.delivered) == ["fired k1", "resolved k1"]
    assert [summaries(events) for events in sink.resent] == [["fired k1"], ["fired k1"], []]


async def test_queued_alerts_are_not_sent_again() -> None:
    """An alert with a queued notification is sent by that notification only."""
    before = DeliveryHarness({"sink": RecordingSink(RetryLater("busy", after=60))})
    await before.deliver(make_event())
    sink = ResendingSink()
    harness = DeliveryHarness({"sink": sink})
    await harness.resume(*await before.stored())
    firing = [make_event(), make_event(key="k2")]

    await harness.deliver(firing=firing)
    assert sink.attempted == []
    assert [summaries(events) for events in sink.resent] == [["fired k2"]]

    await harness.attempt_after(60)
    await harness.deliver(firing=firing)
    assert summaries(sink.delivered) == ["fired k1"]
    assert summaries(sink.resent[-1]) == ["fired k1", "fired k2"]


async def test_paused_sink_is_not_sent_firing_alerts() -> None:
    """After a pause the queued notification is sent first, then what fires by then."""
    sink = ResendingSink()
    sink.errors = iter([ConnectionError()] * 2)
    harness = DeliveryHarness({"sink": sink})

    await harness.deliver(make_event(), firing=[make_event()])
    await harness.attempt_after(1)
    await harness.deliver(firing=[make_event(), make_event(key="k2")])
    assert sink.resent == []

    await harness.attempt_after(2)
    assert summaries(sink.delivered) == ["fired k1"]
    assert [summaries(events) for events in sink.resent] == [["fired k1", "fired k2"]]


async def test_failed_resend_pauses_the_sink() -> None:
    """A failed `resend` pauses the sink as any failure does, and the next one sends what fires."""
    sink = ResendingSink(ConnectionError())
    harness = DeliveryHarness({"sink": sink})

    await harness.deliver(firing=[make_event()])
    await harness.deliver(make_event(key="k2"), firing=[make_event(), make_event(key="k2")])
    assert summaries(sink.attempted) == []

    await harness.attempt_after(1)
    assert summaries(sink.delivered) == ["fired k2"]
    assert [summaries(events) for events in sink.resent] == [
        ["fired k1"],
        ["fired k1", "fired k2"],
    ]
    assert harness.results == [("sink", "error"), ("sink", "ok")]
    assert harness.reported == [("sink sink", "ConnectionError")]


async def test_rejected_resend_does_not_pause_the_sink() -> None:
    """A sink that rejects a firing alert is sent the next notification at once."""
    sink = ResendingSink(Rejected("no"))
    harness = DeliveryHarness({"sink": sink})

    await harness.deliver(firing=[make_event()])
    await harness.deliver(make_event(key="k2"))

    assert summaries(sink.delivered) == ["fired k2"]
    assert harness.results == [("sink", "rejected"), ("sink", "ok")]
