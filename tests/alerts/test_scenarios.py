"""Hours and days of a gateway in trouble: each alert fires once and is resolved once.

The seed's detector added a row for the same cause every five minutes: up to twelve an hour for each
alert, twenty if alerts were acknowledged, and none was ever resolved.
"""

from __future__ import annotations

import anyio
import pytest

from tokenpulse_mw.alerts import AlertEngine, Thresholds
from tokenpulse_mw.alerts.store import AlertRecord, MemoryAlertStore

from ..support.clock import FakeClock
from .exchanges import exchange
from .findings import RecordingSink

HOUR = 60  # minutes
DAY = 24 * HOUR

# The alerts of a breach: each minute a tenant sends 24 requests, and the limiter rejects half of
# them. Half of the others fail, and all of those are slow.
EVERY_ALERT = {
    "rate_limit:master:acme",
    "error_spike:key:k1",
    "high_error_rate:provider:claude",
    "high_latency:provider:claude",
    "rate_limit_exceeded:provider:claude",
    "traffic_spike:master_rpm:master:acme",
    "traffic_spike:master_rpd:master:acme",
}
FIRED_AND_RESOLVED_ONCE = {fingerprint: ["fired", "resolved"] for fingerprint in EVERY_ALERT}

pytestmark = pytest.mark.slow


class Gateway:
    """A gateway with one tenant, whose engine can be restarted."""

    def __init__(self, *, master_rpd: int) -> None:
        self.wall = FakeClock(1_700_000_000.0)
        self.sink = RecordingSink()
        self._thresholds = Thresholds(master_rpm=15, master_rpd=master_rpd)
        self._store = MemoryAlertStore(wall=self.wall)
        self.restart()

    def restart(self) -> None:
        """Start an engine without traffic, with a monotonic clock from 5 seconds."""
        started_at = self.wall() - 5.0
        self.engine = AlertEngine(
            sinks=[self.sink],
            thresholds=self._thresholds,
            store=self._store,
            clock=lambda: self.wall() - started_at,
            wall=self.wall,
        )

    async def breach(self, minutes: int) -> None:
        """Send the requests of a breach, and evaluate each minute."""
        for _ in range(minutes):
            for second in range(0, 60, 5):
                self.wall.advance(5)
                self._request(status=500 if second % 2 else 200, duration=9.0)
                self._request(status=429, limited=True)
            await self.engine.evaluate()

    async def calm(self, minutes: int) -> None:
        """Evaluate each minute, with a few requests of another tenant."""
        for minute in range(minutes):
            self.wall.advance(60)
            if minute % 10 == 0:
                self.engine.observe(exchange(tenant="umbrella", api_key="k2", provider="gemini"))
            await self.engine.evaluate()

    async def alerts(self) -> list[AlertRecord]:
        """Return all stored alerts."""
        return list((await self._store.alerts(limit=1000)).items)

    def _request(self, **fields: object) -> None:
        self.engine.observe(exchange(tenant="acme", api_key="k1", provider="claude", **fields))

    def transitions(self) -> dict[str, list[str]]:
        """Return the notified transitions of each alert, without reminders."""
        fingerprints = {event.fingerprint for event in self.sink.events}
        return {fingerprint: self.sink.transitions_of(fingerprint) for fingerprint in fingerprints}


def test_breach_of_an_hour_fires_and_resolves_each_alert_once() -> None:
    """Seven alerts cause 14 notifications; the seed had 84 rows, all active for ever."""

    async def hour() -> None:
        gateway = Gateway(master_rpd=1000)
        await gateway.breach(HOUR)
        assert all(transitions == ["fired"] for transitions in gateway.transitions().values())
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.transitions() == FIRED_AND_RESOLVED_ONCE
        assert {alert.state for alert in await gateway.alerts()} == {"resolved"}
        assert len(await gateway.alerts()) == len(EVERY_ALERT)

    anyio.run(hour)


def test_breach_of_a_day_fires_and_resolves_each_alert_once() -> None:
    """A day causes as many notifications as an hour; the seed had some 1,800 rows."""

    async def day() -> None:
        gateway = Gateway(master_rpd=20_000)
        await gateway.breach(DAY)
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.transitions() == FIRED_AND_RESOLVED_ONCE

    anyio.run(day)


def test_acknowledged_breach_has_no_more_reminders() -> None:
    """The alerts do not fire again; in the seed an acknowledgement made them fire again."""

    async def acknowledged() -> None:
        gateway = Gateway(master_rpd=1000)
        await gateway.breach(50)
        reminders = gateway.sink.transitions.count("reminded")
        for alert in await gateway.alerts():
            await gateway.engine.controls.acknowledge(alert.id, by="ada")
        await gateway.breach(30)
        await gateway.calm(DAY + 2 * HOUR)

        assert reminders
        assert gateway.sink.transitions.count("reminded") == reminders
        assert gateway.transitions() == FIRED_AND_RESOLVED_ONCE

    anyio.run(acknowledged)


def test_breach_with_three_restarts_fires_and_resolves_each_alert_once() -> None:
    """Restored alerts continue, including pending ones."""

    async def restarted() -> None:
        gateway = Gateway(master_rpd=1000)
        for minutes in (4, 43, 3, 10):
            await gateway.breach(minutes)
            gateway.restart()
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.transitions() == FIRED_AND_RESOLVED_ONCE
        assert len(await gateway.alerts()) == len(EVERY_ALERT)

    anyio.run(restarted)
