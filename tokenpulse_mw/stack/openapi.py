"""Description of rate limits in the OpenAPI schema of a FastAPI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.types import Scope

from ..ratelimit import RouteLimit

_DIALECT_HEADERS: Mapping[str | None, Mapping[str, str]] = {
    None: {},
    "draft-11": {
        "RateLimit-Policy": "The limits: for each, its quota `q` in a window of `w` seconds.",
        "RateLimit": "For each limit, what remains (`r`), and for how many seconds (`t`).",
    },
    "openai": {
        "x-ratelimit-limit-requests": "Requests in a window.",
        "x-ratelimit-remaining-requests": "Requests that remain in the window.",
        "x-ratelimit-reset-requests": "Time until all requests are available again.",
    },
    "legacy": {
        "X-RateLimit-Limit": "Requests in a window.",
        "X-RateLimit-Remaining": "Requests that remain in the window.",
        "X-RateLimit-Reset": "Seconds until all requests are available again.",
    },
}
_MEDIA_TYPES = {
    "text": "text/plain",
    "problem": "application/problem+json",
    "openai": "application/json",
    "anthropic": "application/json",
}


def limited_response(dialect: str | None, response: str | None) -> dict[str, Any]:
    """Return the OpenAPI description of the response 429.

    Args:
        dialect: Dialect of the headers.
        response: Name of the response in the settings; None for a function of the application,
            whose body is unknown.
    """
    headers = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    for name, description in _DIALECT_HEADERS[dialect].items():
        headers[name] = {"description": description, "schema": {"type": "string"}}
    documented: dict[str, Any] = {"description": "Too Many Requests", "headers": headers}
    if response is not None:
        schema = {"type": "string" if response == "text" else "object"}
        documented["content"] = {_MEDIA_TYPES[response]: {"schema": schema}}
    return documented


def document_limits(
    app: Any, response: Mapping[str, Any], is_limited: Callable[[Scope], bool]
) -> None:
    """Add 429 to the limited operations in the schema of `app` and of what it mounts.

    Applications that are not FastAPI's are left unchanged. The schema may be overridden before.

    Args:
        app: An application.
        response: Description of the response.
        is_limited: Returns True if requests are limited in any case, without a limit at the route.
    """
    for route in getattr(app, "routes", ()):
        mounted = getattr(route, "app", None)
        if mounted is not None:
            document_limits(mounted, response, is_limited)
    generate = getattr(app, "openapi", None)
    if generate is None or hasattr(generate, "documents_limits"):
        return

    def openapi() -> dict[str, Any]:
        schema: dict[str, Any] = generate()
        try:
            _add_responses(schema, app, response, is_limited)
        except Exception:  # noqa: BLE001 - an unusual schema stays as it is
            return schema
        return schema

    openapi.documents_limits = True  # type: ignore[attr-defined]
    app.openapi = openapi


def _add_responses(
    schema: dict[str, Any],
    app: Any,
    response: Mapping[str, Any],
    is_limited: Callable[[Scope], bool],
) -> None:
    for route in _operations(app.routes):
        limited_here = _has_limit(getattr(route, "dependant", None))
        path_item = schema["paths"].get(getattr(route, "path_format", None), {})
        for method in getattr(route, "methods", None) or ():
            operation = path_item.get(method.lower())
            scope = {"type": "http", "method": method, "path": route.path}
            if operation is not None and (limited_here or is_limited(scope)):
                operation.setdefault("responses", {}).setdefault("429", response)


def _operations(routes: Iterable[Any]) -> Iterable[Any]:
    """Return the routes of FastAPI, also of the routers that an application includes."""
    from fastapi import routing

    contexts = getattr(routing, "iter_route_contexts", None)  # of newer versions
    return routes if contexts is None else contexts(routes)


def _has_limit(dependant: Any) -> bool:
    """Return True if a dependency, or one of its own dependencies, is a limit."""
    if dependant is None:
        return False
    return isinstance(dependant.call, RouteLimit) or any(map(_has_limit, dependant.dependencies))
