"""The endpoints that probes, scripts and people ask about the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, Router

from ..exchange import PROVIDERS, drop_exchange
from .checks import Call, Check, Checks

Status = Mapping[str, bool]
Credentials = Status | Callable[[], Status | Awaitable[Status]]

CREDENTIALS_PATH = "/api/credentials/status"

_UNCACHED = {"cache-control": "no-store"}


class HealthRouter(Router):
    """`/health`, `/health/live`, `/health/ready` and `/api/credentials/status`.

    Mount it, or add its `routes` to an application. What these endpoints answer is counted
    neither in metrics nor in alerts.

    Args:
        service: The name that `/health` gives.
        providers: The providers that `/health` lists.
        checks: What must hold for the service to be ready, by name: functions that give a
            bool, async or not. Check only what is this process's own: a vendor in trouble
            must not take every replica out of service at once.
        credentials: Whether each provider's credentials are active: a mapping, or a function
            (async or not) that gives one. Without it there is no `/api/credentials/status`.
        timeout: Seconds that a check may take.

    Attributes:
        draining: Set while the service shuts down; it is not ready then.

    Raises:
        ValueError: `timeout` is not above 0, a check cannot be called, or `providers` is a
            string.
    """

    def __init__(
        self,
        *,
        service: str = "tokenpulse",
        providers: Iterable[str] = PROVIDERS,
        checks: Mapping[str, Check] | None = None,
        credentials: Credentials | None = None,
        timeout: float = 2.0,
    ) -> None:
        if isinstance(providers, str):
            raise ValueError(f"providers must be a list of names, got the string {providers!r}")
        self.draining = False
        self._health = {"status": "ok", "service": service, "providers": list(providers)}
        self._checks = Checks(checks or {}, timeout=timeout)
        routes = [
            Route("/health", self._answer_health),
            Route("/health/live", self._answer_live),
            Route("/health/ready", self._answer_ready),
        ]
        self._status: Status = {} if credentials is None or callable(credentials) else credentials
        if credentials is not None:
            self._credentials = credentials
            routes.append(Route(CREDENTIALS_PATH, self._answer_credentials))
        super().__init__(routes, redirect_slashes=False)

    def active_providers(self) -> Mapping[tuple[str], int]:
        """Whether each provider's credentials are active, as far as is known: 1 or 0.

        A function that tells so is not called for this; what it last gave counts.
        """
        return {(name,): int(bool(active)) for name, active in self._status.items()}

    async def _answer_health(self, request: Request) -> Response:
        drop_exchange(request.scope)
        return JSONResponse(self._health, headers=_UNCACHED)

    async def _answer_live(self, request: Request) -> Response:
        drop_exchange(request.scope)
        return JSONResponse({"status": "ok"}, headers=_UNCACHED)

    async def _answer_ready(self, request: Request) -> Response:
        drop_exchange(request.scope)
        results = await self._checks.run()
        ready = not self.draining and all(results.values())
        return JSONResponse(
            {"status": "ok" if ready else "error"},
            status_code=200 if ready else 503,
            headers=_UNCACHED,
        )

    async def _answer_credentials(self, request: Request) -> Response:
        drop_exchange(request.scope)
        source = self._credentials
        self._status = await Call(source).result() if callable(source) else source
        return JSONResponse(
            {name: bool(active) for name, active in self._status.items()}, headers=_UNCACHED
        )
