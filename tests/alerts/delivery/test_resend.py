"""Sinks that want to hear again and again of all that fires, as Alertmanager does."""

from __future__ import annotations

import pytest

from tokenpulse_mw.alerts.sinks import Rejected, RetryLater
from tokenpulse_mw.alerts.steps import finish

from .office import DeliveryHarness, Sending, Taking, make_event, seen

pytestmark = pytest.mark.anyio


async def test_what_fires_is_sent_again_with_every_round() -> None:
    """Once a round, after what is new; sinks that do not want it are left alone."""
    sink, other = Sending(), Taking()
    office = DeliveryHarness({"sink": sink, "other": other})
    fired = make_event()

    await office.tell(fired, firing=[fired])
    await office.outbox.attempt()
    await office.tell(firing=[fired])
    await office.tell(make_event("resolved"))

    assert seen(sink.taken) == seen(other.taken) == ["fired k1", "resolved k1"]
    assert [seen(each) for each in sink.asked_again] == [["fired k1"], ["fired k1"], []]


async def test_what_waits_is_told_by_its_letter_alone() -> None:
    """Or what is sent again would overtake it, though the sink may be asked."""
    before = DeliveryHarness({"sink": Taking(RetryLater("busy", after=60))})
    await before.tell(make_event())
    sink = Sending()
    office = DeliveryHarness({"sink": sink})
    finish(office.outbox.resume((await before.kept()).notifications))
    firing = [make_event(), make_event(key="k2")]

    await office.tell(firing=firing)
    assert (sink.asked, [seen(each) for each in sink.asked_again]) == ([], [["fired k2"]])

    await office.after(60)
    await office.tell(firing=firing)
    assert seen(sink.taken) == ["fired k1"]
    assert seen(sink.asked_again[-1]) == ["fired k1", "fired k2"]


async def test_while_a_sink_is_left_alone_nothing_is_sent_again() -> None:
    """Afterwards the letter comes first, and then all that fires by then."""
    sink = Sending()
    sink.answers = iter([ConnectionError()] * 2)
    office = DeliveryHarness({"sink": sink})

    await office.tell(make_event(), firing=[make_event()])
    await office.after(1)
    await office.tell(firing=[make_event(), make_event(key="k2")])
    assert sink.asked_again == []

    await office.after(2)
    assert seen(sink.taken) == ["fired k1"]
    assert [seen(each) for each in sink.asked_again] == [["fired k1", "fired k2"]]


async def test_to_send_again_that_fails_counts_as_a_failure() -> None:
    """The sink is left alone for as long; then it is sent what fires by then."""
    sink = Sending(ConnectionError())
    office = DeliveryHarness({"sink": sink})

    await office.tell(firing=[make_event()])
    await office.tell(make_event(key="k2"), firing=[make_event(), make_event(key="k2")])
    assert seen(sink.asked) == []

    await office.after(1)
    assert seen(sink.taken) == ["fired k2"]
    assert [seen(each) for each in sink.asked_again] == [["fired k1"], ["fired k1", "fired k2"]]
    assert office.tallied == [("sink", "error"), ("sink", "ok")]
    assert office.reported == [("sink sink", "ConnectionError")]


async def test_a_sink_that_refuses_one_of_what_fires_is_not_left_alone() -> None:
    """It takes the others."""
    sink = Sending(Rejected("no"))
    office = DeliveryHarness({"sink": sink})

    await office.tell(firing=[make_event()])
    await office.tell(make_event(key="k2"))

    assert seen(sink.taken) == ["fired k2"]
    assert office.tallied == [("sink", "rejected"), ("sink", "ok")]
