"""Operations of the page, as endpoints and OpenAPI use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, get_args

from ..web.auth import Person, Right
from ..web.endpoint import as_json
from ..web.etag import quoted
from ..web.operation import ApiRequest, ApiResponse, Operation
from ..web.parameters import Parameter
from . import schemas
from .files import HEADERS, matches

_RIGHTS: tuple[Right, ...] = get_args(Right)
_NOSNIFF = {"x-content-type-options": HEADERS["x-content-type-options"]}


@dataclass(frozen=True, slots=True)
class Query:
    """An authorized and validated request.

    Attributes:
        me: The caller.
        values: Values of the query parameters by name.
    """

    me: schemas.Me
    values: Mapping[str, Any]


Handle = Callable[[Query], Awaitable[object]]


def operation(
    path: str,
    handle: Handle,
    summary: str,
    response_type: Any = None,
    *,
    query: tuple[Parameter, ...] = (),
    unchanging: tuple[str, ...] | None = None,
) -> Operation:
    """Return the `GET` of a path.

    Args:
        path: Path below the prefix.
        handle: Returns the body of the response; its name is the id of the operation.
        summary: Summary in OpenAPI.
        response_type: Type of the body, or None.
        query: Query parameters.
        unchanging: Fields that do not change the entity tag; None for a response without one.
    """

    async def respond(request: ApiRequest) -> ApiResponse:
        body = await handle(Query(_me(request.caller), request.query))
        if unchanging is None:
            return ApiResponse(as_json(body), headers=_NOSNIFF)
        tag = _tag(body, unchanging)
        headers = {**_NOSNIFF, "etag": quoted(tag)}
        if matches(request.http, tag):
            return ApiResponse(status=304, headers=headers)
        return ApiResponse(as_json(body), headers=headers)

    respond.__name__ = getattr(handle, "__name__", path)
    has_tag = unchanging is not None
    return Operation(
        method="GET",
        path=path,
        handle=respond,
        summary=summary,
        response_type=response_type,
        query=query,
        conditions={"If-None-Match": False} if has_tag else {},
        headers=("ETag",) if has_tag else (),
        error_statuses=(304, 400) if has_tag else (),
    )


def _me(caller: Person) -> schemas.Me:
    return schemas.Me(caller.name, [right for right in _RIGHTS if right in caller.can])


def _tag(body: Any, unchanging: tuple[str, ...]) -> str:
    """Return a hash of the fields that make a difference."""
    fields = [getattr(body, name) for name in body.__struct_fields__ if name not in unchanging]
    return sha256(as_json(fields)).hexdigest()[:16]
