"""What a request may ask for, and what comes of it: the router and the description go by this."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from ..engine import AlertEngine
from ..sinks.text import single_line
from .parameters import Parameter

_NOBODY = "unknown"
_LONGEST_NAME = 100  # characters


@dataclass(frozen=True, slots=True)
class AdminRequest:
    """A request that may be done.

    Attributes:
        engine: Whose alerts it is about.
        request: As it came.
        name: Who asks, as far as the authorization knows; else empty.
        query: The value of each parameter.
        body: What the operation takes.
    """

    engine: AlertEngine
    request: Request
    name: str
    query: Mapping[str, Any]
    body: Any

    @property
    def by(self) -> str:
        """Who asks: whoever is known is not asked for a name."""
        return self.called(getattr(self.body, "by", ""))

    def called(self, by: str) -> str:
        """The same, where the body says `by`."""
        return single_line(self.name or by, _LONGEST_NAME) or _NOBODY


@dataclass(frozen=True, slots=True)
class AdminResponse:
    """What is given, with which status and headers; None is no body."""

    value: object = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path.

    Attributes:
        method: GET is HEAD as well.
        path: Below the prefix.
        handle: Does it. It may raise `RefusedError` and `StoreError`.
        summary: One line for people.
        response_type: The type of what it answers, or None.
        status: When all is well.
        body_type: The type of its body, or None.
        raw_type: The type that its body is read as, where `handle` checks it against `body_type`.
        optional: The body may be left out.
        query: What its query may have.
        conditions: The headers that it heeds, and whether it must have them.
        headers: Those of the answer.
        error_statuses: What it answers besides, when not all is well.
    """

    method: str
    path: str
    handle: Callable[[AdminRequest], Awaitable[AdminResponse]]
    summary: str
    response_type: Any = None
    status: int = 200
    body_type: Any = None
    raw_type: Any = None
    optional: bool = False
    query: tuple[Parameter, ...] = ()
    conditions: Mapping[str, bool] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    error_statuses: tuple[int, ...] = ()
