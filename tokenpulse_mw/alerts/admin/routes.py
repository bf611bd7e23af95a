"""The routes of the admin API."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ...exchange import drop_exchange
from ...web.auth import Authorize, Guard
from ...web.body import read_body
from ...web.problems import ProblemError, problem_response
from ..engine import AlertEngine
from ..store import StoreError
from . import alerts, diagnostics, silences, thresholds
from .openapi import describe
from .operation import AdminRequest, AdminResponse, Operation
from .parameters import read_query
from .serializers import as_json

# Those of a single alert come last: its id could be any of the names before.
OPERATIONS = (
    *thresholds.OPERATIONS,
    *silences.OPERATIONS,
    *diagnostics.OPERATIONS,
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

    async def get_openapi(asked: AdminRequest) -> AdminResponse:
        root = asked.request.scope.get("root_path")
        return AdminResponse({**described, "servers": [{"url": root}]} if root else described)

    return Operation(
        method="GET", path="/openapi.json", handle=get_openapi, summary="This description"
    )


logger = logging.getLogger("tokenpulse_mw.alerts")


class Endpoint:
    """An ASGI application that does what some operations of one path say.

    Whoever asks is let in first, or not; before that nothing of the request is looked at. What is
    let in is left out of request metrics and alerts. Where there are no operations, there is
    nothing of that path.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        engine: AlertEngine,
        guard: Guard,
    ) -> None:
        self._operations = {each.method: each for each in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._engine = engine
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            name = await self._guard.authorize(request)
            drop_exchange(scope)
            response = _response(await self._do(request, name))
        except ProblemError as refused:
            response = problem_response(refused)
        except StoreError as error:
            logger.error("the alerts cannot be shown or changed: %s", error)
            response = problem_response(
                ProblemError(503, "The store of the alerts fails; see the log.")
            )
        await response(scope, receive, send)

    async def _do(self, request: Request, name: str) -> AdminResponse:
        if not self._operations:
            raise ProblemError(
                404, "There is nothing of this path; openapi.json says what there is."
            )
        operation = self._operations.get(request.method)
        if operation is None:
            allow = {"allow": ", ".join(self._operations)}
            raise ProblemError(405, f"There is {allow['allow']}.", headers=allow)
        query, body = read_query(request, operation.query), None
        if request.method not in ("GET", "HEAD"):
            takes = operation.raw_type or operation.body_type
            body = await read_body(request, takes, optional=operation.optional)
        await self._engine.controls.catch_up()
        return await operation.handle(AdminRequest(self._engine, request, name, query, body))


def _response(answer: AdminResponse) -> Response:
    headers = {"cache-control": "no-store", **answer.headers}
    if answer.value is None:
        return Response(status_code=answer.status, headers=headers)
    return Response(as_json(answer.value), answer.status, headers, "application/json")
