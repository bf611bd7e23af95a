"""Endpoint of the operations of one path: authorization, validation and errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Scope

from .auth import Guard
from .body import read_body
from .operation import ApiRequest, ApiResponse, Operation
from .parameters import read_query
from .problems import ProblemError, problem_response
from .route import OwnRoute
from .text import replace_surrogates


class Endpoint:
    """Operations of one path; without operations, every request gets 404.

    Authorization comes first: nothing else of the request is read before it. Subclasses may extend
    `call`.

    Args:
        operations: Operations of the path.
        guard: Authorizes requests.
        on_authorized: Called with the scope of each authorized request, such as `drop_exchange`.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        guard: Guard,
        on_authorized: Callable[[Scope], object] | None = None,
    ) -> None:
        self._operations: dict[str, Operation] = {}
        for operation in operations:
            self._operations[operation.method] = operation
            if operation.method == "GET":
                self._operations["HEAD"] = operation
        self._guard = guard
        self._on_authorized = on_authorized

    def route(self, path: str, *, name: str) -> BaseRoute:
        """Return a route of `path` for requests of every method."""
        return OwnRoute(path, self.answer, name=name, methods=self._operations, for_all=True)

    async def answer(self, request: Request) -> Response:
        """Return the response to one request."""
        try:
            return _response(await self._handle(request))
        except ProblemError as problem:
            return problem_response(problem)

    async def call(self, operation: Operation, request: ApiRequest) -> ApiResponse:
        """Return the result of an operation."""
        return await operation.handle(request)

    async def _handle(self, request: Request) -> ApiResponse:
        operation = self._operations.get(request.method)
        right = "read" if operation is None else operation.right
        caller = await self._guard.authorize(request, right)
        if self._on_authorized is not None:
            self._on_authorized(request.scope)
        if not self._operations:
            raise ProblemError(404, "Not found: openapi.json lists all paths.")
        if operation is None:
            raise method_not_allowed(self._operations)
        query, body = read_query(request, operation.query), None
        if request.method not in ("GET", "HEAD"):
            body_type = operation.raw_type or operation.body_type
            body = await read_body(request, body_type, optional=operation.optional)
        return await self.call(operation, ApiRequest(request, caller, query, body))


def check_prefix(prefix: str, example: str) -> str:
    """Return `prefix` if it can be the beginning of the paths of an API.

    Raises:
        ValueError: It is not a path, ends with a slash or has parameters.
    """
    if not prefix.startswith("/") or prefix.endswith("/") or "{" in prefix:
        raise ValueError(f"prefix must be a path such as {example}, got {prefix!r}")
    return prefix


def method_not_allowed(methods: Iterable[str]) -> ProblemError:
    """Return the 405 for a path with these methods."""
    allow = ", ".join(methods)
    detail = f"Method not allowed. Allowed methods: {allow}."
    return ProblemError(405, detail, headers={"allow": allow})


def as_json(value: object) -> bytes:
    """Return `value` as JSON; lone surrogates, as in the name of a tenant, are replaced."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(value)
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return replace_surrogates(text).encode()


def _response(response: ApiResponse) -> Response:
    headers = {"cache-control": "no-store", **response.headers}
    if response.value is None:
        return Response(status_code=response.status, headers=headers)
    value = response.value
    content = value if isinstance(value, bytes) else as_json(value)
    return Response(content, response.status, headers, response.media_type)
