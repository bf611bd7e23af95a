"""Sources of the live page: what it shows of the metrics, the alerts and the health."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from anyio import to_thread
from anyio.lowlevel import checkpoint
from starlette.routing import BaseRoute

from ..alerts import AlertEngine, AlertEvent, MemoryAlertStore
from ..alerts.rules import idle_limits
from ..alerts.store import FleetState
from ..alerts.store.usage import UsageQuery, UsageRecord
from ..config import Settings
from ..dashboard import Dashboard, EngineFacts, Facts, Sources, StoreFacts, Streak, schemas
from ..dashboard.views import to_time
from ..exchange import Providers, RequestInProgress, RequestsInProgress, UpstreamQuotas
from ..health import HealthRouter
from ..logs import log_level
from ..metrics import HttpMetrics
from ..web.auth import Authorize

_MAX_STALLED = 100  # that are counted
_MAX_TENANTS = 50_000
_MAX_NAMES = 200  # of tenants, for the other processes
_MAX_NAME_CHARS = 200  # with the id
_TENANTS_PER_STEP = 500
_PREFIX = "/admin"


class LivePage:
    """The live page of a gateway; without routes if no admin token is set.

    Args:
        settings: The settings.
        engine: The alert engine.
        metrics: The metrics.
        health: The health endpoints.
        providers: The providers.
        service: Name of the service.
        in_progress: Requests in progress.
        upstream: Rate limits that the providers report.
    """

    def __init__(
        self,
        settings: Settings,
        engine: AlertEngine,
        metrics: HttpMetrics,
        health: HealthRouter,
        providers: Providers,
        *,
        service: str,
        in_progress: RequestsInProgress,
        upstream: UpstreamQuotas,
    ) -> None:
        self._settings, self._engine, self._metrics = settings, engine, metrics
        self._health, self._in_progress, self._upstream = health, in_progress, upstream
        self._shares_store = settings.alerts and not isinstance(engine.store, MemoryAlertStore)
        self._merges = metrics.is_shared and not self._shares_store
        self.dashboard = Dashboard(
            Sources(
                series=self._merged_series if self._merges else self._own_series,
                scope=self._scope,
                service=service,
                version=_version(),
                providers=providers.listed,
                active=self._active,
                checks=self._checks,
                log_level=log_level,
                engine=self._engine_facts,
                store=self._store_facts,
                tenants=self._tenants if settings.alerts else None,
                facts=self._facts,
                requests=self._requests,
            ),
            store=engine.store if self._shares_store else None,
            wall=lambda: engine.now,
        )
        self._is_served, self._workers = False, 1
        engine.add_listener(self)

    def endpoints(self, authorize: Authorize | None) -> tuple[list[BaseRoute], list[BaseRoute]]:
        """Return the routes of the files, and those of the data; none without authorization."""
        if authorize is None:
            return [], []
        self._is_served = True
        return (
            self.dashboard.static_routes(prefix=_PREFIX),
            self.dashboard.routes(authorize, prefix=_PREFIX),
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take samples during the body, if the page is served."""
        if not self._is_served:
            yield
            return
        async with self.dashboard.running():
            yield

    def clear(self) -> None:
        """Discard everything, as in a new process."""
        self.dashboard.clear()

    def on_alert(self, event: AlertEvent) -> None:
        """Mark an alert that has fired or is resolved."""
        self.dashboard.on_alert(event.transition, event.finding.title, event.at)

    def on_delivery(self, sink: str, result: str) -> None:
        """Note the time of a successful delivery."""
        self.dashboard.on_delivery(sink, result)

    async def _own_series(self) -> Sequence[Any]:
        return self._metrics.own_series()

    async def _merged_series(self) -> Sequence[Any]:
        self._workers = await to_thread.run_sync(self._metrics.workers)
        return await to_thread.run_sync(self._metrics.series)

    def _scope(self) -> schemas.Scope:
        if self._merges:
            return schemas.Scope("machine", self._workers, 0)
        return schemas.Scope("process", 1, 0)

    def _active(self) -> Mapping[str, bool]:
        return {name: bool(active) for (name,), active in self._health.active_providers().items()}

    async def _checks(self) -> list[schemas.Check]:
        observations = await self._health.observe()
        return [
            schemas.Check(name, observation.result.status, observation.result.output)
            for name, observation in sorted(observations.items())
        ]

    def _engine_facts(self) -> EngineFacts:
        engine = self._engine
        if not self._settings.alerts:
            return EngineFacts()
        state = engine.fleet_state
        evaluated = engine.last_evaluation().get(())
        if evaluated is None and state is not None:
            evaluated = state.evaluated_at
        severities = Counter(finding.severity for finding in engine.firing)
        members = () if state is None else state.members
        return EngineFacts(
            engine=schemas.Engine(
                last_evaluation_at=None if evaluated is None else to_time(evaluated),
                interval_seconds=engine.interval,
                store=self._store_state(state),
                leader=engine.leads,
                alerts=True,
            ),
            firing=schemas.Firing(
                severities["critical"], severities["warning"], severities["info"]
            ),
            members=[
                schemas.Member(
                    name=member.process.name,
                    host=member.process.host,
                    pid=member.process.pid,
                    leader=state is not None and member.process.name == state.holder,
                    seen_at=to_time(member.seen_at),
                )
                for member in members
            ],
            live=frozenset(process.name for process in engine.live_processes),
            sinks=engine.sinks,
        )

    def _store_state(self, state: FleetState | None) -> Literal["ok", "failing", "none"]:
        if not self._shares_store:
            return "none"
        return "ok" if state is not None and self._engine.is_connected else "failing"

    async def _store_facts(self) -> StoreFacts:
        if not self._settings.alerts:
            return StoreFacts()
        store = self._engine.store
        usage = await store.usage(self._today())
        cost = _dollars(usage[0]) if usage else None
        return StoreFacts(cost, await store.queue_lengths(), await store.dead_letter_counts())

    async def _tenants(self) -> list[schemas.Tenant]:
        tenants = list[schemas.Tenant]()
        for record in await self._engine.store.usage(self._today(("tenant",))):
            tenants.append(
                schemas.Tenant(
                    id=record.tenant,
                    name=self._engine.tenant_name(record.tenant),
                    requests=record.requests,
                    input_tokens=record.input,
                    output_tokens=record.output,
                    cost_usd=_dollars(record),
                )
            )
            if len(tenants) % _TENANTS_PER_STEP == 0:
                await checkpoint()
        return tenants

    def _today(self, by: tuple[str, ...] = ()) -> UsageQuery:
        """Return a query of the usage since midnight UTC."""
        now = datetime.fromtimestamp(self._engine.now, UTC)
        midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
        first = int(midnight.timestamp() // 3600)
        return UsageQuery(first, first + 24, by, None, None, _MAX_TENANTS)

    def _facts(self) -> Facts:
        engine = self._engine
        facts = Facts(
            member=engine.process_name,
            streaks=self._streaks(),
            upstream=_remaining(self._upstream, engine.now),
            tenant_names={
                tenant: name
                for tenant, name in engine.tenant_names(limit=_MAX_NAMES).items()
                if len(tenant) + len(name) <= _MAX_NAME_CHARS
            },
        )
        in_progress, limits = self._in_progress, idle_limits(engine.thresholds)
        idle = in_progress.requests(limit=_MAX_STALLED, min_idle=min(limits.values()))
        facts.in_flight = schemas.InFlight(
            len(in_progress),
            round(in_progress.oldest(), 3),
            sum(request.idle >= limits[request.phase] for request in idle),
        )
        return facts

    def _requests(self, limit: int) -> list[schemas.Request]:
        limits = idle_limits(self._engine.thresholds)
        return [
            _request(request, is_stalled=request.idle >= limits[request.phase])
            for request in self._in_progress.requests(limit=limit)
        ]

    def _streaks(self) -> list[Streak] | None:
        outcomes = self._engine.outcomes() if self._settings.alerts else None
        if outcomes is None:
            return None
        return [
            Streak(kind, identity, item.name, item.group, item.failures, item.last_success / 1e6)
            for (kind, identity), item in outcomes.items()
        ]


def _request(request: RequestInProgress, *, is_stalled: bool) -> schemas.Request:
    exchange = request.exchange
    return schemas.Request(
        id=str(request.id),
        age_seconds=round(exchange.duration, 3),
        idle_seconds=round(request.idle, 3),
        route=exchange.route,
        provider=exchange.provider,
        model=exchange.model,
        tenant=exchange.tenant,
        tenant_name=exchange.tenant_name,
        credential=exchange.credential,
        credential_group=exchange.credential_group,
        first_byte=request.phase == "streaming",
        output_tokens=None if exchange.usage is None else exchange.usage.output,
        stalled=is_stalled,
    )


def _remaining(quotas: UpstreamQuotas, now: float) -> dict[str, schemas.Upstream]:
    result: dict[str, schemas.Upstream] = {}
    for (provider, unit), pool in quotas.lowest().items():
        upstream = result.setdefault(provider, schemas.Upstream())
        setattr(upstream, f"{unit}_remaining", float(pool.remaining))
        if pool.resets_in is not None:
            at = to_time(now + pool.resets_in)
            upstream.resets_at = max(upstream.resets_at or at, at)
    return result


def _dollars(record: UsageRecord) -> float | None:
    """Return the known cost; None if no response has one."""
    return record.cost_nanos / 1e9 if record.unpriced < record.requests else None


def _version() -> str:
    try:
        return version("tokenpulse-mw")
    except PackageNotFoundError:  # a copy of the source that is not installed
        return "unknown"
