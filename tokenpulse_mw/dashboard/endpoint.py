"""Endpoint of an operation of the page: authorization, validation and errors."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from ..exchange import drop_exchange
from ..web.auth import Guard
from ..web.etag import quoted
from ..web.parameters import Parameter, read_query
from ..web.problems import ProblemError, problem_response
from ..web.route import OwnRoute
from . import schemas
from .files import HEADERS, matches

_METHODS = ("GET", "HEAD")
_ALL_RIGHTS: list[schemas.Right] = ["read", "ack", "limits", "thresholds"]


@dataclass(frozen=True, slots=True)
class Query:
    """An authorized and validated request.

    Attributes:
        me: The caller.
        values: Values of the query parameters by name.
        root: Root path of the application.
    """

    me: schemas.Me
    values: Mapping[str, Any]
    root: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """`GET` of one path.

    Attributes:
        path: Path below the prefix.
        handle: Returns the body of the response.
        summary: Summary in OpenAPI.
        response_type: Type of the response body; None for any JSON.
        query: Query parameters.
        unchanging: Fields that do not change the entity tag; None for a response without one.
    """

    path: str
    handle: Callable[[Query], Awaitable[object]]
    summary: str
    response_type: Any
    query: tuple[Parameter, ...] = ()
    unchanging: tuple[str, ...] | None = None
    method: str = "GET"
    status: int = 200
    text_types: tuple[str, ...] = ()
    body_type: None = None
    other_body: None = None
    optional: bool = False

    @property
    def conditions(self) -> Mapping[str, bool]:
        """Names of the request headers in use, and True if the header is required."""
        return {} if self.unchanging is None else {"If-None-Match": False}

    @property
    def headers(self) -> tuple[str, ...]:
        """Names of the response headers."""
        return () if self.unchanging is None else ("ETag",)

    @property
    def error_statuses(self) -> tuple[int, ...]:
        """Other statuses, except those that every operation has."""
        return () if self.unchanging is None else (304, 400)


class Endpoint:
    """Endpoint of an operation; without one, every request gets 404.

    Authorization comes first. Authorized requests are excluded from request metrics and alerts.
    """

    def __init__(self, operation: Operation | None, guard: Guard) -> None:
        self._operation, self._guard = operation, guard

    def route(self, path: str, *, name: str) -> BaseRoute:
        """Return a route of `path` for requests of every method."""
        return OwnRoute(path, self.respond, name=name, methods=_METHODS, for_all=True)

    async def respond(self, request: Request) -> Response:
        """Return the response to one request."""
        try:
            me = _person(await self._guard.authorize(request))
            drop_exchange(request.scope)
            return await self._respond(request, me)
        except ProblemError as problem:
            return problem_response(problem)

    async def _respond(self, request: Request, me: schemas.Me) -> Response:
        operation = self._operation
        if "read" not in me.can:
            raise ProblemError(403, "Forbidden: the right to read is missing.")
        if operation is None:
            raise ProblemError(404, "Not found: openapi.json lists all paths.")
        if request.method not in _METHODS:
            allow = ", ".join(_METHODS)
            raise ProblemError(
                405, f"Method not allowed. Allowed methods: {allow}.", headers={"allow": allow}
            )
        values = read_query(request, operation.query)
        query = Query(me, values, request.scope.get("root_path", ""))
        body = await operation.handle(query)
        headers = {
            "cache-control": "no-store",
            "x-content-type-options": HEADERS["x-content-type-options"],
        }
        if operation.unchanging is not None:
            tag = _tag(body, operation.unchanging)
            headers["etag"] = quoted(tag)
            if matches(request, tag):
                return Response(status_code=304, headers=headers)
        return Response(as_json(body), headers=headers, media_type="application/json")


def _person(caller: object) -> schemas.Me:
    """Return the caller; a caller without rights of its own has all."""
    rights = getattr(caller, "can", None)
    name = str(getattr(caller, "name", caller))
    can = _ALL_RIGHTS if rights is None else [right for right in _ALL_RIGHTS if right in rights]
    return schemas.Me(name, list(can))


def as_json(body: object) -> bytes:
    """Return JSON; lone surrogates, as in the name of a tenant, are replaced."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return msgspec.json.encode(_without_surrogates(msgspec.to_builtins(body)))


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    return value


def _tag(body: Any, unchanging: tuple[str, ...]) -> str:
    """Return a hash of the fields that make a difference."""
    fields = [getattr(body, name) for name in body.__struct_fields__ if name not in unchanging]
    return sha256(as_json(fields)).hexdigest()[:16]
