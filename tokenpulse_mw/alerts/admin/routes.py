"""Routes of the admin API."""

from __future__ import annotations

from starlette.routing import BaseRoute

from ...web.auth import Authorize, Guard
from ...web.endpoint import check_prefix
from ...web.openapi import openapi_operation
from ..engine import AlertEngine
from . import alerts, diagnostics, fleet, silences, thresholds
from .endpoint import Endpoint
from .operation import Operation

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
            empty name are rejected with 401, and an exception with 503, unless it is an
            `HTTPException`.
        prefix: Path of the routes.

    Raises:
        ValueError: `authorize` is not callable, or `prefix` is not a path.
    """
    check_prefix(prefix, "/admin/alerts")
    guard = Guard(authorize, of="alert_routes")
    paths: dict[str, list[Operation]] = {}
    openapi = openapi_operation(OPERATIONS, prefix, title="Alerts", text=_DESCRIPTION)
    for operation in (openapi, *OPERATIONS):
        paths.setdefault(operation.path, []).append(operation)
    routes = [
        Endpoint(operations, engine=engine, guard=guard).route(
            prefix + path, name=operations[0].handle.__name__
        )
        for path, operations in paths.items()
    ]
    not_found = Endpoint((), engine=engine, guard=guard)
    return [*routes, not_found.route(prefix + "/{path:path}", name="alerts_not_found")]
