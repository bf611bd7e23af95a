"""Operations of the admin API; the router and the OpenAPI description use them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from ...web.parameters import Parameter
from ..engine import AlertEngine
from ..sinks.text import single_line

_UNKNOWN_AUTHOR = "unknown"
_MAX_AUTHOR_CHARS = 100


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """An authorized and validated request.

    Attributes:
        engine: The alert engine.
        http: The HTTP request.
        name: Name of the caller as returned by `authorize`; empty if it returned True.
        query: Values of the query parameters by name.
        body: The decoded body, or None.
    """

    engine: AlertEngine
    http: Request
    name: str
    query: Mapping[str, Any]
    body: Any

    @property
    def author(self) -> str:
        """Author of a change: the name of the caller, else the field `by` of the body."""
        return self.author_or(getattr(self.body, "by", ""))

    def author_or(self, by: str) -> str:
        """Return the name of the caller, else `by`, else "unknown"."""
        return single_line(self.name or by, _MAX_AUTHOR_CHARS) or _UNKNOWN_AUTHOR


@dataclass(frozen=True, slots=True)
class AdminResponse:
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
        handle: Handles the request. It may raise `ProblemError` and `StoreError`.
        summary: Summary in OpenAPI.
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
    handle: Callable[[AdminRequest], Awaitable[AdminResponse]]
    summary: str
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
