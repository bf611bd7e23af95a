"""One sink: what it does not take is given again, later, in order, and not for ever."""

from __future__ import annotations

import logging

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenpulse_mw.alerts import AlertEvent
from tokenpulse_mw.alerts.delivery.sink_worker import backoff
from tokenpulse_mw.alerts.sinks import Rejected, RetryLater

from .office import DeliveryHarness, Taking, make_event, seen

pytestmark = pytest.mark.anyio


_HOUR = 3600.0


async def test_a_sink_is_told_once_and_nothing_is_kept() -> None:
    """What was taken is done with."""
    sink = Taking()
    office = DeliveryHarness({"sink": sink})

    await office.tell(make_event())
    await office.after(_HOUR)

    assert seen(sink.asked) == ["fired k1"]
    assert (await office.kept()).notifications == ()
    assert office.tallied == [("sink", "ok")]


async def test_the_wait_doubles_with_every_failure() -> None:
    """A sink that is down is left alone ever longer, and asked once a minute in the end."""
    sink = Taking(*[ConnectionError()] * 9)
    office = DeliveryHarness({"sink": sink})
    await office.publish(make_event())
    asked_at: list[float] = []

    for second in range(250):
        before = len(sink.asked)
        await office.outbox.attempt()
        asked_at += [second] * (len(sink.asked) - before)
        office.advance(1)

    assert asked_at == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]
    assert seen(sink.taken) == ["fired k1"]
    assert len({each.id for each in sink.asked}) == 1


async def test_a_sink_says_itself_when_it_is_to_be_asked_again() -> None:
    """That holds for all that it is to be told, however many alerts there are."""
    sink = Taking(RetryLater("busy", after=120))
    office = DeliveryHarness({"sink": sink})
    await office.tell(make_event(), make_event(key="k2"))

    await office.after(119)
    await office.tell(make_event(key="k3"))
    assert seen(sink.asked) == ["fired k1"]

    await office.after(1)
    assert sorted(seen(sink.taken)) == ["fired k1", "fired k2", "fired k3"]


async def test_while_a_sink_is_down_one_letter_tries_and_then_all_follow() -> None:
    """A thousand alerts are no thousand attempts a minute."""
    sink = Taking(*[ConnectionError()] * 4)
    office = DeliveryHarness({"sink": sink})
    await office.tell(*(make_event(key=f"k{number}") for number in range(50)))
    assert len(sink.asked) == 1

    await office.after(1)
    await office.after(2)
    await office.after(4)
    assert len(sink.asked) == 4
    assert office.outbox.queue_length() == {("sink",): 50}

    await office.after(8)
    assert len(sink.taken) == 50
    assert office.outbox.queue_length() == {("sink",): 0}


async def test_the_end_of_an_alert_never_overtakes_its_beginning() -> None:
    """It waits until the beginning is taken."""
    sink = Taking(ConnectionError(), ConnectionError())
    office = DeliveryHarness({"sink": sink})
    await office.tell(make_event())
    await office.tell(make_event("resolved", at=1_700_000_060.0))

    await office.after(1)
    await office.after(2)

    assert seen(sink.asked) == ["fired k1", "fired k1", "fired k1", "resolved k1"]


async def test_what_a_sink_refuses_is_a_dead_letter_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """To refuse is no failure: nothing else waits for it, and it is not tried again."""
    sink = Taking(Rejected("too long"))
    office = DeliveryHarness({"sink": sink})

    await office.tell(
        make_event(), make_event("resolved", at=1_700_000_060.0), make_event(key="k2")
    )
    await office.after(_HOUR)

    assert seen(sink.asked) == ["fired k1", "fired k2", "resolved k1"]
    assert await office.dead() == [("trouble:key:k1", "too long")]
    assert sorted(office.tallied) == [("sink", "ok")] * 2 + [("sink", "rejected")]
    assert caplog.messages == ["sink sink was not told that trouble:key:k1 fired: too long"]


async def test_who_fails_for_a_day_is_told_other_things() -> None:
    """What happened yesterday is a dead letter; what happens now is told."""
    sink = Taking(*[ConnectionError("the password is hunter2")] * 1500)
    office = DeliveryHarness({"sink": sink})
    await office.tell(make_event())

    for _ in range(24 * 60):
        await office.after(60)
    assert await office.dead() == []
    await office.after(60)
    assert await office.dead() == [("trouble:key:k1", "ConnectionError")]

    sink.answers = iter([])
    await office.tell(make_event("resolved"))
    await office.after(60)
    assert seen(sink.taken) == ["resolved k1"]


