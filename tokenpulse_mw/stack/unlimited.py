"""Middleware that serves probes, scrapes and operators before the rate limit."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import annotate, app_path, exact_reads, find_router, request_headers
from ..ratelimit import RateLimitMiddleware
from ..web.auth import Authorize, call, person_of
from ..web.guesses import may_be_credential

logger = logging.getLogger("tokenpulse_mw")

# Names for probes that respond at once. Not /health, which often checks dependencies.
PROBE_PATHS = {
    "/-/healthy",
    "/-/ready",
    "/__heartbeat__",
    "/__lbheartbeat__",
    "/alive",
    "/health/live",
    "/health/liveliness",
    "/health/liveness",
    "/health/readiness",
    "/health/ready",
    "/health/startup",
    "/healthz",
    "/live",
    "/liveness",
    "/livez",
    "/ping",
    "/readiness",
    "/ready",
    "/readyz",
    "/startupz",
    "/up",
}


def never(request: Request) -> bool:  # noqa: ARG001
    """Return False: no request to the endpoint is unlimited."""
    return False


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """A route of this library, and the requests to it that are not limited.

    Attributes:
        route: The route.
        authorize: Checks a request; None if the route serves all.
        is_public: True if the route also serves requests without an `Authorization` header.
    """

    route: Route
    authorize: Authorize | None
    is_public: bool

    def is_open(self, scope: Scope) -> bool:
        """Return True if the route serves a request without checking it."""
        if self.authorize is None:
            return True
        return self.is_public and "authorization" not in Request(scope).headers

    async def is_authorized(self, scope: Scope) -> bool:
        """Return True if `authorize` admits a request; the endpoint reports its errors."""
        try:
            allowed = await call(self.authorize or never, Request(scope))
        except Exception:  # noqa: BLE001 - the endpoint calls it again and reports the error
            return False
        return person_of(allowed) is not None


class UnlimitedEndpoints:
    """Middleware that serves the unlimited requests to its endpoints, and passes on all others.

    Unlimited requests are served here instead of being excluded from the limit, so that no
    unlimited request reaches the application. The only exceptions are GET and HEAD requests to
    probes of the application: routes declared with a path of `PROBE_PATHS`. With a query or a
    header that can hold credentials they are limited, so that credentials cannot be guessed.

    Args:
        app: The limit, if `is_limited`; else the next layer, which may be a limit of its own.
        endpoints: The endpoints.
        is_limited: True if `app` is the limit that unlimited requests skip.
    """

    def __init__(self, app: ASGIApp, *, endpoints: Iterable[OwnEndpoint], is_limited: bool) -> None:
        self.app = app
        self._endpoints = list(endpoints)
        self._inside, self._inside_limit = app, app
        self._probes = frozenset[tuple[str, str]]()
        self._logged = set[str]()
        paths = {endpoint.route.path.partition("{")[0] for endpoint in self._endpoints}
        if is_limited:
            assert isinstance(app, RateLimitMiddleware)
            routes = getattr(find_router(app), "routes", ())
            self._inside, self._inside_limit = app.handle, app.app
            self._probes = exact_reads(routes, PROBE_PATHS - paths)
        paths.update(path for _, path in self._probes)
        # Few and short, because every request is compared with them: /health covers /health/live.
        self._prefixes = tuple(
            path
            for path in paths
            if not any(path != other and path.startswith(other) for other in paths)
        )

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve the request or pass it on."""
        # Kept short: every request passes here.
        if scope.get("path", "").startswith(self._prefixes) or scope.get("root_path"):
            return self._serve(scope, receive, send)
        return self._inside(scope, receive, send)

    def _serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or not (path := app_path(scope)).startswith(self._prefixes):
            return self._inside(scope, receive, send)
        for endpoint in self._endpoints:
            match, child_scope = endpoint.route.matches(scope)
            if match is Match.FULL:
                if not endpoint.is_open(scope):
                    return self._serve_authorized(endpoint, child_scope, scope, receive, send)
                scope.update(child_scope)
                return endpoint.route.handle(scope, receive, send)
        if (scope["method"], path) in self._probes and not _may_have_credentials(scope):
            if path not in self._logged:
                self._logged.add(path)
                logger.info("probe of the application not limited (logged once): path=%s", path)
            return self._inside_limit(scope, receive, send)
        return self._inside(scope, receive, send)

    async def _serve_authorized(
        self, endpoint: OwnEndpoint, child_scope: Scope, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Serve an authorized request to an endpoint; pass all others on to the limit."""
        if await endpoint.is_authorized(scope):
            scope.update(child_scope)
            await endpoint.route.handle(scope, receive, send)
            return

        async def send_response(message: Message) -> None:
            if message["type"] == "http.response.start":  # no provider was called
                if message["status"] == 429:  # too many wrong tokens
                    annotate(scope, fault="policy")
                elif message["status"] >= 500:  # `authorize` failed
                    annotate(scope, fault="gateway")
            await send(message)

        await self._inside(scope, receive, send_response)


def _may_have_credentials(scope: Scope) -> bool:
    return bool(scope.get("query_string")) or any(
        may_be_credential(name) for name, _ in request_headers(scope)
    )
