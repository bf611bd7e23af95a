"""All parts in one call.

Order, outermost first: request ids if enabled, exchange (so that 429s and crashes are measured
too), unlimited endpoints, rate limit, application.
"""

from __future__ import annotations

import logging
import os
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
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
from ..exchange import PROVIDERS, ExchangeMiddleware, Providers, has_route
from ..health import AnyCheck, Credentials, HealthRouter, drain_on_sigterm
from ..logs import AccessLog, RequestIdMiddleware
from ..metrics import HttpMetrics, metrics_routes
from ..ratelimit import Policy, RateLimitMiddleware, SharedLimiter
from . import defaults
from .defaults import blame_settings, check_logs, configure_logs
from .gauges import Gauges
from .unlimited import OwnEndpoint, UnlimitedEndpoints
from .wrap import RoutesBefore, WithLifespan

logger = logging.getLogger("tokenpulse_mw")

Layer = tuple[Any, dict[str, Any]]  # a middleware and its options


class TokenPulse:
    """All parts for one gateway: `install` it into an application, or `wrap` one in it.

    Args:
        service: Name of the service in `/health`.
        providers: Names of the providers, or `Providers` to configure how they are recognised.
        settings: Limits, proxies and tokens; read from `TOKENPULSE_*` variables if None.
        credentials: State of each provider's credentials for `/api/credentials/status`: a mapping
            of provider to bool, or a function (async or not) that returns one.
        checks: Conditions of `/health/ready` by name: functions that return a bool, or `Check`s.
        engine: The alert engine; one with the default rules if None.
        metrics: Receives every exchange; uses prometheus_client's default registry if None.
        policies: The limits; if None, one for each client from the settings. Policies without a
            key count by the client's address, behind the proxies of the settings.

    Attributes:
        policies: The limits, whose limiters can be inspected and reset.
        health: The health endpoints, and whether the service is draining.
        routes: The endpoints that `install` and `wrap` add.

    Raises:
        ValueError: An argument or a setting is invalid; the message names it.
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
        if not isinstance(self.settings, Settings):
            raise ValueError(
                f"settings must be Settings(...), got one of type {type(settings).__name__}"
            )
        self.providers = providers if isinstance(providers, Providers) else Providers(providers)
        self.policies = defaults.policies(self.settings, policies)
        self._client_key = defaults.client_key(self.settings)
        check_logs(self.settings)
        self.engine = defaults.engine(self.settings, self.policies, engine)
        self.metrics = HttpMetrics() if metrics is None else metrics
        if not isinstance(self.metrics, HttpMetrics):
            raise ValueError(f"metrics must be an HttpMetrics of a registry, got {metrics!r}")
        admin, scraper = defaults.admin_guard(self.settings), defaults.metrics_guard(self.settings)
        self.health = HealthRouter(
            service=service,
            providers=self.providers.names,
            checks=checks,
            credentials=credentials,
            provider_health=defaults.AlertedProviders(self.engine),
            authorize=admin,
        )
        health = [route for route in self.health.routes if isinstance(route, Route)]
        scrape = metrics_routes(self.metrics, authorize=scraper)
        operate = defaults.admin_routes(self.engine, admin)
        self._endpoints = [
            *(OwnEndpoint(route, admin, is_public=True) for route in health),
            *(OwnEndpoint(route, scraper, is_public=False) for route in scrape),
            *(OwnEndpoint(route, admin, is_public=False) for route in operate),
        ]
        self.routes = [endpoint.route for endpoint in self._endpoints]
        self._outer, self._inner = self._middlewares()
        self.engine.add_listener(self.metrics)
        self._lookups = Gauges(self.engine, self.policies, self.health)
        self._lookups.show_in(self.metrics)

    def install(self, app: Starlette) -> None:
        """Install all parts into a Starlette or FastAPI application that has not started.

        The endpoints precede the application's own routes, so that a catch-all does not swallow
        them. A path that the application serves itself stays with it and is limited, except below
        `/admin/alerts` if a token is set. Unlimited requests to the endpoints are answered
        before any middleware that was added earlier; middleware that must see them, such as one
        that authenticates every request, is added after `install`. The application's lifespan
        runs inside ours.

        Raises:
            ValueError: `app` is not a Starlette application, or has this installed already.
        """
        if not isinstance(app, Starlette):
            raise ValueError(
                f"install() needs a Starlette or FastAPI application, got {app!r}; "
                "use wrap() for any other ASGI application"
            )
        if any(entry.kwargs.get("policies") is self.policies for entry in app.user_middleware):
            raise ValueError("this TokenPulse is installed in the application already")
        endpoints = _not_taken(self._endpoints, app.router.routes)
        for middleware, options in reversed(self._layers(endpoints)):
            app.add_middleware(middleware, **options)
        app.router.routes[:0] = [endpoint.route for endpoint in endpoints]
        app.router.lifespan_context = self._around(app.router.lifespan_context)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return an ASGI application with all parts around `app`.

        The endpoints precede those of `app`. Its lifespan, if it has one, runs inside ours.

        Raises:
            ValueError: `app` cannot be called.
        """
        if not callable(app):
            raise ValueError(f"wrap() needs an ASGI application, got {app!r}")
        inner: ASGIApp = RoutesBefore(app, routes=self.routes)
        for middleware, options in reversed(self._layers(self._endpoints)):
            inner = middleware(inner, **options)
        return WithLifespan(inner, beside=self.lifespan)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002
        """Run the background tasks: alert evaluations, drain on SIGTERM, credential checks.

        `install` and `wrap` run it in the application's lifespan. Servers run only the lifespan of
        the outermost application, so if the gateway is mounted in another application, use it
        there: `Starlette(lifespan=pulse.lifespan)`.

        Args:
            app: The application, as Starlette passes it; not used.

        Raises:
            RuntimeError: It runs already.
        """
        if self._lookups.running:
            raise RuntimeError(
                "this TokenPulse runs already: it was installed or wrapped more than once, or its "
                "lifespan was entered in addition; create one for each application of a server"
            )
        self._lookups.running = True
        try:
            configure_logs(self.settings)
            drains = drain_on_sigterm(self.health, delay=self.settings.drain_delay)
            async with self.engine, self.metrics.refreshing(), self.health.running(), drains:
                try:
                    yield
                finally:
                    for policy in self.policies:
                        if isinstance(policy.limiter, SharedLimiter):
                            await policy.limiter.aclose()
        finally:
            self._lookups.running = False

    def _middlewares(self) -> tuple[list[Layer], Layer]:
        """Return the middlewares around the unlimited endpoints, outermost first, and the limit."""
        observers: list[object] = [self.metrics, self.engine.observe]
        ids: list[Layer] = []
        if self.settings.access_log:
            observers.append(AccessLog())
            ids.append((RequestIdMiddleware, {}))  # outermost, so that every line has the id
        exchange = {"observers": observers, "provider": self.providers}
        with blame_settings("limit_response"):
            respond = defaults.response_for(self.settings.limit_response)
        rate_limit: dict[str, Any] = {
            "policies": self.policies,
            "default_key": self._client_key,
            "headers": self.settings.limit_headers,
            "respond": respond,
            "enforce": self.settings.limit_enforce,
        }
        # Invalid options are rejected here, not when the server starts.
        with blame_settings("limit_headers"):
            RateLimitMiddleware(Router(), **rate_limit)
        return [*ids, (ExchangeMiddleware, exchange)], (RateLimitMiddleware, rate_limit)

    def _layers(self, endpoints: Sequence[OwnEndpoint]) -> list[Layer]:
        """Return all middlewares and their options, outermost first."""
        return [*self._outer, (UnlimitedEndpoints, {"endpoints": endpoints}), self._inner]

    def _around(self, lifespan: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Any]:
            async with self.lifespan(app), lifespan(app) as state:
                yield state

        return both


def _not_taken(ours: Sequence[OwnEndpoint], theirs: Sequence[BaseRoute]) -> list[OwnEndpoint]:
    """Return our endpoints whose path the application does not serve itself."""
    kept: list[OwnEndpoint] = []
    for endpoint in ours:
        path = endpoint.route.path.removesuffix("/")
        if not has_route(theirs, path) and not has_route(theirs, endpoint.route.path):
            kept.append(endpoint)
        elif path == endpoint.route.path:
            logger.warning("the application serves %s itself; its own is kept, and limited", path)
    return kept
