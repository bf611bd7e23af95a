"""Hours and days of a gateway in trouble: each alert fires once and is resolved once.

The seed's detector added a row for the same cause every five minutes: up to twelve an hour for each
alert, twenty if alerts were acknowledged, and none was ever resolved.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from tokenpulse_mw import Exchange
from tokenpulse_mw.alerts import AlertEngine, Thresholds, quota_exceeded
from tokenpulse_mw.alerts.store import AlertRecord, MemoryAlertStore

from ..support.clock import FakeClock
from .exchanges import exchange
from .findings import RecordingSink
from .store.leadership import release

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
        self._start()

    async def restart(self) -> None:
        """Replace the engine by another process, after the lease of this one has lapsed."""
        await release(self._store)
        self._start()

    def _start(self) -> None:
        """Start an engine with a monotonic clock from 5 seconds."""
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
            await gateway.restart()
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.transitions() == FIRED_AND_RESOLVED_ONCE
        assert len(await gateway.alerts()) == len(EVERY_ALERT)

    anyio.run(restarted)


# Traffic that reaches a threshold now and then: by name, the thresholds, and what happens in each
# second.
BURSTS: dict[str, tuple[dict[str, Any], Callable[[int], list[Exchange]]]] = {
    "rate_limit:master:acme": (
        {},
        lambda second: [] if second % 3 else [exchange(tenant="acme", status=429, limited=True)],
    ),
    "traffic_spike:master_rpm:master:acme": (
        {"master_rpm": 30},
        lambda second: [] if second % 600 > 60 else [exchange(tenant="acme")],
    ),
    "traffic_spike:global_qps:system:0": (
        {"global_qps": 1},
        lambda second: [] if second % 60 > 10 else [exchange(), exchange()],
    ),
    "rate_limit_exceeded:provider:claude": (
        {},
        lambda second: [] if second % 600 > 200 else [exchange(provider="claude", status=429)],
    ),
    "provider_down:apikey:c1": (
        {},
        lambda second: [
            exchange(
                provider="claude",
                credential="c1",
                status=502 if second % 29 and second < 1790 else 200,
            )
        ],
    ),
    "error_spike:key:k1": (
        {"error_rate": 0.1, "error_evidence": False, "error_window": 60},
        lambda second: [exchange(api_key="k1", status=200 if second % 100 < 80 else 500)],
    ),
    "high_error_rate:provider:claude": (
        {"error_window": 60, "provider_error_hold": 10},
        lambda second: [
            exchange(provider="claude", status=500 if second % 100 > 80 and second % 2 else 200)
        ],
    ),
    "high_latency:provider:claude": (
        {"error_window": 60, "provider_latency_hold": 10},
        lambda second: [
            exchange(provider="claude", time_to_first_byte=1.0 if second % 100 < 80 else 9.0)
        ],
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("fingerprint", BURSTS)
async def test_cause_that_comes_and_goes_for_half_an_hour_is_one_alert(fingerprint: str) -> None:
    """An evaluation in every second fires the alert once and resolves it once."""
    thresholds, exchanges_at = BURSTS[fingerprint]
    clock, sink = FakeClock(), RecordingSink()
    engine = AlertEngine(sinks=[sink], thresholds=Thresholds(**thresholds), clock=clock, wall=clock)

    for second in range(3600):
        for finished in exchanges_at(second) if second < 1800 else ():
            engine.observe(finished)
        if second < 1800 or not second % 60:
            await engine.evaluate()
        clock.advance(1)

    severity_changes = {"escalated", "deescalated"}
    transitions = sink.transitions_of(fingerprint)
    assert [name for name in transitions if name not in severity_changes] == ["fired", "resolved"]


@pytest.mark.anyio
async def test_quota_of_a_minute_that_is_used_up_in_each_minute_is_one_alert() -> None:
    """The reset of the quota does not resolve the alert."""
    clock, sink = FakeClock(), RecordingSink()
    used = 0
    rule = quota_exceeded(lambda: [("k1", used, 100)])
    engine = AlertEngine([rule], [sink], clock=clock, wall=clock)

    for second in range(0, 1800, 10):
        used = 20 * (second % 60 // 10) if second < 900 else 0
        await engine.evaluate()
        clock.advance(10)

    assert sink.transitions_of("quota_exceeded:key:k1")[-1] == "resolved"
    assert sink.transitions_of("quota_exceeded:key:k1").count("fired") == 1
