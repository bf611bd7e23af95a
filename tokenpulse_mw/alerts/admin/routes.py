"""The routes of the admin API."""

from __future__ import annotations

from starlette.routing import Route

from ...web import Authorize, Guard
from ..engine import AlertEngine
from . import alerts, silences, thresholds, tools
from .endpoint import Endpoint
from .openapi import describe
from .operation import Answer, Asked, Operation

# Those of a single alert come last: its id could be any of the names before.
OPERATIONS = (
    *thresholds.OPERATIONS,
    *silences.OPERATIONS,
    *tools.OPERATIONS,
    *alerts.OPERATIONS,
)


def alert_routes(
    engine: AlertEngine,
    *,
    authorize: Authorize,
    prefix: str = "/admin/alerts",
) -> list[Route]:
    """Alerts, acknowledgements, thresholds and silences, to be read and changed over HTTP.

    `GET {prefix}/openapi.json` describes them all. What is let in is left out of request metrics
    and alerts. Every path below `prefix` is answered, so that no token comes to a catch-all route
    of the application, and from there to whomever it asks.

    Args:
        engine: Whose they are.
        authorize: Says of a request whether it is let in: True, or the name of whoever asks, which
            is kept with what they change; False, None and an empty name are refused. It may be
            async. Where it raises, nobody is let in.
        prefix: Where the routes begin.

    Raises:
        ValueError: `authorize` cannot be called: these routes are not for everyone. Or `prefix`
            is no path.
    """
    if not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix:
        raise ValueError(f"prefix must be a path such as /admin/alerts, got {prefix!r}")
    guard = Guard(authorize, of="alert_routes")
    paths: dict[str, list[Operation]] = {}
    for each in (_description(prefix), *OPERATIONS):
        paths.setdefault(each.path, []).append(each)
    known = [
        Route(
            prefix + path,
            Endpoint(operations, engine=engine, guard=guard),
            name=operations[0].handle.__name__,
        )
        for path, operations in paths.items()
    ]
    others = Endpoint((), engine=engine, guard=guard)
    return [*known, Route(prefix + "/{path:path}", others, name="nothing")]


def _description(prefix: str) -> Operation:
    described = describe(OPERATIONS, prefix)

    async def get_openapi(asked: Asked) -> Answer:
        root = asked.request.scope.get("root_path")
        return Answer({**described, "servers": [{"url": root}]} if root else described)

    return Operation(
        method="GET", path="/openapi.json", handle=get_openapi, summary="This description"
    )
