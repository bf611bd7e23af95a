"""Health endpoints for probes, scripts and people."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from ..exchange import drop_exchange
from ..lifespan import background_tasks
from ..validation import check_strings
from ..web.auth import Authorize, Guard
from ..web.problems import ProblemError
from ..web.route import Endpoint, OwnRoute
from .checks import AnyCheck, Check, Checks
from .credentials import Credentials, CredentialStatus
from .event_loop_lag import EventLoopLag
from .providers import ReportsProviders
from .report import HEALTH_JSON, PLAIN, accepts_health_json, document
from .results import CheckResult, Observation, worst

CREDENTIALS_PATH = "/api/credentials/status"

_UNCACHED = {"cache-control": "no-store"}

# It contains false, for scripts that ignore the status code and look for false values.
_UNKNOWN = {"error": "the status of the credentials is unknown", "available": False}


class HealthRouter(Router):
    """Router of the health endpoints.

    `/health`, `/health/live`, `/health/ready`, `/health/startup`, `/api/credentials/status`.
    Mount it, or add its `routes` to an application. Each path is also served with a trailing slash.
    The endpoints are not counted in metrics or alerts.

    Args:
        service: Name of the service in `/health`.
        providers: Providers listed by `/health`: a list of names, or a function that returns one.
        checks: Conditions of readiness by name: functions that return a bool, async or not, or
            `Check`s. Check only this process: a vendor that is down must not take all replicas out
            of service.
        credentials: State of each provider's credentials: a mapping of provider to bool, or a
            function (async or not) that returns one. Without it, `/api/credentials/status` does
            not exist.
        provider_health: Source of provider health, such as a `ProviderHealth` that observes the
            exchanges. If a provider is unhealthy, readiness warns.
        authorize: Returns True or a name if a request may see the reasons, in
            `application/health+json`; may be async. If None, no request may.
        timeout: Seconds that a check or `credentials` may take.
        deadline: Seconds that all checks may take together; the timeout of probes must be longer.
        clock: Monotonic seconds.
        wall: Seconds since the epoch.

    Attributes:
        starting: True while the service warms up: `/health/startup` and `/health/ready` fail. Set
            by the application.
        draining: True while the service shuts down: `/health/ready` fails.

    Raises:
        ValueError: A time is invalid, `service` is not a string, a check or `authorize` is not
            callable, `checks` is not a mapping, `credentials` has values other than bools, or
            `providers` is not a list of strings.
    """

    def __init__(
        self,
        *,
        service: str = "tokenpulse",
        providers: Iterable[str] | Callable[[], Iterable[str]] = (),
        checks: Mapping[str, AnyCheck] | None = None,
        credentials: Credentials | None = None,
        provider_health: ReportsProviders | None = None,
        authorize: Authorize | None = None,
        timeout: float = 2.0,
        deadline: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(service, str):
            raise ValueError(f"service must be a string, the name of the service, got {service!r}")
        example = "['openai', 'anthropic']"
        names = () if callable(providers) else check_strings("providers", providers, example)
        self.starting = self.draining = False
        self._service = service
        self._list_providers = providers if callable(providers) else partial(list, names)
        checks = {} if checks is None else checks
        self._checks = Checks(checks, timeout=timeout, deadline=deadline, clock=clock, wall=wall)
        functions = [
            check.function if isinstance(check, Check) else check for check in checks.values()
        ]
        self._lags = [function for function in functions if isinstance(function, EventLoopLag)]
        self._providers, self._wall = provider_health, wall
        self._guard = None if authorize is None else Guard(authorize, of="HealthRouter")
        endpoints: dict[str, Endpoint] = {
            "/health": self._respond_health,
            "/health/live": self._respond_live,
            "/health/ready": self._respond_ready,
            "/health/startup": self._respond_startup,
        }
        self._credentials: CredentialStatus | None = None
        if credentials is not None:
            self._credentials = CredentialStatus(credentials, timeout=timeout, clock=clock)
            endpoints[CREDENTIALS_PATH] = self._respond_credentials
        super().__init__(probe_routes(endpoints), redirect_slashes=False)

    def clear(self) -> None:
        """Discard the cached results of checks and credentials."""
        self._checks.clear()
        if self._credentials is not None:
            self._credentials.clear()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the background tasks of checks during the body, and drain at its end.

        Enter it in the application's lifespan. The status of the credentials is refreshed once a
        minute.
        """
        async with AsyncExitStack() as background:
            for lag in self._lags:
                await background.enter_async_context(lag.running())
            if self._credentials is not None:
                await background.enter_async_context(background_tasks(self._credentials.refresh))
            self.draining = False
            try:
                yield
            finally:
                self.draining = True

    def active_providers(self) -> Mapping[tuple[str], int]:
        """Return 1 for each provider with active credentials and 0 for the others.

        A `credentials` function is not called here: its last result is used if it is at most five
        minutes old. The function is called once a minute inside of `running()`.
        """
        status = {} if self._credentials is None else self._credentials.recent()
        return {(name,): int(active) for name, active in status.items()}

    async def _respond_health(self, request: Request) -> Response:
        if _accepts_health_json(request):
            return await self._respond_ready(request)
        providers = [*self._list_providers()]
        body = {"status": "ok", "service": self._service, "providers": providers}
        return JSONResponse(body, headers=_UNCACHED)

    async def _respond_live(self, request: Request) -> Response:
        return await self._respond(request, {})

    async def _respond_startup(self, request: Request) -> Response:
        return await self._respond(request, self._state("starting", self.starting))

    async def _respond_ready(self, request: Request) -> Response:
        state = self._state("starting", self.starting) or self._state("draining", self.draining)
        return await self._respond(request, state or await self.observe())

    async def _respond_credentials(self, _: Request) -> Response:
        status = None if self._credentials is None else await self._credentials.get()
        if status is None:
            return JSONResponse(
                _UNKNOWN, status_code=503, headers={**_UNCACHED, "retry-after": "1"}
            )
        return JSONResponse(status, headers=_UNCACHED)

    async def observe(self) -> dict[str, Observation]:
        """Return the results of the checks and the providers that are not healthy, by name."""
        providers = {} if self._providers is None else self._providers.report()
        return {**await self._checks.run(), **providers}

    def _state(self, name: str, is_active: bool) -> dict[str, Observation]:
        if not is_active:
            return {}
        result = CheckResult(status="fail", observed_value=name)
        return {"service:state": Observation(result, self._wall(), "component")}

    async def _respond(self, request: Request, observations: Mapping[str, Observation]) -> Response:
        status = worst(observation.result.status for observation in observations.values())
        code = 503 if status == "fail" else 200
        if not _accepts_health_json(request):
            return JSONResponse({"status": PLAIN[status]}, code, _UNCACHED)
        authorized = await self._is_authorized(request)
        body = document(status, self._service, observations if authorized else None)
        return Response(json.dumps(body), code, _UNCACHED, HEALTH_JSON)

    async def _is_authorized(self, request: Request) -> bool:
        if self._guard is None:
            return False
        try:
            await self._guard.authorize(request)
        except ProblemError:
            return False
        return True


def _accepts_health_json(request: Request) -> bool:
    return accepts_health_json(",".join(request.headers.getlist("accept")))


class ProbeRoute(OwnRoute):
    """Route for GET and HEAD that is excluded from metrics and alerts.

    Requests with another method, and requests that the client cancels, are excluded too.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        drop_exchange(scope)
        await super().handle(scope, receive, send)


def probe_routes(endpoints: Mapping[str, Endpoint]) -> list[ProbeRoute]:
    """Return the routes of `endpoints`, with and without a trailing slash.

    Otherwise an application redirects, and probes do not follow redirects.
    """
    return [
        ProbeRoute(path + slash, endpoint, name=path[1:].replace("/", "_"))
        for path, endpoint in endpoints.items()
        for slash in ("", "/")
    ]
