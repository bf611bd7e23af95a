"""The page and its endpoints: reads the sources, and keeps the last hour."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import uuid4

from anyio.lowlevel import checkpoint
from msgspec import structs
from starlette.routing import BaseRoute

from ..exchange import drop_exchange
from ..lifespan import background_tasks
from ..web.auth import Authorize, Guard
from ..web.endpoint import Endpoint
from ..web.openapi import openapi_operation
from ..web.operation import Operation
from ..web.parameters import integer, text
from . import schemas, views
from .cached import Cached
from .endpoint import Query, operation
from .facts import MAX_MARKS, MAX_REQUESTS, EngineFacts, Facts, Mark, Sources, StoreFacts
from .files import static_routes
from .fleet import Fleet, SampleStore
from .parameters import choice_of, seconds_of, tenant_cursor, to_cursor
from .sampler import Sampler
from .views import Window, to_time

_STORE_SECONDS = 10.0  # for which values of the store are used
_CHECK_SECONDS = 5.0
_TENANTS_PER_STEP = 2000
_DESCRIPTION = (
    "What the gateway does now, for the page at `/admin/`. Rates are those of the last minute, "
    "times are RFC 3339 in UTC, and what is not known is null. Errors are problem details "
    "(RFC 9457)."
)


class View(NamedTuple):
    """Numbers and facts of the processes that an answer includes.

    Attributes:
        window: The last minute.
        facts: Facts of each process; those of this one are first.
        scope: The processes.
        models: Provider and name of a model by the name under which it is counted.
        names: Number of routes that are counted.
    """

    window: Window
    facts: Sequence[Facts]
    scope: schemas.Scope
    models: dict[str, tuple[str, str]]
    names: int


class Dashboard:
    """Data of the page, of this process.

    Args:
        sources: Functions that return the values.
        store: Store that all processes share; None if there is only this one.
        interval: Seconds between two samples.
        slots: Samples that are kept.
        max_names: Maximum number of providers, of routes and of models with numbers of their own.
        timeout: Seconds that the alert store or the checks may delay an answer.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.

    Attributes:
        sampler: Keeps the last hour of this process.
    """

    def __init__(
        self,
        sources: Sources,
        *,
        store: SampleStore | None = None,
        interval: float = 15.0,
        slots: int = 240,
        max_names: int = 50,
        timeout: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._sources, self._clock, self._wall = sources, clock, wall
        self.sampler = Sampler(
            sources.series,
            interval=interval,
            slots=slots,
            max_names=max_names,
            clock=clock,
            wall=wall,
        )
        self._fleet: Fleet | None = None
        self._merged: Cached[None] | None = None
        if store is not None:
            self._fleet = fleet = Fleet(
                store,
                self.sampler,
                facts=self._facts_with_requests,
                live=lambda: self._engine().live,
                slots=slots,
                max_names=max_names,
                timeout=timeout,
                clock=clock,
            )
            self._merged = Cached(
                fleet.refresh, None, of="other processes", timeout=timeout, clock=clock
            )
        self._store = Cached(
            sources.store,
            StoreFacts(),
            of="values of the alert store",
            ttl=_STORE_SECONDS,
            timeout=timeout,
            clock=clock,
        )
        self._checks = Cached[list[schemas.Check]](
            sources.checks, [], of="checks", ttl=_CHECK_SECONDS, timeout=timeout, clock=clock
        )
        self._tenants = Cached[list[schemas.Tenant] | None](
            self._read_tenants,
            None,
            of="tenants",
            ttl=_STORE_SECONDS,
            timeout=timeout,
            clock=clock,
        )
        self._marks = deque[Mark](maxlen=MAX_MARKS)
        self._last_ok: dict[str, float] = {}
        self._instance: schemas.Instance | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Take samples during the body."""
        self._marks.append(Mark(self._wall(), "started", self._own_name()))
        fleet = self._fleet
        tasks = [self.sampler.run] if fleet is None else [self._sample_fleet, fleet.run]
        async with background_tasks(*tasks):
            yield

    def clear(self) -> None:
        """Discard everything, as in a new process."""
        self.sampler.clear()
        self._marks.clear()
        self._last_ok.clear()
        for cached in (self._store, self._checks, self._tenants, self._merged):
            if cached is not None:
                cached.clear()
        if self._fleet is not None:
            self._fleet.clear()
        self._instance = None

    def on_alert(self, transition: str, title: str, at: float) -> None:
        """Add a mark for an alert that has fired or is resolved."""
        if transition in ("fired", "resolved"):
            self._marks.append(Mark(at, transition, title))

    def on_delivery(self, sink: str, result: str) -> None:
        """Remember the last successful delivery of a sink."""
        if result == "ok":
            self._last_ok[sink] = self._wall()

    def routes(self, authorize: Authorize, *, prefix: str = "/admin") -> list[BaseRoute]:
        """Return the routes of the data, which need authorization.

        `GET {prefix}/live/openapi.json` returns their OpenAPI description. Authorized requests are
        excluded from request metrics and alerts.

        Args:
            authorize: Function of the request, async or not, that returns True or the name of the
                caller.
            prefix: Path of the page.

        Raises:
            ValueError: `authorize` is not callable.
        """
        guard = Guard(authorize, of="Dashboard.routes")
        live = f"{prefix}/live"
        operations = self._operations()
        openapi = openapi_operation(operations, live, title="Live page", text=_DESCRIPTION)
        routes = [
            Endpoint([one], guard=guard, on_authorized=drop_exchange).route(
                live + one.path, name=f"live{one.path.replace('/', '_')}"
            )
            for one in (*operations, openapi)
        ]
        not_found = Endpoint((), guard=guard, on_authorized=drop_exchange)
        return [*routes, not_found.route(f"{live}/{{path:path}}", name="live_not_found")]

    @staticmethod
    def static_routes(*, prefix: str = "/admin") -> list[BaseRoute]:
        """Return the routes of the page and its files, which hold no data."""
        return static_routes(prefix)

    async def get_state(self, query: Query) -> schemas.State:
        """Return the gateway now."""
        view, engine = await self._view(), self._engine()
        store, checks = await self._store.get(), await self._checks.get()
        if self._store.is_failing or (self._merged is not None and self._merged.is_failing):
            engine = replace(engine, engine=structs.replace(engine.engine, store="failing"))
        sources = self._sources
        return schemas.State(
            instance=self._own_instance(),
            at=to_time(self._wall()),
            service=sources.service,
            scope=view.scope,
            me=query.me,
            status=views.status(engine, checks),
            firing=engine.firing,
            rates=views.rates(view.window, store),
            in_flight=views.in_flight(view.facts),
            faults=views.faults(view.window),
            engine=engine.engine,
            providers=await views.providers(
                view.window,
                view.facts,
                listed=sources.providers(),
                active=sources.active(),
                models=view.models,
            ),
            sinks=views.sinks(engine, store, view.facts),
            checks=checks,
            log_level=sources.log_level(),
            members=list(engine.members),
            internal_errors=_sum(part.internal_errors for part in view.facts),
            series_overflow=_sum(part.overflow for part in view.facts),
        )

    async def get_series(self, query: Query) -> schemas.SeriesOf:
        """Return the numbers of the last hour."""
        view = await self._view()
        return await views.series(
            view.window,
            query.values["by"],
            seconds=query.values["range"],
            limit=query.values["limit"],
            marks=list(views.all_marks(view.facts)),
            scope=view.scope,
            now=self._wall(),
        )

    async def get_routes(self, query: Query) -> schemas.Routes:
        """Return the routes."""
        view = await self._view()
        values = query.values
        return await views.routes(
            view.window, sort=values["sort"], limit=values["limit"], total=view.names
        )

    async def get_requests(self, query: Query) -> schemas.Requests:
        """Return the oldest requests in progress."""
        view, limit = await self._view(), query.values["limit"]
        view.facts[0].requests = self._own_requests(limit)
        return views.requests(view.facts, limit)

    async def get_tenants(self, query: Query) -> schemas.Tenants:
        """Return a page of the usage of tenants today."""
        values = query.values
        tenants, wanted = await self._tenants.get(), (values["q"] or "").casefold()
        after, page, names = values["cursor"], list[schemas.Tenant](), self._names_of_others()
        following = None
        for index, tenant in enumerate(tenants or ()):
            if index % _TENANTS_PER_STEP == _TENANTS_PER_STEP - 1:
                await checkpoint()
            if after is not None and (-tenant.requests, tenant.id) <= (-after[0], after[1]):
                continue
            tenant.name = tenant.name or names.get(tenant.id)
            if wanted not in tenant.id.casefold() and wanted not in (tenant.name or "").casefold():
                continue
            if len(page) == values["limit"]:
                following = to_cursor(page[-1].requests, page[-1].id)
                break
            page.append(tenant)
        return schemas.Tenants(to_time(self._wall()).date().isoformat(), page, following)

    async def _read_tenants(self) -> list[schemas.Tenant] | None:
        read = self._sources.tenants
        if read is None:
            return None
        return sorted(await read(), key=lambda tenant: (-tenant.requests, tenant.id))

    def _names_of_others(self) -> dict[str, str]:
        """Return the names of tenants that other processes know."""
        names: dict[str, str] = {}
        for sample in () if self._fleet is None else self._fleet.fresh():
            names |= sample.facts.tenant_names
        return names

    async def _view(self) -> View:
        """Return the numbers and facts of all processes; of this one if the store fails."""
        facts, totals = self._own_facts(), self.sampler.totals
        models = {} if totals is None else dict(totals.models)
        routes = 0 if totals is None else len(totals.rows["route"])
        fleet, merged = self._fleet, self._merged
        history, parts, scope = self.sampler.history, [facts], self._sources.scope()
        if fleet is not None and merged is not None:
            fleet.watch()
            await merged.get()
            if not merged.is_failing:
                samples = fleet.fresh()
                history = fleet.history
                parts += [sample.facts for sample in samples]
                for sample in samples:
                    models |= sample.models
                    routes = max(routes, sample.routes)
                included = {part.member for part in parts}
                missing = len(self._engine().live - included)
                scope = schemas.Scope("fleet", len(parts), missing)
        return View(Window(history, self.sampler.interval), parts, scope, models, routes)

    async def _sample_fleet(self) -> None:
        assert self._fleet is not None
        await self.sampler.run(self._fleet.sampled)

    def _facts_with_requests(self) -> Facts:
        facts = self._own_facts()
        facts.requests = self._own_requests(MAX_REQUESTS)
        return facts

    def _own_requests(self, limit: int) -> list[schemas.Request]:
        """Return the oldest requests in progress, with ids that no other process has."""
        requests, instance = self._sources.requests(limit), self._own_instance().id
        for request in requests:
            request.id = f"{instance}-{request.id}"
        return requests

    def _own_facts(self) -> Facts:
        facts, totals = self._sources.facts(), self.sampler.totals
        oldest = self._wall() - 3600
        facts.marks = [mark for mark in self._marks if mark.at >= oldest]
        facts.last_ok = dict(self._last_ok)
        if totals is not None:
            facts.internal_errors, facts.overflow = totals.internal_errors, totals.overflow
            if facts.in_flight.count is None:
                facts.in_flight.count = max(0, round(totals.in_flight))
        return facts

    def _engine(self) -> EngineFacts:
        return self._sources.engine()

    def _own_instance(self) -> schemas.Instance:
        if self._instance is None or self._instance.pid != os.getpid():
            self._instance = schemas.Instance(
                id=uuid4().hex[:8],
                pid=os.getpid(),
                host=socket.gethostname(),
                started_at=to_time(self._wall()),
                version=self._sources.version,
            )
        return self._instance

    def _own_name(self) -> str:
        instance = self._own_instance()
        return f"{instance.host}:{instance.pid}"

    def _operations(self) -> list[Operation]:
        limit = "Maximum number of "
        return [
            operation(
                "/state",
                self.get_state,
                "Return rates, providers, alerts, sinks, checks and processes now",
                schemas.State,
                unchanging=("at",),
            ),
            operation(
                "/series",
                self.get_series,
                "Return the numbers of the last hour in steps, with events",
                schemas.SeriesOf,
                query=(
                    choice_of("by", "Kind of the names", ("provider", "route", "model")),
                    seconds_of("range", "Seconds until now", (900, 1800, 3600)),
                    integer(
                        "limit", f"{limit}names; the others are summed", maximum=50, default=12
                    ),
                ),
            ),
            operation(
                "/routes",
                self.get_routes,
                "List routes with their rates",
                schemas.Routes,
                query=(
                    integer("limit", f"{limit}routes", maximum=50, default=50),
                    choice_of("sort", "Order, the highest first", tuple(views.SORTS)),
                ),
            ),
            operation(
                "/inflight",
                self.get_requests,
                "List requests in progress, the oldest first",
                schemas.Requests,
                query=(integer("limit", f"{limit}requests", maximum=1000, default=100),),
            ),
            operation(
                "/tenants",
                self.get_tenants,
                "List the usage of tenants today, most requests first",
                schemas.Tenants,
                query=(
                    integer("limit", f"{limit}tenants", maximum=1000, default=100),
                    tenant_cursor("cursor", "Cursor of the page"),
                    text("q", "Part of the id or the name of the tenants"),
                ),
            ),
        ]


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return round(sum(known)) if known else None
