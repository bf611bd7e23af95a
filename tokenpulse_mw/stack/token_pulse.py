"""All parts in one call.

Order, outermost first: request ids if wanted, exchange (so that 429s and crashes are measured
too), rate limit, application.
"""

from __future__ import annotations

import logging
import os
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from ..alerts import AlertEngine
from ..config import Settings
from ..exchange import PROVIDERS, ExchangeMiddleware, Providers, serves
from ..health import AnyCheck, Credentials, HealthRouter, drain_on_sigterm
from ..logs import AccessLog, RequestIdMiddleware
from ..metrics import HttpMetrics, metrics_routes
from ..ratelimit import (
    Limiter,
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
    check_policies,
)
from ..web import bearer
from ..wrapping import Endpoints, Wrapped
from . import defaults

logger = logging.getLogger("tokenpulse_mw")


class TokenPulse:
    """All parts for one gateway: `install` it into an application, or `wrap` one in it.

    Args:
        service: The name that `/health` gives.
        providers: The providers' names, or `Providers` to say how they are told apart.
        settings: Limits, proxies and tokens; read from `TOKENPULSE_*` variables when None.
        credentials: Whether each provider's credentials are active, for
            `/api/credentials/status`: a mapping, or a function (async or not) that gives one.
        checks: What must hold for `/health/ready`, by name: functions that give a bool, or
            `Check`s.
        engine: Watches the traffic for alerts; one with the default rules when None.
        metrics: Filled with every exchange; on prometheus_client's default registry when None.
        policies: The limits; when None, one for each client as the settings say. Those without a
            key are by the client's address, behind the proxies that the settings name.

    Attributes:
        policies: The limits; look at the keys of their limiters, or reset them.
        health: The health endpoints, and whether the service is draining.
        routes: The endpoints that `install` and `wrap` add.

    Raises:
        ValueError: An argument or a setting is malformed; the message says which.
    """

    def __init__(
        self,
        *,
        service: str = "tokenpulse",
        providers: Iterable[str] | Providers = PROVIDERS,
        settings: Settings | None = None,
        credentials: Credentials | None = None,
        checks: Mapping[str, AnyCheck] | None = None,
        engine: AlertEngine | None = None,
        metrics: HttpMetrics | None = None,
        policies: Iterable[Policy] | None = None,
    ) -> None:
        self.settings = Settings.from_env(os.environ) if settings is None else settings
        self.providers = providers if isinstance(providers, Providers) else Providers(providers)
        self.policies = [defaults.per_client(self.settings)] if policies is None else list(policies)
        check_policies(self.policies)
        for policy in self.policies:
            if not policy.has_key:
                policy.key = defaults.address(self.settings)
        defaults.check_logs(self.settings)
        self.engine = defaults.engine(self.settings, self.policies, engine)
        self.metrics = metrics or HttpMetrics()
        self.health = HealthRouter(
            service=service,
            providers=self.providers.names,
            checks=checks,
            credentials=credentials,
            provider_health=defaults.AlertedProviders(self.engine),
            authorize=defaults.admin(self.settings),
        )
        token = self.settings.metrics_token
        authorize = None if token is None else bearer(token)
        scrape = metrics_routes(self.metrics, authorize=authorize)
        health = [each for each in self.health.routes if isinstance(each, Route)]
        self._open = [each.path for each in health + scrape]
        self.routes = health + scrape + defaults.admin_routes(self.settings, self.engine)
        self._layers = self._middlewares()
        self._let_metrics_see()

    def install(self, app: Starlette) -> None:
        """Put everything into a Starlette or FastAPI application that has not started yet.

        The endpoints go before the application's own routes, so that a catch-all does not
        swallow them; a path that the application serves itself is left to it. Its own lifespan
        runs inside ours.

        Raises:
            ValueError: `app` is no Starlette application, or has this installed already.
        """
        if not isinstance(app, Starlette):
            raise ValueError(
                f"install() needs a Starlette or FastAPI application, got {app!r}; "
                "use wrap() for any other ASGI application"
            )
        if any(each.kwargs.get("policies") is self.policies for each in app.user_middleware):
            raise ValueError("this TokenPulse is installed in the application already")
        for middleware, options in reversed(self._layers):
            app.add_middleware(middleware, **options)
        app.router.routes[:0] = _not_taken(self.routes, app.router.routes)
        app.router.lifespan_context = self._around(app.router.lifespan_context)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Any ASGI application with everything around it, as a new ASGI application.

        Our endpoints go before the application's; its lifespan, if it has one, runs inside ours.
        """
        inner: ASGIApp = Endpoints(app, routes=self.routes)
        for middleware, options in reversed(self._layers):
            inner = middleware(inner, **options)
        return Wrapped(inner, beside=self.running)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs in the background; `install` and `wrap` do it in the lifespan."""
        defaults.configure_logs(self.settings)
        drains = drain_on_sigterm(self.health, delay=self.settings.drain_delay)
        async with self.engine, self.metrics.looking_up(), self.health.running(), drains:
            try:
                yield
            finally:
                for policy in self.policies:
                    if isinstance(policy.limiter, SharedLimiter):
                        await policy.limiter.aclose()

    def _middlewares(self) -> list[tuple[Any, dict[str, Any]]]:
        """Our middlewares and their options, outermost first."""
        observers: list[object] = [self.metrics, self.engine.observe]
        ids: list[tuple[Any, dict[str, Any]]] = []
        if self.settings.access_log:
            observers.append(AccessLog())
            ids.append((RequestIdMiddleware, {}))  # outermost, for every line to have the id
        exchange = {"observers": observers, "provider": self.providers}
        rate_limit: dict[str, Any] = {
            "policies": self.policies,
            "headers": self.settings.limit_headers,
            "respond": defaults.answer(self.settings.limit_answer),
            "enforce": self.settings.limit_enforce,
            "exempt": self._open,  # guesses at a token are limited like anything else
        }
        # What is malformed is to be refused here, and not when the server starts.
        RateLimitMiddleware(Router(), **rate_limit)
        return [*ids, (ExchangeMiddleware, exchange), (RateLimitMiddleware, rate_limit)]

    def _let_metrics_see(self) -> None:
        """Show in the metrics what is not told by exchanges."""
        self.engine.listen(self.metrics)
        self.metrics.sample("tokenpulse_alerts", self.engine.counts)
        self.metrics.sample(
            "tokenpulse_alert_last_evaluation_timestamp_seconds", self.engine.last_round
        )
        self.metrics.sample("tokenpulse_alert_notifications_waiting", self.engine.waiting)
        self.metrics.sample("tokenpulse_alert_subject_overflow_total", self.engine.overflowed)
        self.metrics.sample("tokenpulse_active_providers", self.health.active_providers)
        self.metrics.sample("tokenpulse_rate_limit_keys", self._limit_keys)
        self.metrics.sample("tokenpulse_rate_limit_evictions_total", self._limit_evictions)

    def _limit_keys(self) -> Mapping[tuple[str], int]:
        tables = self._tables_of_limits()
        return {(name,): len(table) for name, table in tables}

    def _limit_evictions(self) -> Mapping[tuple[str], int]:
        tables = self._tables_of_limits()
        return {(name,): table.evictions for name, table in tables}

    def _tables_of_limits(self) -> Iterator[tuple[str, Limiter]]:
        for policy in self.policies:
            if isinstance(policy.limiter, Limiter):
                yield policy.name, policy.limiter

    def _around(self, lifespan: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Any]:
            async with self.running(), lifespan(app) as state:
                yield state

        return both


def _not_taken(ours: Sequence[Route], theirs: Sequence[BaseRoute]) -> list[Route]:
    """Those of our routes whose path the application does not serve itself."""
    kept: list[Route] = []
    for route in ours:
        path = route.path.removesuffix("/")
        if not serves(theirs, path) and not serves(theirs, route.path):
            kept.append(route)
        elif path == route.path:
            logger.warning("the application serves %s itself; its own is kept", path)
    return kept
