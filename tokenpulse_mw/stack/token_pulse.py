"""All parts in one call.

Order, outermost first: CORS of the application, request ids if enabled, exchange (so that 429s and
crashes are measured too), unlimited endpoints, rate limit, other middleware of the application such
as one that authenticates, rate limit of the inner policies, routes.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection
from starlette.routing import BaseRoute, Route, Router
from starlette.types import ASGIApp, Scope

from ..alerts import AlertEngine, MemoryAlertStore, Sink, Thresholds
from ..config import Settings
from ..exchange import (
    Models,
    ObserverLike,
    Providers,
    RequestsInProgress,
    RouteGroup,
    UpstreamQuotas,
    has_route,
)
from ..health import AnyCheck, Credentials, HealthRouter, drain_on_sigterm
from ..lifespan import background_tasks
from ..logs import AccessLog, RequestIdMiddleware
from ..metrics import ExchangeGauges, HttpMetrics, metrics_routes
from ..ratelimit import (
    FROM_LIMIT,
    RESPONSES,
    AnyLimiter,
    BlockedKeys,
    ConnectionCondition,
    ConnectionCost,
    ConnectionReserve,
    OnDecision,
    OnMissingCost,
    Policy,
    RateLimitMiddleware,
    RateOf,
    RateTable,
    Rejections,
    Respond,
    RouteLimit,
    RouteLimits,
    Weight,
    exempt_paths,
)
from ..ratelimit.zone import ZoneLimiter
from ..usage import Prices, PriceTable
from ..web.auth import Authorize, TenantOf
from . import defaults, limits
from .config_file import ConfigFile
from .dashboard import LivePage
from .defaults import configure_logs
from .gauges import Gauges
from .nested import Gateway, GatewayExchangeMiddleware
from .openapi import document_limits, limited_response
from .origins import warn_unused
from .outside import has_cors, is_class, put_cors_outside, refusals_logged
from .saved_limits import SavedLimits
from .shared_blocks import SharedBlocks
from .unlimited import PROBE_PATHS, OwnEndpoint, UnlimitedEndpoints, never
from .workers import warn_of_workers
from .wrap import RoutesBefore, WithLifespan

logger = logging.getLogger("tokenpulse_mw")

Layer = tuple[Any, dict[str, Any]]  # a middleware and its options

# Annotations in the access log. Not `api_key`: some applications annotate the key itself.
_LOGGED_ANNOTATIONS = ("tenant", "tenant_name", "credential", "credential_group")
_OF_ROUTE_LIMITS = (
    *("default_key", "headers", "respond", "enforce", "on_decision"),
    "rejections",
)


class TokenPulse:
    """All parts for one gateway: `install` it into an application, or `wrap` one in it.

    Args:
        service: Name of the service in `/health`.
        providers: Names of the providers; or a mapping of names to patterns of their models, such
            as `{"openai": ["gpt-*", "o3*"]}`; or `Providers` with a resolver. If None, well-known
            vendors are recognised, and `/health` lists those that responded.
        settings: Settings of the operator; `Settings()` if None, which reads the environment.
        limit: Limit of each client, such as "20/minute", instead of that of the settings; None
            sets no limit.
        policies: The limits, instead of one for each client. Policies without a key count by the
            client's address, behind the proxies of the settings. An empty list sets no limit.
        inner_policies: Further limits, evaluated inside of the application's own middleware, so
            that their keys can use what an authentication found, such as
            `keys.annotation("tenant")`. They count only requests that `policies` or `limit`
            admitted. `wrap` rejects them.
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
        models: Models that metrics count by name, instead of those of the settings.
        metrics: Receives every exchange. If None, a registry of its own with the process, platform
            and GC collectors, so that `/metrics` shows no other metrics of the process;
            `HttpMetrics()` serves prometheus_client's default registry.
        prices: Prices of models, by which the cost of a response is estimated if it does not report
            one: a table of `Rates` by model, before the price list of the settings, or `Prices`.
        usage_tenant: Function of the request, async or not, that returns the id of the tenant that
            sent it, or None. It adds `GET /usage`, with the usage of this tenant only.
        authorize: Checks operators instead of the admin token of the settings: a function of the
            request, async or not, that returns True, a name, a `Person` with rights, or False. It
            adds the endpoints below `/admin`.

    Attributes:
        policies: All limits, also those made by `limit`, whose limiters can be inspected and reset.
        health: The health endpoints, and whether the service is draining.
        prices: The prices; None if only reported costs are known.
        in_progress: The requests in progress in this process.
        upstream: What is left of the providers' rate limits, as this process saw it.
        routes: The endpoints that `install` and `wrap` add.

    Raises:
        ValueError: An argument or a setting is invalid; the message names it.
    """

    def __init__(
        self,
        *,
        service: str = "tokenpulse",
        providers: Iterable[str] | Mapping[str, Iterable[str]] | Providers | None = None,
        settings: Settings | None = None,
        limit: str | None = limits.FROM_SETTINGS,
        policies: Iterable[Policy] | None = None,
        inner_policies: Iterable[Policy] = (),
        exempt: Iterable[str] = (),
        respond: Respond | None = None,
        on_decision: OnDecision | None = None,
        observers: Iterable[ObserverLike] = (),
        credentials: Credentials | None = None,
        checks: Mapping[str, AnyCheck] | None = None,
        thresholds: Thresholds | None = None,
        sinks: Iterable[Sink] | None = None,
        engine: AlertEngine | None = None,
        models: Models | None = None,
        metrics: HttpMetrics | None = None,
        prices: Prices | PriceTable | None = None,
        usage_tenant: TenantOf | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        self.settings = Settings() if settings is None else settings
        if not isinstance(self.settings, Settings):
            raise ValueError(
                f"settings must be Settings(...), got one of type {type(settings).__name__}"
            )
        self.providers = providers if isinstance(providers, Providers) else Providers(providers)
        self._shared = shared = defaults.shared_dir(self.settings)
        self._outer_policies = limits.policies(self.settings, shared, policies, limit)
        inner = limits.inner_policies(inner_policies, self._outer_policies)
        given = inner if policies is None else [*self._outer_policies, *inner]
        limits.warn_of_local(self.settings, shared, given)
        self.policies = [*self._outer_policies, *inner]
        self.metrics = defaults.metrics(self.settings, shared, metrics, models)
        self.engine = defaults.engine(
            self.settings,
            shared,
            self.policies,
            engine,
            thresholds=thresholds,
            sinks=sinks,
            models=self.metrics.models,
        )
        in_progress, upstream = self.engine.in_progress, self.engine.upstream
        self.in_progress = RequestsInProgress() if in_progress is None else in_progress
        self.upstream = UpstreamQuotas() if upstream is None else upstream
        defaults.warn_if_unused(self.settings, engine=engine, metrics=metrics)
        self._client_key = limits.client_key(self.settings)
        admin = defaults.admin_guard(self.settings, authorize, self._client_key)
        self._has_admin = admin is not None
        scraper = defaults.metrics_guard(self.settings, self._client_key)
        self.health = HealthRouter(
            service=service,
            providers=self.providers.listed,
            checks=checks,
            credentials=credentials,
            provider_health=defaults.AlertedProviders(self.engine),
            authorize=admin,
        )
        scrape = metrics_routes(self.metrics, authorize=scraper)
        self._rejections, blocks = Rejections(), BlockedKeys(self.policies)
        self._shared_blocks = (
            SharedBlocks(self.engine, self.policies, blocks) if self.settings.alerts else None
        )
        operate = defaults.admin_routes(
            self.settings,
            self.engine,
            self.policies,
            admin,
            rejections=self._rejections,
            blocks=blocks,
            shared_blocks=self._shared_blocks,
            secret=None if admin is None else defaults.handle_secret(self.settings, shared),
        )
        self._dashboard = LivePage(
            self.settings,
            self.engine,
            self.metrics,
            self.health,
            self.providers,
            service=service,
            in_progress=self.in_progress,
            upstream=self.upstream,
        )
        page, live = self._dashboard.endpoints(admin)
        own_usage = defaults.tenant_routes(self.settings, self.engine, usage_tenant)
        self._endpoints = [
            OwnEndpoint(route, check, is_public)
            for routes, check, is_public in (
                (self.health.routes, admin, True),
                (scrape, scraper, False),
                (operate, admin, False),
                (page, None, True),
                (live, admin, False),
                (own_usage, never, False),  # limited like the tenant's other requests
            )
            for route in routes
            if isinstance(route, Route)
        ]
        self.routes: list[BaseRoute] = [endpoint.route for endpoint in self._endpoints]
        self.prices = defaults.prices(self.settings, prices)
        limits.reserve_from_prices(self.policies, self.prices, self.providers)
        self._measuring = self._observe(observers)
        options = self._limit_options(exempt, respond, on_decision)
        self._limiting = _limit_layers(self._outer_policies, options)
        self._inner = _limit_layers(inner, options)
        route_options = {name: options[name] for name in _OF_ROUTE_LIMITS}
        self._route_limits = RouteLimits(
            self.policies,
            create_limiter=partial(limits.create_limiter, self.settings, shared),
            **route_options,
        )
        self._is_exempt = exempt_paths(exempt)
        functions = {function: name for name, function in RESPONSES.items()}
        named = functions.get(options["respond"])
        self._limited_response = limited_response(self.settings.limit_headers, named)
        self.engine.add_listener(self.metrics)
        self._lookups = Gauges(self.engine, self.policies, self.health)
        self._lookups.show_in(self.metrics)
        self._exchange_gauges = ExchangeGauges(self.in_progress, self.upstream)
        self._exchange_gauges.show_in(self.metrics)
        is_from_settings = policies is None and limit is limits.FROM_SETTINGS
        self._config_files = [
            ConfigFile(self.settings, policy)
            for policy in (self._outer_policies if is_from_settings else ())
        ]
        self._saved_limits = SavedLimits(self.engine.store, self.policies)
        self._has_run = False

    def install(self, app: Starlette) -> None:
        """Install all parts into a Starlette or FastAPI application that has not started.

        The endpoints precede the application's own routes, so that a catch-all does not swallow
        them. A path that the application serves itself stays with it and is limited, except below
        `/admin/alerts` if a token is set. Unlimited requests to the endpoints are served
        before any middleware that was added earlier, such as one that authenticates. A
        `CORSMiddleware` that was added earlier is moved outside, so that browsers can read a 429.
        The application's lifespan runs inside ours.

        Raises:
            ValueError: `app` is not a Starlette application, has started, or has a TokenPulse
                already.
        """
        if not isinstance(app, Starlette):
            raise ValueError(
                f"install() needs a Starlette or FastAPI application, got {app!r}; "
                "use wrap() for any other ASGI application"
            )
        if app.middleware_stack is not None:
            raise ValueError(
                "install() must be called before the application starts: call it where the "
                "application is created, not in its lifespan"
            )
        if any(is_class(entry, UnlimitedEndpoints) for entry in app.user_middleware):
            raise ValueError(
                "a TokenPulse is installed in the application already: install one, with all "
                "policies and observers"
            )
        endpoints = _not_taken(self._endpoints, app.router.routes)
        for middleware, options in reversed(self._layers(endpoints)):
            app.add_middleware(middleware, **options)
        app.user_middleware += [Middleware(layer, **options) for layer, options in self._inner]
        put_cors_outside(app)
        app.router.routes.insert(0, RouteGroup(endpoint.route for endpoint in endpoints))
        app.router.lifespan_context = self._around(app, app.router.lifespan_context)
        self._document(app)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return an ASGI application with all parts around `app`.

        The endpoints precede those of `app`. Its lifespan, if it has one, runs inside ours.

        Raises:
            ValueError: `app` cannot be called, or there are `inner_policies`.
        """
        if not callable(app):
            raise ValueError(f"wrap() needs an ASGI application, got {app!r}")
        if self._inner:
            raise ValueError(
                "inner_policies need install(), because wrap() cannot put a limit inside of the "
                "application's middleware: use install(), or policies"
            )
        if has_cors(app):
            logger.info(
                "the application has CORSMiddleware inside of wrap(), so browsers cannot read a "
                "429 and their preflights are limited: use install(), or add CORSMiddleware "
                "around the wrapped application"
            )
        self._document(app)
        inner: ASGIApp = RoutesBefore(app, routes=[endpoint.route for endpoint in self._endpoints])
        for middleware, options in reversed(self._layers(self._endpoints)):
            inner = middleware(inner, **options)
        return WithLifespan(inner, lifespan=self.lifespan)

    def limit(
        self,
        limit: str | RateOf | RateTable | AnyLimiter,
        *,
        name: str | None = None,
        key: object = None,
        cost: ConnectionCost = 1,
        tokens: ConnectionCost | None = None,
        weights: Mapping[str, Weight] | None = None,
        reserve: ConnectionReserve | None = None,
        on_missing_cost: OnMissingCost = "reserve",
        when: ConnectionCondition | None = None,
        enforce: bool = True,
        status: int = 429,
        timezone: str | None = None,
    ) -> RouteLimit:
        """Return a limit for routes: for `Depends` of FastAPI, or for `check`.

        It counts in addition to the limits of the middleware. All routes with the same object
        share it; each call creates another limit, so call it once and not for each request.
        Functions receive the request or WebSocket, and those for a `Policy` can be used too.

        Args:
            limit: A rate such as "20/minute", "5 USD/day" or "1000/calendar day"; a mapping of
                keys to rates; a function of the key, async or not, that returns a rate, or None
                for no limit; or a limiter such as `InFlight(4)`.
            name: Name in headers, metrics and errors; after the rate when None.
            key: Function of the request that returns the client's key, or a dependency of FastAPI
                that does: `Depends(get_tenant)` or `Annotated[str, Depends(get_tenant)]`. The
                client's address when None, as in the middleware. A request whose key is None is
                not limited.
            cost: Cost of a request: an integer, or a function of the request.
            tokens: Limit tokens instead of requests: this number (or function of the request) is
                reserved, and replaced by the reported usage when the response ends.
            weights: With `tokens`: weight of each kind of token, as for a `Policy`.
            reserve: With a limit of money: amount that is reserved and replaced by the cost when
                the response ends, such as "0.05 USD", or a function of the request.
            on_missing_cost: With a limit of money: "reserve", "allow" or "refuse", as for a
                `Policy`.
            when: Condition on the request; all when None.
            enforce: False counts and reports without rejecting (shadow mode).
            status: Status code of a rejection: 429 or 402.
            timezone: Time zone of the calendar windows of a rate; UTC when None.

        Raises:
            ValueError: An argument is malformed, or the name is used already.
        """
        added = self._route_limits.add(
            limit,
            name=name,
            key=key,
            cost=cost,
            tokens=tokens,
            weights=weights,
            reserve=reserve,
            on_missing_cost=on_missing_cost,
            when=when,
            enforce=enforce,
            status=status,
            timezone=timezone,
        )
        if not isinstance(limit, str):
            limits.warn_of_local(self.settings, self._shared, [added.policy])
        self.engine.controls.repeat_settings()
        return added

    async def check(
        self,
        connection: HTTPConnection | Scope,
        *limits: RouteLimit,
        key: Hashable | None = FROM_LIMIT,
    ) -> None:
        """Count a request under all `limits`, or under none and raise `RateLimited`.

        Call it in endpoints, before a WebSocket is accepted or for each of its messages, and in
        middleware that was added before `install`. The exception becomes the response 429.

        Args:
            connection: The request, the WebSocket, or the scope.
            limits: Limits made by `limit`.
            key: The client's key, instead of what the keys of `limits` return. With None, the
                request is not limited.

        Raises:
            RateLimited: The request is over a limit.
            ValueError: There is no limit, or one was not made by `limit`.
        """
        await self._route_limits.check(connection, *limits, key=key)

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:  # noqa: ARG002
        """Run the background tasks: alert evaluations, drain on SIGTERM, credential checks.

        `install` and `wrap` run it in the application's lifespan. Servers run only the lifespan of
        the outermost application, so if the gateway is mounted in another application, use it
        there: `Starlette(lifespan=pulse.lifespan)`.

        Once it has ended, it may be entered again; that start begins with a `reset`. Entered while
        it runs, also in another thread or event loop, it joins the running one: there is one set of
        background tasks, which end with the entry that started them.

        Args:
            app: The application, as Starlette passes it; not used.
        """
        async with AsyncExitStack() as exits:
            if self._lookups.running.acquire(blocking=False):
                exits.callback(self._lookups.running.release)
                await self._start(exits)
            exits.push_async_callback(self._close_connections)
            yield

    def reset(self) -> None:
        """Discard the traffic of this process, such as that of the previous test.

        Limits, alerts, metrics and results of health checks are those of a new process. State
        outside the process stays: counters in the storage of a `SharedLimiter` and in the file of
        a `ZoneLimiter`, alerts in an SQL store, files of metrics. A request in progress is counted
        by the metrics and the alerts when it ends, but no longer by the limits in this process.
        """
        for policy in self.policies:
            if not isinstance(policy.limiter, ZoneLimiter):
                policy.limiter.clear()
        self.engine.reset()
        self.metrics.clear()
        self.health.clear()
        self._rejections.clear()
        self.providers.seen.clear()
        self.upstream.clear()
        self._dashboard.clear()

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """Limit no request and count none in the limits during the body, as in a test."""
        before = [policy.suspended for policy in self.policies]
        try:
            for policy in self.policies:
                policy.suspended = True
            yield
        finally:
            for policy, suspended in zip(self.policies, before, strict=True):
                policy.suspended = suspended

    async def _start(self, exits: AsyncExitStack) -> None:
        """Start the background tasks; `exits` ends them."""
        if self._has_run:
            self.reset()
        self._has_run = True
        configure_logs(self.settings)
        if not self._has_admin:
            logger.info(
                "admin API and live page are off: set TOKENPULSE_ADMIN_TOKEN, or give TokenPulse "
                "authorize"
            )
        limits.warn_of_missing_prices(self.policies, self.prices)
        if self._shared_blocks is not None:
            await exits.enter_async_context(self.engine)
            if not isinstance(self.engine.store, MemoryAlertStore):
                await exits.enter_async_context(self._saved_limits.running())
                await exits.enter_async_context(background_tasks(self._shared_blocks.watch))
        await exits.enter_async_context(self.metrics.refreshing())
        await exits.enter_async_context(self.health.running())
        await exits.enter_async_context(self._dashboard.running())
        drains = drain_on_sigterm(self.health, delay=self.settings.drain_delay)
        await exits.enter_async_context(drains)
        watches = [self.in_progress.watch, *(file.watch for file in self._config_files)]
        await exits.enter_async_context(background_tasks(*watches))
        if unshared := defaults.unshared(self.settings, self.policies, self.engine, self.metrics):
            await exits.enter_async_context(background_tasks(partial(warn_of_workers, unshared)))

    async def _close_connections(self) -> None:
        """Close the connections that limits have in this event loop."""
        for policy in self.policies:
            if policy.shared:
                await policy.remote.aclose()

    def _layers(self, endpoints: Sequence[OwnEndpoint]) -> list[Layer]:
        """Return all middlewares and their options, outermost first."""
        options = {"endpoints": endpoints, "is_limited": bool(self._limiting)}
        return [*self._measuring, (UnlimitedEndpoints, options), *self._limiting]

    def _observe(self, observers: Iterable[ObserverLike]) -> list[Layer]:
        """Return the middlewares that observe every request, outermost first."""
        ours: list[ObserverLike] = [self.metrics]
        ids: list[Layer] = []
        if self.settings.alerts:
            ours.append(self.engine)
        if self.settings.access_log:
            ours.append(AccessLog(include=_LOGGED_ANNOTATIONS))
            ids.append((RequestIdMiddleware, {}))  # outermost, so that every line has the id
        options: dict[str, Any] = {
            "gateway": Gateway(self.settings.alerts, self.policies),
            "observers": [*ours, *observers],
            "provider": self.providers,
            "websocket_usage": self.settings.websocket_usage,
            "prices": self.prices,
            "in_progress": self.in_progress,
            "quotas": self.upstream,
        }
        GatewayExchangeMiddleware(Router(), **options)  # invalid options are rejected here
        return [*ids, (GatewayExchangeMiddleware, options)]

    def _limit_options(
        self, exempt: Iterable[str], respond: Respond | None, on_decision: OnDecision | None
    ) -> dict[str, Any]:
        """Return the options of the limits, except for their policies."""
        if respond is not None:
            warn_unused(self.settings, ["limit_response"], "respond is given")
        return {
            "default_key": self._client_key,
            "headers": self.settings.limit_headers,
            "respond": RESPONSES[self.settings.limit_response] if respond is None else respond,
            "exempt": exempt,
            "enforce": self.settings.limit_enforce,
            "on_decision": on_decision,
            "rejections": self._rejections,
        }

    def _document(self, app: object) -> None:
        """Show the limits in the OpenAPI schema of a FastAPI application."""
        document_limits(app, self._limited_response, self._limits_any)

    def _limits_any(self, scope: Scope) -> bool:
        """Return True if the middleware limits every request like `scope`."""
        if not self.settings.limit_enforce or (self._is_exempt and self._is_exempt(scope)):
            return False
        return any(policy.enforce and policy.when is None for policy in self._outer_policies)

    def _around(self, installed: Starlette, lifespan: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def both(app: Any) -> AsyncIterator[Any]:
            self._document(app)  # for mounts and schemas that were added after `install`
            async with self.lifespan(app):
                with refusals_logged(installed, self._outside(installed), self._endpoints):
                    async with lifespan(app) as state:
                        yield state

        return both

    def _outside(self, app: Starlette) -> list[Middleware]:
        """Return the middleware of the application that was added after `install`."""
        for index, entry in enumerate(app.user_middleware):
            if is_class(entry, UnlimitedEndpoints):
                return app.user_middleware[: index - len(self._measuring)]
        return []  # the application has removed ours


def _limit_layers(policies: Sequence[Policy], options: Mapping[str, Any]) -> list[Layer]:
    """Return the middleware of the limits; none without limits."""
    if not policies:
        return []
    options = {"policies": policies, **options}
    RateLimitMiddleware(Router(), **options)  # invalid options are rejected here
    return [(RateLimitMiddleware, options)]


def _not_taken(ours: Sequence[OwnEndpoint], theirs: Sequence[BaseRoute]) -> list[OwnEndpoint]:
    """Return the endpoints of `ours` whose path the application does not serve itself."""
    kept: list[OwnEndpoint] = []
    for endpoint in ours:
        path = endpoint.route.path.removesuffix("/")
        if not has_route(theirs, path) and not has_route(theirs, endpoint.route.path):
            kept.append(endpoint)
        elif path == endpoint.route.path:
            logger.warning("endpoint of the application is kept: path=%s%s", path, _hint(path))
    return kept


def _hint(path: str) -> str:
    """Return what follows for a path that the application serves itself."""
    if path == "/metrics":
        return (
            " (limited unless `exempt` names it; metrics_token does not protect it, and it has the "
            "metrics of this library only with TokenPulse(metrics=HttpMetrics()))"
        )
    return "" if path in PROBE_PATHS else " (limited unless `exempt` names it)"
