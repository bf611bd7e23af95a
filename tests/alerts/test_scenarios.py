"""Hours and days of a gateway in trouble: each alert is told as fired once, and as resolved once.

The seed's detector had a new row for the same cause as soon as the last one was five minutes old:
up to twelve an hour for each alert, twenty when somebody acknowledged them, and none ever ended.
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
BY_THE_DAY = "traffic_spike:master_rpd:master:acme"

# What a breach is: twelve requests a minute of a master half of them failed,
# all of them slow, and twelve more that the limit refused.
EVERY_ALERT = {
    "rate_limit:master:acme",
    "error_spike:key:k1",
    "high_error_rate:provider:claude",
    "high_latency:provider:claude",
    "rate_limit_exceeded:provider:claude",
    "traffic_spike:master_rpm:master:acme",
    BY_THE_DAY,
}

pytestmark = pytest.mark.slow


class Gateway:
    """A gateway with one tenant, minute by minute; its engine can be restarted."""

    def __init__(self, *, master_rpd: int) -> None:
        self.wall = FakeClock(1_700_000_000.0)
        self.heard = RecordingSink()
        self._thresholds = Thresholds(master_rpm=15, master_rpd=master_rpd)
        self._store = MemoryAlertStore(wall=self.wall)
        self.restart()

    def restart(self) -> None:
        """Begin with an engine that has seen nothing, in a process with a clock of its own."""
        began = self.wall() - 5.0
        self.engine = AlertEngine(
            sinks=[self.heard],
            thresholds=self._thresholds,
            store=self._store,
            clock=lambda: self.wall() - began,
            wall=self.wall,
        )

    async def breach(self, minutes: int) -> None:
        """Too much traffic, which fares badly."""
        for _ in range(minutes):
            for second in range(0, 60, 5):
                self.wall.advance(5)
                self._request(status=500 if second % 2 else 200, duration=9.0)
                self._request(status=429, limited=True)
            await self.engine.evaluate()

    async def calm(self, minutes: int) -> None:
        """Nothing of that any more, but a request of somebody else's now and then."""
        for minute in range(minutes):
            self.wall.advance(60)
            if minute % 10 == 0:
                self.engine.observe(exchange(tenant="umbrella", api_key="k2", provider="gemini"))
            await self.engine.evaluate()

    async def alerts(self) -> list[AlertRecord]:
        """All that there are, or were."""
        return list((await self._store.alerts(limit=1000)).items)

    def _request(self, **fields: object) -> None:
        self.engine.observe(exchange(tenant="acme", api_key="k1", provider="claude", **fields))

    def told(self) -> dict[str, list[str]]:
        """What was told of each alert, reminders apart."""
        return {
            each: self.heard.transitions_of(each)
            for each in {one.fingerprint for one in self.heard.events}
        }


ONCE = {each: ["fired", "resolved"] for each in EVERY_ALERT}


def test_an_hour_of_breach() -> None:
    """Seven alerts, fourteen messages; the seed had 84 rows, all of them active for ever."""

    async def hour() -> None:
        gateway = Gateway(master_rpd=1000)
        await gateway.breach(HOUR)
        assert all(told == ["fired"] for told in gateway.told().values())
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.told() == ONCE
        assert {each.state for each in await gateway.alerts()} == {"resolved"}
        assert len(await gateway.alerts()) == len(EVERY_ALERT)

    anyio.run(hour)


def test_a_day_of_breach() -> None:
    """It is told no more often than an hour; the seed had some 1,800 rows of it."""

    async def day() -> None:
        gateway = Gateway(master_rpd=20_000)
        await gateway.breach(DAY)
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.told() == ONCE

    anyio.run(day)


def test_a_breach_that_is_acknowledged() -> None:
    """Nobody is reminded of it from then on; the seed took that for a reason to fire anew."""

    async def acknowledged() -> None:
        gateway = Gateway(master_rpd=1000)
        await gateway.breach(50)
        before = gateway.heard.transitions.count("reminded")
        for alert in await gateway.alerts():
            await gateway.engine.controls.acknowledge(alert.id, by="ada")
        await gateway.breach(30)
        await gateway.calm(DAY + 2 * HOUR)

        assert before
        assert gateway.heard.transitions.count("reminded") == before
        assert gateway.told() == ONCE

    anyio.run(acknowledged)


def test_a_breach_with_three_restarts() -> None:
    """Alerts go on where they were, and so do those that had waited to fire."""

    async def restarted() -> None:
        gateway = Gateway(master_rpd=1000)
        for minutes in (4, 43, 3, 10):
            await gateway.breach(minutes)
            gateway.restart()
        await gateway.calm(DAY + 2 * HOUR)

        assert gateway.told() == ONCE
        assert len(await gateway.alerts()) == len(EVERY_ALERT)

    anyio.run(restarted)
