"""The endpoints that probes, scripts and people ask about the service."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from ..exchange import PROVIDERS, drop_exchange
from .check import AnyCheck, Check
from .checks import Checks
from .credentials import Credentials, CredentialStatus
from .lag import EventLoopLag
from .providers import ReportsProviders
from .report import HEALTH_JSON, PLAIN, document, wants_health_json
from .results import CheckResult, Observed, worst

logger = logging.getLogger("tokenpulse_mw.health")

CREDENTIALS_PATH = "/api/credentials/status"

_UNCACHED = {"cache-control": "no-store"}

# Nothing in it is true, as a script that only looks for what is false must find something.
_UNKNOWN = {"error": "the status of credentials is not known now", "available": False}


class HealthRouter(Router):
    """`/health`, `/health/live`, `/health/ready`, `/health/startup`, `/api/credentials/status`.

    Mount it, or add its `routes` to an application. What these endpoints answer is counted
    neither in metrics nor in alerts.

    Args:
        service: The name that `/health` gives.
        providers: The providers that `/health` lists.
        checks: What must hold for the service to be ready, by name: functions that give a
            bool, async or not, or `Check`s. Check only what is this process's own: a vendor in
            trouble must not take every replica out of service at once.
        credentials: Whether each provider's credentials are active: a mapping, or a function
            (async or not) that gives one. Without it there is no `/api/credentials/status`.
        provider_health: How the providers fare; one in trouble makes readiness warn. Such as a
            `ProviderHealth`, which is to observe the exchanges.
        authorize: Whether a request may see the reasons, in `application/health+json`; nobody
            may when None.
        timeout: Seconds that a check, or `credentials`, may take.
        deadline: Seconds that all checks may take together.
        clock: Gives the time in seconds.
        wall: Gives the time in seconds since 1970.

    Attributes:
        starting: Set it until the service has started; it is not ready then.
        draining: Set while the service shuts down; it is not ready then.

    Raises:
        ValueError: A time is malformed, a check cannot be called, `credentials` has anything but
            bools, or `providers` is a string.
    """

    def __init__(
        self,
        *,
        service: str = "tokenpulse",
        providers: Iterable[str] = PROVIDERS,
        checks: Mapping[str, AnyCheck] | None = None,
        credentials: Credentials | None = None,
        provider_health: ReportsProviders | None = None,
        authorize: Callable[[Request], bool] | None = None,
        timeout: float = 2.0,
        deadline: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        if isinstance(providers, str):
            raise ValueError(f"providers must be a list of names, got the string {providers!r}")
        self.starting = self.draining = False
        self._service = service
        self._health = {"status": "ok", "service": service, "providers": list(providers)}
        given = checks or {}
        self._checks = Checks(given, timeout=timeout, deadline=deadline, clock=clock, wall=wall)
        functions = [each.function if isinstance(each, Check) else each for each in given.values()]
        self._lags = [each for each in functions if isinstance(each, EventLoopLag)]
        self._providers, self._authorize, self._wall = provider_health, authorize, wall
        routes = [
            Route("/health", self._answer_health),
            Route("/health/live", self._answer_live),
            Route("/health/ready", self._answer_ready),
            Route("/health/startup", self._answer_startup),
        ]
        self._credentials: CredentialStatus | None = None
        if credentials is not None:
            self._credentials = CredentialStatus(credentials, timeout=timeout, clock=clock)
            routes.append(Route(CREDENTIALS_PATH, self._answer_credentials))
        super().__init__(routes, redirect_slashes=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Have started until the body is over, and drain then; for the application's lifespan.

        What checks measure in the background is measured meanwhile.
        """
        async with AsyncExitStack() as background:
            for lag in self._lags:
                await background.enter_async_context(lag.running())
            self.starting = self.draining = False
            try:
                yield
            finally:
                self.draining = True

    def active_providers(self) -> Mapping[tuple[str], int]:
        """Whether each provider's credentials are active, as far as is known: 1 or 0.

        A function that tells so is not called for this; what it last gave counts.
        """
        known = {} if self._credentials is None else self._credentials.known()
        return {(name,): int(active) for name, active in known.items()}

    async def _answer_health(self, request: Request) -> Response:
        if _wants_health_json(request):
            return await self._answer_ready(request)
        drop_exchange(request.scope)
        return JSONResponse(self._health, headers=_UNCACHED)

    async def _answer_live(self, request: Request) -> Response:
        return self._answer(request, {})

    async def _answer_startup(self, request: Request) -> Response:
        return self._answer(request, self._state("starting", self.starting))

    async def _answer_ready(self, request: Request) -> Response:
        state = self._state("starting", self.starting) or self._state("draining", self.draining)
        return self._answer(request, state or await self._observed())

    async def _answer_credentials(self, request: Request) -> Response:
        drop_exchange(request.scope)
        status = None if self._credentials is None else await self._credentials.get()
        if status is None:
            return JSONResponse(
                _UNKNOWN, status_code=503, headers={**_UNCACHED, "retry-after": "1"}
            )
        return JSONResponse(status, headers=_UNCACHED)

    async def _observed(self) -> dict[str, Observed]:
        of_providers = {} if self._providers is None else self._providers.report()
        return {**await self._checks.run(), **of_providers}

    def _state(self, name: str, holds: bool) -> dict[str, Observed]:
        if not holds:
            return {}
        result = CheckResult(status="fail", observed_value=name)
        return {"service:state": Observed(result, self._wall(), "component")}

    def _answer(self, request: Request, observed: Mapping[str, Observed]) -> Response:
        drop_exchange(request.scope)
        status = worst(each.result.status for each in observed.values())
        code = 503 if status == "fail" else 200
        if not _wants_health_json(request):
            return JSONResponse({"status": PLAIN[status]}, code, _UNCACHED)
        told = document(status, self._service, observed if self._may_know(request) else None)
        return Response(json.dumps(told), code, _UNCACHED, HEALTH_JSON)

    def _may_know(self, request: Request) -> bool:
        try:
            return self._authorize is not None and bool(self._authorize(request))
        except Exception:
            logger.exception("authorize failed: the details of health are kept back")
            return False


def _wants_health_json(request: Request) -> bool:
    return wants_health_json(",".join(request.headers.getlist("accept")))
