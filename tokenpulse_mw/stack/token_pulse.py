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
    Policy,
    RateLimitMiddleware,
    SharedLimiter,
)
from ..wrapping import Endpoints, Wrapped
from . import defaults
from .heed import set_by
from .logs import check_logs, configure_logs
from .lookups import Lookups

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
        if not isinstance(self.settings, Settings):
            raise ValueError(
                f"settings must be Settings(...), got one of type {type(settings).__name__}"
            )
        self.providers = providers if isinstance(providers, Providers) else Providers(providers)
        self.policies = defaults.policies(self.settings, policies)
        check_logs(self.settings)
        self.engine = defaults.engine(self.settings, self.policies, engine)
        self.metrics = HttpMetrics() if metrics is None else metrics
        if not isinstance(self.metrics, HttpMetrics):
            raise ValueError(f"metrics must be an HttpMetrics of a registry, got {metrics!r}")
        admin = defaults.admin(self.settings)
        self.health = HealthRouter(
            service=service,
            providers=self.providers.names,
            checks=checks,
            credentials=credentials,
            provider_health=defaults.AlertedProviders(self.engine),
            authorize=admin,
        )
        scrape = metrics_routes(self.metrics, authorize=defaults.scraper(self.settings))
        health = [each for each in self.health.routes if isinstance(each, Route)]
        self.routes = health + scrape + defaults.admin_routes(self.engine, admin)
        self._layers = self._middlewares()
        self.engine.listen(self.metrics)
        self._lookups = Lookups(self.engine, self.policies, self.health)
        self._lookups.show_in(self.metrics)

    def install(self, app: Starlette) -> None:
        """Put everything into a Starlette or FastAPI application that has not started yet.

        The endpoints go before the application's own routes, so that a catch-all does not
        swallow them; a path that the application serves itself is left to it, but for what lies
        below `/admin/alerts` where a token is set. Its own lifespan runs inside ours.

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

        Raises:
            ValueError: `app` cannot be called.
        """
        if not callable(app):
            raise ValueError(f"wrap() needs an ASGI application, got {app!r}")
        inner: ASGIApp = Endpoints(app, routes=self.routes)
        for middleware, options in reversed(self._layers):
            inner = middleware(inner, **options)
        return Wrapped(inner, beside=self.running)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs in the background; `install` and `wrap` do it in the lifespan.

        Where the application is mounted in another, nobody runs its lifespan: do it in the other's.

        Raises:
            RuntimeError: It runs already.
        """
        if self._lookups.running:
            raise RuntimeError(
                "this TokenPulse runs already: it was installed or wrapped more than once, or "
                "entered by hand besides; make one for each application that a server starts"
            )
        self._lookups.running = True
        try:
            configure_logs(self.settings)
            drains = drain_on_sigterm(self.health, delay=self.settings.drain_delay)
            async with self.engine, self.metrics.looking_up(), self.health.running(), drains:
                try:
                    yield
                finally:
                    for policy in self.policies:
                        if isinstance(policy.limiter, SharedLimiter):
                            await policy.limiter.aclose()
        finally:
            self._lookups.running = False

    def _middlewares(self) -> list[tuple[Any, dict[str, Any]]]:
        """Our middlewares and their options, outermost first."""
        observers: list[object] = [self.metrics, self.engine.observe]
        ids: list[tuple[Any, dict[str, Any]]] = []
        if self.settings.access_log:
            observers.append(AccessLog())
            ids.append((RequestIdMiddleware, {}))  # outermost, for every line to have the id
        exchange = {"observers": observers, "provider": self.providers}
        with set_by("limit_answer"):
            respond = defaults.answer(self.settings.limit_answer)
        rate_limit: dict[str, Any] = {
            "policies": self.policies,
            "headers": self.settings.limit_headers,
            "respond": respond,
            "enforce": self.settings.limit_enforce,
            # A probe, a scrape or somebody on call must get through when nobody else does.
            "exempt": [_pattern(route.path) for route in self.routes],
        }
        # What is malformed is to be refused here, and not when the server starts.
        with set_by("limit_headers"):
            RateLimitMiddleware(Router(), **rate_limit)
        return [*ids, (ExchangeMiddleware, exchange), (RateLimitMiddleware, rate_limit)]

    def _around(self, lifespan: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Any]:
            async with self.running(), lifespan(app) as state:
                yield state

        return both


def _pattern(path: str) -> str:
    """The path of a route as an exempt path: what has parameters, with all that lies below."""
    beginning, brace, _ = path.partition("{")
    return beginning + "*" if brace else path


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
