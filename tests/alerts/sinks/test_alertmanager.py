"""AlertmanagerSink beside receivers that answer as an Alertmanager may."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from io import BufferedIOBase
from threading import Event
from typing import Any

import pytest

from tests.alerts.sinks.events import AT, event
from tests.support.clock import FakeClock
from tests.support.receiver import Receiver, answering
from tests.support.servers import free_port
from tokenpulse_mw.alerts import AlertEvent, Subject
from tokenpulse_mw.alerts.sinks import AlertmanagerSink, Later, Rejected


def about(*keys: str, **fields: Any) -> list[AlertEvent]:
    """One event for each key."""
    return [event(subject=Subject("key", key), **fields) for key in keys]


def keys(batches: Iterable[Any]) -> list[list[str]]:
    """Which keys each request was about."""
    return [[alert["labels"]["subject_id"] for alert in each.json] for each in batches]


class Picky(Receiver):
    """Refuses requests in which there is a certain key."""

    def __init__(self, key: str, status: int) -> None:
        super().__init__(self._judge)
        self._key = key.encode()
        self._status = status

    def _judge(self, out: BufferedIOBase, ending: Event) -> bool:
        bad = self._key in self.received[-1].body
        return answering(self._status if bad else 200)(out, ending)


@pytest.mark.parametrize("path", ["", "/", "/am", "/am/api/v2/alerts"])
@pytest.mark.anyio
async def test_alerts_go_to_the_api_v2(path: str) -> None:
    """Below the path that the Alertmanager has, if it has one."""
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url + path)
        await sink(event())
        await sink.aclose()

    start = "/am" if "am" in path else ""
    assert [each.path for each in receiver.received] == [f"{start}/api/v2/alerts"]
    assert repr(sink) == f"AlertmanagerSink([{receiver.url!r}])"


@pytest.mark.anyio
async def test_every_alertmanager_is_told_everything() -> None:
    """They sort out among themselves who notifies; a balancer between would break that."""
    with Receiver() as one, Receiver() as other:
        sink = AlertmanagerSink([one.url, other.url], wall=FakeClock(AT))
        await sink(event())
        await sink.resend(about("k2"), AT)
        await sink.aclose()

    assert [each.json for each in one.received] == [each.json for each in other.received]
    assert keys(one.received) == [["k1"], ["k2"]]


@pytest.mark.anyio
async def test_what_fires_is_sent_again_when_it_is_due() -> None:
    """Not in each round, and with a later end each time."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, resend_every=60, wall=clock)
        await sink(event())
        for seconds in (30, 30, 30, 30):
            clock.advance(seconds)
            await sink.resend(about("k1"), clock())
        await sink.aclose()

    ends = [each.json[0]["endsAt"] for each in receiver.received]
    assert ends == [
        "2026-01-02T03:08:05.678Z",
        "2026-01-02T03:09:05.678Z",
        "2026-01-02T03:10:05.678Z",
    ]


@pytest.mark.anyio
async def test_what_is_resolved_is_not_sent_again() -> None:
    """Unless it fires again."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, wall=clock)
        await sink(event())
        await sink(event("resolved"))
        await sink.resend([event("resolved")], clock())
        await sink.resend(about("k1"), clock())
        await sink.aclose()

    assert len(receiver.received) == 3


@pytest.mark.anyio
async def test_a_new_severity_is_due_at_once() -> None:
    """It is an alert of its own there; the old one is not sent again."""
    clock = FakeClock(AT)
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url, wall=clock)
        await sink(event())
        await sink.resend([event("escalated", "critical", previous="warning")], clock())
        await sink(event("escalated", "critical", previous="warning"))
        await sink.resend([event("reminded", "critical")], clock())
        await sink.aclose()

    sent = [[alert["labels"]["severity"] for alert in each.json] for each in receiver.received]
    assert sent == [["warning"], ["critical"], ["warning", "critical"]]


@pytest.mark.anyio
async def test_many_alerts_are_sent_in_parts() -> None:
    """No request grows without a bound."""
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url)
        await sink.resend(about(*(f"k{number}" for number in range(600))), AT)
        await sink.aclose()

    assert [len(each.json) for each in receiver.received] == [250, 250, 100]


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.anyio
async def test_one_bad_alert_does_not_spoil_the_others(status: int) -> None:
    """A batch that is refused is halved until only what is bad is left."""
    with Picky("k5", status) as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(Rejected, match=f"answered {status} to an alert 'error_spike'"):
            await sink.resend(about(*(f"k{number}" for number in range(8))), AT)
        await sink.aclose()

    taken = [key for batch in keys(receiver.received) if "k5" not in batch for key in batch]
    assert sorted(taken) == ["k0", "k1", "k2", "k3", "k4", "k6", "k7"]
    assert len(receiver.received) == 7


@pytest.mark.parametrize(("status", "kind"), [(404, Rejected), (401, Rejected), (503, Later)])
@pytest.mark.anyio
async def test_an_answer_that_is_about_no_alert_is_for_all(
    status: int, kind: type[Exception]
) -> None:
    """There is no use in asking with each of them."""
    with Receiver(answering(status)) as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(kind):
            await sink.resend(about("k1", "k2"), AT)
        with pytest.raises(kind):
            await sink(event())
        await sink.aclose()

    assert len(receiver.received) == 2


@pytest.mark.anyio
async def test_one_that_is_down_gets_what_fires_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The event is taken, since the other has it; the log says once that one is down."""
    caplog.set_level(logging.INFO, logger="tokenpulse_mw.alerts")
    clock = FakeClock(AT)
    with Receiver() as up, Receiver(answering(503)) as down:
        sink = AlertmanagerSink([up.url, down.url], wall=clock)
        await sink(event())
        await sink.resend(about("k1"), clock())
        down.answer = answering()
        await sink.resend(about("k1"), clock())
        await sink.resend(about("k1"), clock())
        await sink.aclose()

    assert len(up.received) == 1
    assert len(down.received) == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"Alertmanager {down.url} cannot be told of all alerts: {down.url} answered 503",
        f"Alertmanager {down.url} is told of all alerts again (seconds=0 failures=2)",
    ]


@pytest.mark.anyio
async def test_while_there_is_hope_nothing_is_rejected() -> None:
    """One refuses the event for good, the other cannot be asked at present."""
    with Receiver(answering(403)) as receiver:
        sink = AlertmanagerSink([receiver.url, f"http://127.0.0.1:{free_port()}"])
        with pytest.raises(Later):
            await sink(event())
        await sink.aclose()


@pytest.mark.anyio
async def test_an_event_that_makes_no_alert_is_rejected_and_never_sent_again() -> None:
    """The others of its round are."""
    broken = event(at=float("nan"))
    with Receiver() as receiver:
        sink = AlertmanagerSink(receiver.url)
        with pytest.raises(Rejected, match="makes no alert"):
            await sink(broken)
        await sink.resend([broken, *about("k2")], AT)
        await sink.aclose()

    assert keys(receiver.received) == [["k2"]]
