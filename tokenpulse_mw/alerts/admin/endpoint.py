"""One path of the API, from a request to its answer."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ...bodies import read_body
from ...exchange import drop_exchange
from ...problems import RefusedError, as_response
from ...web import Guard
from ..engine import AlertEngine
from ..store import StoreError
from .operation import Answer, Asked, Operation
from .parameters import read_query
from .views import as_json

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
            name = await self._guard.let_in(request)
            drop_exchange(scope)
            response = _response(await self._do(request, name))
        except RefusedError as refused:
            response = as_response(refused)
        except StoreError as error:
            logger.error("the alerts cannot be shown or changed: %s", error)
            response = as_response(RefusedError(503, "The store of the alerts fails; see the log."))
        await response(scope, receive, send)

    async def _do(self, request: Request, name: str) -> Answer:
        if not self._operations:
            raise RefusedError(
                404, "There is nothing of this path; openapi.json says what there is."
            )
        operation = self._operations.get(request.method)
        if operation is None:
            allow = {"allow": ", ".join(self._operations)}
            raise RefusedError(405, f"There is {allow['allow']}.", headers=allow)
        query, body = read_query(request, operation.query), None
        if request.method not in ("GET", "HEAD"):
            takes = operation.reads or operation.takes
            body = await read_body(request, takes, optional=operation.optional)
        await self._engine.controls.catch_up()
        return await operation.handle(Asked(self._engine, request, name, query, body))


def _response(answer: Answer) -> Response:
    headers = {"cache-control": "no-store", **answer.headers}
    if answer.value is None:
        return Response(status_code=answer.status, headers=headers)
    return Response(as_json(answer.value), answer.status, headers, "application/json")
