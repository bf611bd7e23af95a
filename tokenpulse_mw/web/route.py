"""Route of an endpoint of this library in an application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Endpoint = Callable[[Request], Awaitable[Response]]


class OwnRoute(Route):
    """Route that applications can read and list as they do with those of FastAPI's own pages.

    Its endpoint is a function, its methods are a set, its name does not collide with a name of the
    application, and it is not in the OpenAPI schema of the application.

    Args:
        path: Path of the route.
        endpoint: Async function of the request.
        methods: The methods of the endpoint.
        name: Name of the route, which gets the prefix `tokenpulse:`.
        for_all: Whether the endpoint also answers requests with other methods, so that none of
            them reaches a catch-all route of the application.
    """

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        name: str,
        methods: Iterable[str] = ("GET",),
        for_all: bool = False,
    ) -> None:
        super().__init__(
            path,
            endpoint,
            methods=list(methods),
            name=f"tokenpulse:{name}",
            include_in_schema=False,
        )
        if for_all:
            self.methods = _AllMethods(self.methods or ())


class _AllMethods(set[str]):
    """Set that lists some methods and contains all."""

    def __contains__(self, method: object) -> bool:
        return True
