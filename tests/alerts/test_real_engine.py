"""A running engine with a real Alertmanager: both have the same firing alerts."""

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

_INTERVAL = 0.3  # seconds
_RESEND_EVERY = 2.5  # seconds; an alert expires after four times as long


class KeyRule:
    """A rule that finds the keys in `keys`."""

    def __init__(self) -> None:
        self.keys: Sequence[str] = ()

    def __call__(self, traffic: Traffic, thresholds: Thresholds, now: float) -> Iterator[Finding]:
        for key in self.keys:
            subject = Subject("key", key)
            yield Finding(type="trouble", subject=subject, severity="warning", title="", message="")


def engine_of(rule: KeyRule, server: Server) -> AlertEngine:
    """Return an engine that sends its alerts to an Alertmanager."""
    sink = AlertmanagerSink(f"http://{server.place}", resend_every=_RESEND_EVERY)
    return AlertEngine([rule], [sink], interval=_INTERVAL)


async def until(condition: Callable[[], bool], failure: str) -> None:
    """Wait for a condition while the engine runs."""
    await anyio.to_thread.run_sync(partial(wait_until, condition, failure))


def firing_alerts(server: Server) -> list[dict[str, Any]]:
    """Return the firing alerts of an Alertmanager by key; none if it is down."""
    try:
        response = httpx2.get(f"http://{server.place}/api/v2/alerts", timeout=PATIENCE)
    except httpx2.TransportError:
        return []
    alerts: list[dict[str, Any]] = response.json() if response.status_code == 200 else []
    return sorted(alerts, key=lambda alert: str(alert["labels"]["subject_id"]))


def firing_keys(server: Server) -> list[str]:
    """Return the keys of the firing alerts."""
    return [alert["labels"]["subject_id"] for alert in firing_alerts(server)]


def statuses(receiver: Receiver) -> list[str]:
    """Return the status of each alert that Alertmanager has reported to a receiver."""
    return [alert["status"] for request in receiver.received for alert in request.json["alerts"]]


async def test_alert_lasts_in_alertmanager_as_long_as_in_the_engine(
    server: Server, receiver: Receiver
) -> None:
    """The sink resends a firing alert before it expires, and Alertmanager notifies once."""
    rule = KeyRule()
    async with engine_of(rule, server):
        rule.keys = ["k1"]
        await until(lambda: statuses(receiver) == ["firing"], "the alert does not fire")
        first = firing_alerts(server)[0]

        # Each resend moves the end of the alert.
        await until(lambda: extension(server, first) > 1.5 * _RESEND_EVERY, "there is no resend")
        assert firing_keys(server) == ["k1"]
        assert statuses(receiver) == ["firing"]

        rule.keys = []
        await until(
            lambda: statuses(receiver) == ["firing", "resolved"], "the alert is not resolved"
        )
        assert firing_keys(server) == []


async def test_restarted_alertmanager_gets_all_firing_alerts(
    server: Server, receiver: Receiver
) -> None:
    """Alertmanager gets the old and new alerts, and none that was resolved during its outage."""
    rule = KeyRule()
    async with engine_of(rule, server) as engine:
        rule.keys = ["gone", "old"]
        await until(lambda: firing_keys(server) == ["gone", "old"], "the alerts do not fire")

        server.kill()
        rule.keys = ["new", "old"]
        queue = ("AlertmanagerSink",)
        await until(lambda: engine.queue_length() == {queue: 2}, "nothing is queued")
        await anyio.to_thread.run_sync(server.start)

        await until(lambda: firing_keys(server) == ["new", "old"], "the alerts do not come back")
        await until(lambda: engine.queue_length() == {queue: 0}, "the queue is not empty")
        assert firing_keys(server) == ["new", "old"]

        rule.keys = []
        await until(lambda: firing_keys(server) == [], "the alerts are not resolved")


def extension(server: Server, first: dict[str, Any]) -> float:
    """Return the seconds by which the end of the firing alert has moved since `first`."""
    alerts = firing_alerts(server)
    return epoch_seconds(alerts[0]["endsAt"]) - epoch_seconds(first["endsAt"]) if alerts else 0.0


def epoch_seconds(time: str) -> float:
    """Return seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()
