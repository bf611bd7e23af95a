"""Middleware that serves probes, scrapes and operators before the rate limit."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ..exchange import app_path


@dataclass(frozen=True, slots=True)
class OwnEndpoint:
    """A route of this library, and the requests to it that are not limited.

    Attributes:
        route: The route.
        authorize: Checks the `Authorization` header; None if the route does not read it.
        is_public: True if the route also serves requests without an `Authorization` header.
    """

    route: Route
    authorize: Callable[[Request], bool] | None
    is_public: bool

    def is_unlimited(self, scope: Scope) -> bool:
        """Return True unless credentials are required, or are wrong: guesses are limited."""
        if self.authorize is None:
            return True
        request = Request(scope)
        if "authorization" not in request.headers:
            return self.is_public
        return self.authorize(request)


class UnlimitedEndpoints:
    """Middleware that serves the unlimited requests to its endpoints, and passes on all others.

    Unlimited requests are served here instead of being excluded from the limit, so that no
    unlimited request reaches the application.
    """

    def __init__(self, app: ASGIApp, *, endpoints: Iterable[OwnEndpoint]) -> None:
        self.app = app
        self._endpoints = list(endpoints)
        paths = {endpoint.route.path.partition("{")[0] for endpoint in self._endpoints}
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
        return self.app(scope, receive, send)

    def _serve(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or not app_path(scope).startswith(self._prefixes):
            return self.app(scope, receive, send)
        for endpoint in self._endpoints:
            match, child_scope = endpoint.route.matches(scope)
            if match is Match.FULL:
                if not endpoint.is_unlimited(scope):
                    break
                scope.update(child_scope)
                return endpoint.route.handle(scope, receive, send)
        return self.app(scope, receive, send)
