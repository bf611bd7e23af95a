"""Sinks by their names, and a test alert for one of them."""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEvent, Sink
from tokenpulse_mw.alerts.delivery import names_of
from tokenpulse_mw.alerts.sinks import RetryLater

from .office import DeliveryHarness, Taking, make_event, seen


@pytest.mark.anyio
async def test_a_test_alert_is_told_at_once_past_all_that_waits() -> None:
    """To one sink, and nothing of it is kept, or counted, or tried again."""
    sink, other = Taking(RetryLater("no", after=1000)), Taking()
    office = DeliveryHarness({"sink": sink, "other": other})
    await office.tell(make_event(key="k2"))

    assert await office.outbox.test("sink") is None

    test = sink.taken[0]
    assert (test.transition, test.finding.type, test.at) == ("fired", "test", office.wall())
    assert test.finding.severity == "info"
    assert seen(other.asked) == ["fired k2"]
    assert sorted(office.tallied) == [("other", "ok"), ("sink", "error")]


@pytest.mark.parametrize(
    ("error", "said"), [(RetryLater("it is busy"), "it is busy"), (OSError("hunter2"), "OSError")]
)
@pytest.mark.anyio
async def test_what_goes_wrong_with_a_test_alert_is_said(error: Exception, said: str) -> None:
    """And that is all that comes of it."""
    sink = Taking(error)
    office = DeliveryHarness({"sink": sink})

    assert await office.outbox.test("sink") == said
    await office.tell(make_event())

    assert seen(sink.taken) == ["fired k1"]


@pytest.mark.anyio
async def test_a_test_of_a_sink_that_never_returns_ends() -> None:
    """After the deadline of an attempt."""

    async def hangs(event: AlertEvent) -> None:
        await anyio.sleep_forever()

    office = DeliveryHarness({"hangs": hangs}, deadline=0.01)

    assert await office.outbox.test("hangs") == "TimeoutError"


@pytest.mark.anyio
async def test_there_is_no_test_of_a_sink_that_is_none() -> None:
    """Whoever asks hears so."""
    with pytest.raises(KeyError, match="gone"):
        await DeliveryHarness({}).outbox.test("gone")


class Named:
    """A sink with a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, event: AlertEvent) -> None:
        """Take it."""


async def page(event: AlertEvent) -> None:
    """Take it."""


class Often(Named):
    """A sink whose alerts end when they are not sent again in time."""

    resend_every = 4.0

    def __repr__(self) -> str:
        return "Often()"


def test_sinks_are_called_by_their_names_or_by_what_they_are() -> None:
    """Those that would be called alike are numbered, in their order."""
    sinks: list[Sink] = [Taking(), Named("ops"), page, Taking(), Named("ops"), Named("")]

    names = ["Taking", "ops", "page", "Taking-2", "ops-2", "Named"]
    assert list(names_of(sinks, interval=60).items()) == list(zip(names, sinks, strict=True))


def test_no_two_sinks_have_one_name() -> None:
    """Not even where somebody has numbered his own."""
    sinks = [Named("ops"), Named("ops"), Named("ops-2")]

    assert len(names_of(sinks, interval=60)) == 3


def test_a_sink_that_wants_to_hear_more_often_than_there_are_rounds_is_refused() -> None:
    """Its alerts would end and begin again and again."""
    assert list(names_of([Often("ops")], interval=4)) == ["ops"]

    with pytest.raises(
        ValueError,
        match=r"^resend_every of Often\(\) must be at least the interval .* 5 s, got 4$",
    ):
        names_of([Often("ops")], interval=5)
