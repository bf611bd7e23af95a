"""A running engine with a real Alertmanager: what fires there is what fires here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import anyio
import httpx2
import pytest

from tokenpulse_mw.alerts import AlertEngine, Finding, Subject, Thresholds, Traffic
from tokenpulse_mw.alerts.sinks import AlertmanagerSink

from ..support.receiver import Receiver
from ..support.servers import Server
from ..support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.anyio

_ROUND = 0.3  # seconds
_AGAIN = 2.5  # seconds; an alert that is not sent again lasts four times as long


class Troubles:
    """A rule that finds what a test says."""

    def __init__(self) -> None:
        self.keys: Sequence[str] = ()

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        for key in self.keys:
            subject = Subject("key", key)
            yield Finding(type="trouble", subject=subject, severity="warning", title="", message="")


def engine_of(rule: Troubles, server: Server) -> AlertEngine:
    """An engine that keeps the Alertmanager told."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=_AGAIN)
    return AlertEngine([rule], [sink], interval=_ROUND)


async def until(holds: Callable[[], bool], what: str) -> None:
    """Wait, while the engine runs."""
    await anyio.to_thread.run_sync(partial(wait_until, holds, what))


def held(server: Server) -> list[dict[str, Any]]:
    """The alerts that the Alertmanager holds to be firing; none where it is down."""
    try:
        answer = httpx2.get(f"http://{server.place}/api/v2/alerts", timeout=PATIENCE)
    except httpx2.TransportError:
        return []
    found: list[dict[str, Any]] = answer.json() if answer.status_code == 200 else []
    return sorted(found, key=lambda each: str(each["labels"]["subject_id"]))


def keys(server: Server) -> list[str]:
    """Whom they are about."""
    return [each["labels"]["subject_id"] for each in held(server)]


def notified(receiver: Receiver) -> list[str]:
    """What people were told."""
    return [each["status"] for request in receiver.received for each in request.json["alerts"]]


async def test_an_alert_lasts_in_alertmanager_as_long_as_in_the_engine(
    server: Server, receiver: Receiver
) -> None:
    """It is told once, sent again for as long as it fires, and ends when it is over."""
    rule = Troubles()
    async with engine_of(rule, server):
        rule.keys = ["k1"]
        await until(lambda: notified(receiver) == ["firing"], "it does not fire")
        first = held(server)[0]

        # Each time that it is sent again moves its end on.
        await until(lambda: lasted(server, first) > 1.5 * _AGAIN, "it is not sent again")
        assert keys(server) == ["k1"]
        assert notified(receiver) == ["firing"]

        rule.keys = []
        await until(lambda: notified(receiver) == ["firing", "resolved"], "it is not resolved")
        assert keys(server) == []


async def test_an_alertmanager_that_was_down_has_what_fires_when_it_is_back(
    server: Server, receiver: Receiver
) -> None:
    """What fired before, what began meanwhile; and not what ended meanwhile."""
    rule = Troubles()
    async with engine_of(rule, server) as engine:
        rule.keys = ["gone", "old"]
        await until(lambda: keys(server) == ["gone", "old"], "they do not fire")

        server.kill()
        rule.keys = ["new", "old"]
        await until(lambda: engine.queue_length() == {("AlertmanagerSink",): 2}, "nothing waits")
        await anyio.to_thread.run_sync(server.start)

        await until(lambda: keys(server) == ["new", "old"], "they do not come back")
        await until(lambda: engine.queue_length() == {("AlertmanagerSink",): 0}, "something waits")
        assert keys(server) == ["new", "old"]

        rule.keys = []
        await until(lambda: keys(server) == [], "they are not resolved")


def lasted(server: Server, first: dict[str, Any]) -> float:
    """Seconds by which the end of an alert has moved on since it was `first` seen."""
    now = held(server)
    return seconds(now[0]["endsAt"]) - seconds(first["endsAt"]) if now else 0.0


def seconds(time: str) -> float:
    """Seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()
