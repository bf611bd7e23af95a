"""Dashboard of a process whose clocks and requests a test controls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tokenpulse_mw import HttpMetrics
from tokenpulse_mw.dashboard import Dashboard, EngineFacts, Facts, Sources, StoreFacts, schemas
from tokenpulse_mw.dashboard.fleet import SampleStore
from tokenpulse_mw.exchange import Exchange
from tokenpulse_mw.usage import TokenUsage
from tokenpulse_mw.web.auth import bearer

TOKEN = "token-of-ada"
INTERVAL = 15.0
START = 1_800_000_000.0  # the beginning of a slot


def exchange(**values: Any) -> Exchange:
    """Return a finished exchange; 200 after a second by default."""
    usage = {"usage": TokenUsage(input=100, output=20), "usage_source": "reported", "model": "m"}
    fields: dict[str, Any] = {
        "method": "POST",
        "started": 0.0,
        "route": "/chat",
        "status": 200,
        "provider": "claude",
        "duration": 1.0,
        "time_to_first_byte": 0.5,
    }
    status = values.get("status", 200)
    if status == 200:
        fields |= usage
    elif status >= 500:
        fields["fault"] = "provider"
    return Exchange(**{**fields, **values})


class Clocks:
    """A monotonic clock and a wall clock that move together, or not."""

    def __init__(self) -> None:
        self.monotonic, self.wall = 1000.0, START

    def advance(self, seconds: float) -> None:
        """Move both."""
        self.monotonic += seconds
        self.wall += seconds


@dataclass
class Board:
    """A dashboard and what its sources return; a test changes the attributes."""

    clocks: Clocks = field(default_factory=Clocks)
    metrics: HttpMetrics = field(
        default_factory=lambda: HttpMetrics(CollectorRegistry(), buckets=(0.1, 1.0, 10.0))
    )
    store: SampleStore | None = None
    member: str = ""
    engine: EngineFacts = field(default_factory=EngineFacts)
    stored: StoreFacts | Exception = field(default_factory=StoreFacts)
    checks: list[schemas.Check] = field(default_factory=list)
    tenants: list[schemas.Tenant] = field(default_factory=list)
    active: dict[str, bool] = field(default_factory=dict)
    providers: list[str] = field(default_factory=list)
    facts: Facts = field(default_factory=Facts)
    requests: list[schemas.Request] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    counts_tenants: bool = True

    def __post_init__(self) -> None:
        self.dashboard = Dashboard(
            Sources(
                series=self._series,
                scope=lambda: schemas.Scope("process", 1, 0),
                service="gateway",
                version="1.2.3",
                providers=lambda: self.providers,
                active=lambda: self.active,
                checks=self._checks,
                log_level=lambda: "INFO",
                engine=lambda: self.engine,
                store=self._stored,
                tenants=self._tenants if self.counts_tenants else None,
                facts=self._facts,
                requests=lambda limit: self.requests[:limit],
            ),
            store=self.store,
            clock=lambda: self.clocks.monotonic,
            wall=lambda: self.clocks.wall,
            **{"interval": INTERVAL, **self.options},
        )
        app = Starlette(
            routes=[*self.dashboard.static_routes(), *self.dashboard.routes(bearer(TOKEN))]
        )
        self.client = TestClient(app, headers={"authorization": f"Bearer {TOKEN}"})

    async def step(self, *exchanges: Exchange, seconds: float = INTERVAL) -> None:
        """Count exchanges, and take a sample at the end of the slot."""
        for finished in exchanges:
            self.metrics.on_open()
            self.metrics(finished)
        self.clocks.advance(seconds)
        await self.dashboard.sampler.sample()

    def get(self, path: str) -> Any:
        """Return the body of a response that must be 200."""
        response = self.client.get(f"/admin/live{path}")
        assert response.status_code == 200, response.text
        return response.json()

    async def _series(self) -> Sequence[Any]:
        return self.metrics.series()

    async def _checks(self) -> list[schemas.Check]:
        return self.checks

    async def _stored(self) -> StoreFacts:
        if isinstance(self.stored, Exception):
            raise self.stored
        return self.stored

    async def _tenants(self) -> list[schemas.Tenant]:
        return self.tenants

    def _facts(self) -> Facts:
        return Facts(
            member=self.member,
            in_flight=schemas.InFlight(
                self.facts.in_flight.count,
                self.facts.in_flight.oldest_seconds,
                self.facts.in_flight.stalled,
            ),
            upstream=self.facts.upstream,
            streaks=self.facts.streaks,
            tenant_names=self.facts.tenant_names,
        )
