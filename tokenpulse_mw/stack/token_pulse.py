"""All parts in one call.

Order, outermost first: request ids if enabled, exchange (so that 429s and crashes are measured
too), unlimited endpoints, rate limit, application.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp

from ..alerts import AlertEngine, Sink, Thresholds
from ..config import Settings
from ..exchange import PROVIDERS, ExchangeMiddleware, ObserverLike, Providers, has_route
from ..health import AnyCheck, Credentials, HealthRouter, drain_on_sigterm
from ..logs import AccessLog, RequestIdMiddleware
from ..metrics import HttpMetrics, metrics_routes
from ..ratelimit import (
    RESPONSES,
    OnDecision,
    Policy,
    RateLimitMiddleware,
    Respond,
    SharedLimiter,
)
from . import defaults
from .defaults import FROM_SETTINGS, configure_logs
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
        settings: Settings of the operator; `Settings()` if None, which reads the environment.
        limit: Limit of each client, such as "20/minute", instead of that of the settings; None
            sets no limit.
        policies: The limits, instead of one for each client. Policies without a key count by the
            client's address, behind the proxies of the settings. An empty list sets no limit.
        exempt: Paths whose GET and HEAD requests are not limited, such as "/docs*".
        respond: Returns the response to a request over its limit, instead of that of the
            settings; `problem_details` or a function of the `Decision`.
        on_decision: Called with the scope and the `Decision` of each request that is limited.
        observers: Instances of `Observer`, or callables of a finished `Exchange`, in addition to
            the metrics and the alerts.
        credentials: State of each provider's credentials for `/api/credentials/status`: a mapping
            of provider to bool, or a function (async or not) that returns one.
        checks: Conditions of `/health/ready` by name: functions that return a bool, or `Check`s.
        thresholds: Thresholds of the alerts at the start; the admin API changes them.
        sinks: Notified of alerts, in addition to the log and the sinks of the settings.
        engine: An alert engine with rules of your own, instead of the default one.
        metrics: Receives every exchange; uses prometheus_client's default registry if None.

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
        limit: str | None = FROM_SETTINGS,
        policies: Iterable[Policy] | None = None,
        exempt: Iterable[str] = (),
        respond: Respond | None = None,
        on_decision: OnDecision | None = None,
        observers: Iterable[ObserverLike] = (),
        credentials: Credentials | None = None,
        checks: Mapping[str, AnyCheck] | None = None,
        thresholds: Thresholds | None = None,
        sinks: Iterable[Sink] | None = None,
        engine: AlertEngine | None = None,
        metrics: HttpMetrics | None = None,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        if not isinstance(self.settings, Settings):
            raise ValueError(
                f"settings must be Settings(...), got one of type {type(settings).__name__}"
            )
        self.providers = providers if isinstance(providers, Providers) else Providers(providers)
        self.policies = defaults.policies(self.settings, policies, limit)
        self.engine = defaults.engine(
            self.settings, self.policies, engine, thresholds=thresholds, sinks=sinks
        )
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
        operate = defaults.admin_routes(self.settings, self.engine, admin)
        self._endpoints = [
            *(OwnEndpoint(route, admin, is_public=True) for route in health),
            *(OwnEndpoint(route, scraper, is_public=False) for route in scrape),
            *(OwnEndpoint(route, admin, is_public=False) for route in operate),
        ]
        self.routes = [endpoint.route for endpoint in self._endpoints]
        self._outer = self._measuring(observers)
        self._inner = self._limiting(exempt, respond, on_decision)
        self.engine.add_listener(self.metrics)
        self._lookups = Gauges(self.engine, self.policies, self.health)
        self._lookups.show_in(self.metrics)

    def install(self, app: Starlette) -> None:
        """Install all parts into a Starlette or FastAPI application that has not started.

        The endpoints precede the application's own routes, so that a catch-all does not swallow
        them. A path that the application serves itself stays with it and is limited, except below
        `/admin/alerts` if a token is set. Unlimited requests to the endpoints are served
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
        return WithLifespan(inner, lifespan=self.lifespan)

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
            alerts = self.engine if self.settings.alerts else nullcontext()
            async with alerts, self.metrics.refreshing(), self.health.running(), drains:
                try:
                    yield
                finally:
                    for policy in self.policies:
                        if isinstance(policy.limiter, SharedLimiter):
                            await policy.limiter.aclose()
        finally:
            self._lookups.running = False

    def _layers(self, endpoints: Sequence[OwnEndpoint]) -> list[Layer]:
        """Return all middlewares and their options, outermost first."""
        return [*self._outer, (UnlimitedEndpoints, {"endpoints": endpoints}), *self._inner]

    def _measuring(self, observers: Iterable[ObserverLike]) -> list[Layer]:
        """Return the middlewares that observe every request, outermost first."""
        ours: list[ObserverLike] = [self.metrics]
        ids: list[Layer] = []
        if self.settings.alerts:
            ours.append(self.engine.observe)
        if self.settings.access_log:
            ours.append(AccessLog())
            ids.append((RequestIdMiddleware, {}))  # outermost, so that every line has the id
        options: dict[str, Any] = {"observers": [*ours, *observers], "provider": self.providers}
        ExchangeMiddleware(Router(), **options)  # invalid options are rejected here
        return [*ids, (ExchangeMiddleware, options)]

    def _limiting(
        self, exempt: Iterable[str], respond: Respond | None, on_decision: OnDecision | None
    ) -> list[Layer]:
        """Return the middleware of the limits; none without limits."""
        if respond is not None:
            defaults.warn_unused(self.settings, ["limit_response"], "respond is given")
        options: dict[str, Any] = {
            "policies": self.policies,
            "default_key": defaults.client_key(self.settings),
            "headers": self.settings.limit_headers,
            "respond": RESPONSES[self.settings.limit_response] if respond is None else respond,
            "exempt": exempt,
            "enforce": self.settings.limit_enforce,
            "on_decision": on_decision,
        }
        if not self.policies:
            return []
        RateLimitMiddleware(Router(), **options)  # invalid options are rejected here
        return [(RateLimitMiddleware, options)]

    def _around(self, lifespan: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Any]:
            async with self.lifespan(app), lifespan(app) as state:
                yield state

        return both


def _not_taken(ours: Sequence[OwnEndpoint], theirs: Sequence[BaseRoute]) -> list[OwnEndpoint]:
    """Return the endpoints of `ours` whose path the application does not serve itself."""
    kept: list[OwnEndpoint] = []
    for endpoint in ours:
        path = endpoint.route.path.removesuffix("/")
        if not has_route(theirs, path) and not has_route(theirs, endpoint.route.path):
            kept.append(endpoint)
        elif path == endpoint.route.path:
            logger.warning(
                "endpoint of the application is kept, and requests to it are limited: path=%s", path
            )
    return kept
