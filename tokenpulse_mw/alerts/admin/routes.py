"""Routes of the admin API."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...exchange import drop_exchange
from ...web.auth import Authorize, Guard
from ...web.body import read_body
from ...web.problems import ProblemError, problem_response
from ...web.route import OwnRoute
from ..engine import AlertEngine
from ..store import StoreError
from . import alerts, diagnostics, fleet, silences, thresholds
from .openapi import describe
from .operation import AdminRequest, AdminResponse, Operation
from .parameters import read_query
from .serializers import as_json

logger = logging.getLogger("tokenpulse_mw.alerts")

# Those of a single alert are last, because its path `/{id}` matches the other paths too.
OPERATIONS = (
    *thresholds.OPERATIONS,
    *silences.OPERATIONS,
    *diagnostics.OPERATIONS,
    *fleet.OPERATIONS,
    *alerts.OPERATIONS,
)


def alert_routes(
    engine: AlertEngine,
    *,
    authorize: Authorize,
    prefix: str = "/admin/alerts",
) -> list[BaseRoute]:
    """Return routes that read and change alerts, silences and thresholds.

    `GET {prefix}/openapi.json` returns their OpenAPI description. Authorized requests are excluded
    from request metrics and alerts. Unknown paths below `prefix` get a 404, so that no token
    reaches a catch-all route of the application, and from there a vendor.

    Args:
        engine: The alert engine.
        authorize: Function of the request, async or not, that returns True or the name of the
            caller, which is stored with the changes. False, None and an empty name are rejected
            with 401, and an exception with 403.
        prefix: Path of the routes.

    Raises:
        ValueError: `authorize` is not callable, or `prefix` is not a path.
    """
    if not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix:
        raise ValueError(f"prefix must be a path such as /admin/alerts, got {prefix!r}")
    guard = Guard(authorize, of="alert_routes")
    paths: dict[str, list[Operation]] = {}
    for operation in (_openapi(prefix), *OPERATIONS):
        paths.setdefault(operation.path, []).append(operation)
    routes = [
        Endpoint(operations, engine=engine, guard=guard).route(
            prefix + path, name=operations[0].handle.__name__
        )
        for path, operations in paths.items()
    ]
    not_found = Endpoint((), engine=engine, guard=guard)
    return [*routes, not_found.route(prefix + "/{path:path}", name="alerts_not_found")]


def _openapi(prefix: str) -> Operation:
    description = describe(OPERATIONS, prefix)

    async def get_openapi(request: AdminRequest) -> AdminResponse:
        root = request.http.scope.get("root_path")
        return AdminResponse({**description, "servers": [{"url": root}]} if root else description)

    return Operation(
        method="GET",
        path="/openapi.json",
        handle=get_openapi,
        summary="Return the OpenAPI description of this API",
    )


class Endpoint:
    """Operations of one path; without operations, every request gets 404.

    Authorization comes first: nothing else of the request is read before it. Authorized requests
    are excluded from request metrics and alerts.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        engine: AlertEngine,
        guard: Guard,
    ) -> None:
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._engine = engine
        self._guard = guard

    def route(self, path: str, *, name: str) -> BaseRoute:
        """Return a route of `path` for requests of every method."""
        return OwnRoute(path, self.answer, name=name, methods=self._operations, for_all=True)

    async def answer(self, request: Request) -> Response:
        """Return the response to one request."""
        try:
            name = await self._guard.authorize(request)
            drop_exchange(request.scope)
            return _response(await self._handle(request, name))
        except ProblemError as problem:
            return problem_response(problem)
        except StoreError as error:
            logger.error("alert store failed, admin request rejected: error=%s", error)
            return problem_response(
                ProblemError(503, "Service unavailable: the alert store failed; see the log.")
            )

    async def _handle(self, request: Request, name: str) -> AdminResponse:
        if not self._operations:
            raise ProblemError(404, "Not found: openapi.json lists all paths.")
        operation = self._operations.get(request.method)
        if operation is None:
            allow = ", ".join(self._operations)
            raise ProblemError(
                405, f"Method not allowed. Allowed methods: {allow}.", headers={"allow": allow}
            )
        query, body = read_query(request, operation.query), None
        if request.method not in ("GET", "HEAD"):
            body_type = operation.raw_type or operation.body_type
            body = await read_body(request, body_type, optional=operation.optional)
        await self._engine.controls.refresh()
        return await operation.handle(AdminRequest(self._engine, request, name, query, body))


def _response(response: AdminResponse) -> Response:
    headers = {"cache-control": "no-store", **response.headers}
    if response.value is None:
        return Response(status_code=response.status, headers=headers)
    return Response(as_json(response.value), response.status, headers, "application/json")
