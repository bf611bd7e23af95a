"""Operations of an API for operators; its endpoints and its OpenAPI description use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from .auth import Person, Right
from .parameters import Parameter
from .text import single_line

_UNKNOWN_AUTHOR = "unknown"
_MAX_AUTHOR_CHARS = 100


@dataclass(frozen=True, slots=True)
class ApiRequest:
    """An authorized and validated request.

    Attributes:
        http: The HTTP request.
        caller: The caller; its name is empty if `authorize` returned True.
        query: Values of the query parameters by name.
        body: The decoded body, or None.
    """

    http: Request
    caller: Person
    query: Mapping[str, Any]
    body: Any

    @property
    def author(self) -> str:
        """Author of a change: the name of the caller, else the field `by` of the body."""
        return self.author_or(getattr(self.body, "by", ""))

    def author_or(self, by: str) -> str:
        """Return the name of the caller, else `by`, else "unknown"."""
        return single_line(self.caller.name or by, _MAX_AUTHOR_CHARS) or _UNKNOWN_AUTHOR


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """Value, status and headers of a response.

    None is sent as an empty body, and bytes as they are.
    """

    value: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        method: HTTP method; GET includes HEAD.
        path: Path below the prefix.
        handle: Handles the request. It may raise `ProblemError`.
        summary: Summary in OpenAPI.
        right: Right that the caller needs.
        response_type: Type of the response body, or None.
        text_types: Other media types of the response body.
        status: Status of success.
        body_type: Type of the request body, or None.
        other_body: JSON Schema of another request body, or None.
        raw_type: Type that the body is decoded as if `handle` validates it against `body_type`.
        optional: True if the body may be omitted.
        query: Query parameters.
        conditions: Names of the request headers in use, and True if the header is required.
        headers: Names of the response headers.
        error_statuses: Other statuses, except those that every operation has.
    """

    method: str
    path: str
    handle: Callable[[Any], Awaitable[ApiResponse]]
    summary: str
    right: Right = "read"
    response_type: Any = None
    text_types: tuple[str, ...] = ()
    status: int = 200
    body_type: Any = None
    other_body: Mapping[str, Any] | None = None
    raw_type: Any = None
    optional: bool = False
    query: tuple[Parameter, ...] = ()
    conditions: Mapping[str, bool] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    error_statuses: tuple[int, ...] = ()
