"""Routes that probes ask for, and that nothing is to count."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..exchange import drop_exchange

Endpoint = Callable[[Request], Awaitable[Response]]


class ProbeRoute(Route):
    """A route of GET and HEAD, kept out of metrics and alerts whatever becomes of the request.

    That it is asked by another method, or given up by who asked, is no news of the service either.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        drop_exchange(scope)
        await super().handle(scope, receive, send)


def probe_routes(endpoints: Mapping[str, Endpoint]) -> list[ProbeRoute]:
    """Routes to `endpoints` by path, with and without a slash at the end.

    Applications redirect from one to the other, which probes take for an answer or do not follow.
    """
    return [
        ProbeRoute(path + slash, endpoint)
        for path, endpoint in endpoints.items()
        for slash in ("", "/")
    ]
