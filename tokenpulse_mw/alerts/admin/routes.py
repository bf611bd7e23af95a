"""Routes of the admin API."""

from __future__ import annotations

from starlette.routing import BaseRoute

from ...web.auth import Authorize, Guard
from ...web.endpoint import check_prefix
from ...web.openapi import describe
from ..engine import AlertEngine
from . import alerts, diagnostics, fleet, silences, thresholds
from .endpoint import Endpoint
from .operation import AdminRequest, AdminResponse, Operation

_DESCRIPTION = (
    "Reads and changes alerts, silences and thresholds. Times are RFC 3339 in UTC, and names are "
    "in snake_case. Errors are problem details (RFC 9457)."
)

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
        authorize: Function of the request, async or not, that returns True, the name of the
            caller, which is stored with the changes, or a `Person` with rights. False, None and an
            empty name are rejected with 401, and an exception with 403.
        prefix: Path of the routes.

    Raises:
        ValueError: `authorize` is not callable, or `prefix` is not a path.
    """
    check_prefix(prefix, "/admin/alerts")
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
    description = describe(OPERATIONS, prefix, title="Alerts", text=_DESCRIPTION)

    async def get_openapi(request: AdminRequest) -> AdminResponse:
        root = request.http.scope.get("root_path")
        return AdminResponse({**description, "servers": [{"url": root}]} if root else description)

    return Operation(
        method="GET",
        path="/openapi.json",
        handle=get_openapi,
        summary="Return the OpenAPI description of this API",
    )
