"""Endpoint of the operations of one path: authorization, validation and errors."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ...exchange import drop_exchange
from ...web.auth import Guard
from ...web.body import read_body
from ...web.parameters import read_query
from ...web.problems import ProblemError, problem_response
from ...web.route import OwnRoute
from ..engine import AlertEngine
from ..store import StoreError
from .operation import AdminRequest, AdminResponse, Operation
from .serializers import as_json

logger = logging.getLogger("tokenpulse_mw.alerts")


class Endpoint:
    """Operations of one path; without operations, every request gets 404.

    Authorization comes first: nothing else of the request is read before it. Authorized requests of
    operators (`is_admin`) are excluded from request metrics and alerts.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        engine: AlertEngine,
        guard: Guard,
        is_admin: bool = True,
    ) -> None:
        self._operations = {operation.method: operation for operation in operations}
        if "GET" in self._operations:
            self._operations["HEAD"] = self._operations["GET"]
        self._engine = engine
        self._guard = guard
        self._is_admin = is_admin

    def route(self, path: str, *, name: str) -> BaseRoute:
        """Return a route of `path` for requests of every method."""
        return OwnRoute(path, self.answer, name=name, methods=self._operations, for_all=True)

    async def answer(self, request: Request) -> Response:
        """Return the response to one request."""
        try:
            name = await self._guard.authorize(request)
            if self._is_admin:
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
        if self._is_admin:
            await self._engine.controls.refresh()
        return await operation.handle(AdminRequest(self._engine, request, name, query, body))


def _response(response: AdminResponse) -> Response:
    headers = {"cache-control": "no-store", **response.headers}
    if response.value is None:
        return Response(status_code=response.status, headers=headers)
    value = response.value
    content = value if isinstance(value, bytes) else as_json(value)
    return Response(content, response.status, headers, response.media_type)