async def test_what_a_sink_said_is_kept_with_what_waits() -> None:
    """Of our own errors the words, of others' only the kind: they may quote what is secret."""
    sink = Taking(RetryLater("it is busy"), ValueError("the password is hunter2"))
    office = DeliveryHarness({"sink": sink})
    began = office.wall()

    await office.tell(make_event())
    (first,) = (await office.kept()).notifications
    await office.after(1)
    (second,) = (await office.kept()).notifications

    assert (first.attempts, first.last_error, first.due_at) == (1, "it is busy", began + 1)
    assert (second.attempts, second.last_error, second.due_at) == (2, "ValueError", began + 3)
    assert first.id == second.id


async def test_a_sink_that_is_busy_is_logged_when_it_begins_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not at each attempt; and it is no failure of ours."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    sink = Taking(RetryLater("busy"), RetryLater("busy"))
    office = DeliveryHarness({"sink": sink})

    await office.tell(make_event(), make_event(key="k2"))
    await office.after(1)
    await office.after(2)

    assert caplog.messages == [
        "sink sink does not take alerts, which wait for it: busy",
        "sink sink takes alerts again; 2 wait for it (seconds=3 failures=2)",
    ]
    assert office.reported == []


async def test_a_sink_that_never_returns_is_given_up_for_now() -> None:
    """The attempt counts as failed when the deadline is over, and is made again."""
    asked: list[AlertEvent] = []

    async def hangs_once(event: AlertEvent) -> None:
        asked.append(event)
        if len(asked) == 1:
            await anyio.sleep_forever()

    office = DeliveryHarness({"sink": hangs_once}, deadline=0.01)
    await office.tell(make_event())
    await office.after(1)

    assert [each.id for each in asked] == [make_event().id] * 2
    assert office.tallied == [("sink", "timeout"), ("sink", "ok")]
    assert office.reported == [("sink sink", "TimeoutError")]


@pytest.mark.parametrize("after", [float("inf"), float("nan"), -5, 1e300])
async def test_a_sink_that_asks_for_an_odd_wait_costs_the_others_nothing(after: float) -> None:
    """What others took is known to be taken."""
    other = Taking()
    office = DeliveryHarness({"odd": Taking(RetryLater("busy", after=after)), "other": other})

    await office.tell(make_event())
    await office.tell(make_event(key="k2"))

    assert seen(other.taken) == ["fired k1", "fired k2"]
    kept = (await office.kept()).notifications
    assert {each.sink for each in kept} <= {"odd"}


_ANSWERS = st.lists(
    st.sampled_from([None, None, ConnectionError(), RetryLater("busy", after=7), Rejected("no")]),
    max_size=30,
)


_KEYS = st.lists(st.lists(st.sampled_from(["k1", "k2"]), max_size=3), max_size=8)


@given(_ANSWERS, _KEYS, st.integers(1, 30))
def test_everything_is_taken_once_and_in_order_or_refused(
    answers: list[Exception | None], rounds: list[list[str]], pace: int
) -> None:
    """Whatever a sink answers, and whenever: nothing is lost, doubled, or out of turn."""
    sink = Taking(*answers)
    published = []

    async def live() -> None:
        office = DeliveryHarness({"sink": sink})
        for number, keys in enumerate(rounds):
            events = [
                make_event("fired", key, episode=f"e{number}-{n}") for n, key in enumerate(keys)
            ]
            published.extend(events)
            await office.tell(*events)
            office.advance(pace)
        for _ in range(40):
            await office.after(60)
        refused = [each.notification.event["id"] for each in await office.store.dead_letters(99)]
        taken = [each.id for each in sink.taken]
        assert sorted(taken + refused) == sorted(each.id for each in published)
        assert (await office.kept()).notifications == ()
        order = [each.id for each in published]
        for key in ("k1", "k2"):
            mine = [order.index(each.id) for each in sink.taken if each.fingerprint.endswith(key)]
            assert mine == sorted(mine)

    anyio.run(live)


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (8, 60), (5000, 60)]
)
def test_the_wait_doubles_up_to_a_minute(failures: int, seconds: float) -> None:
    """However long a sink fails, it is asked once a minute."""
    assert backoff(failures, 1.0) == seconds


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_chance_takes_away_half_at_most(failures: int, jitter: float) -> None:
    """So that gateways which failed together do not all come back together."""
    longest = backoff(failures, 1.0)

    assert longest / 2 <= backoff(failures, jitter) <= longest
