"""Keys by route: method and path template."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from starlette.types import Scope

from ...exchange import RouteTemplates, method_label, recorder_of, request_headers
from ..callables import KeyFunction, factory
from ..key_kinds import text_kind, with_kind
from ..misuse import WarnOnce

_OPAQUE = "/{path}"  # template of an application without routes
_MAX_ROUTERS = 16


@factory
def route() -> KeyFunction:
    """Return a key function for method and template of the route, such as "GET /items/{id}".

    The key does not identify a client: use `combine(client_address(), route())`. The routes are
    known if the application or an `ExchangeMiddleware` is outside the limit; else all paths are
    "/{path}". The method of a WebSocket is "WEBSOCKET". Requests without a route share one key.
    """
    routers: dict[int, tuple[Any, RouteTemplates]] = {}
    warn = WarnOnce()

    def key(scope: Scope) -> Hashable:
        is_websocket = scope.get("type") == "websocket"
        method = "WEBSOCKET" if is_websocket else method_label(str(scope.get("method", "")))
        method = "GET" if method == "HEAD" else method  # HEAD is served by the route of GET
        try:
            return f"{method} {_template(scope, method, routers)}"
        except Exception as error:  # noqa: BLE001 - routes of the application may raise anything
            warn("route() cannot read the routes, so they share one limit: %r", error)
            return f"{method} {_OPAQUE}"

    return with_kind(key, text_kind("route"))


def _template(scope: Scope, method: str, routers: dict[int, tuple[Any, RouteTemplates]]) -> str:
    """Return the template of the full path, also inside a mount."""
    full_scope = {
        "type": scope.get("type", "http"),
        "method": method,
        "headers": request_headers(scope),
        "path": scope["path"],
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
    }
    candidates = (templates(full_scope) for templates in _all_templates(scope, routers))
    return next((template for template in candidates if template != _OPAQUE), _OPAQUE)


def _all_templates(
    scope: Scope, routers: dict[int, tuple[Any, RouteTemplates]]
) -> Iterator[RouteTemplates]:
    recorder = recorder_of(scope)
    # Inside a router, the recorder may have only a part of the routes.
    if recorder is not None and "router" not in scope:
        yield recorder.dispatcher.routes
    top = scope.get("router", scope.get("app"))
    if top is not None:
        if id(top) not in routers:
            if len(routers) >= _MAX_ROUTERS:
                routers.clear()
            # The reference keeps the router alive, so that its id stays unique.
            routers[id(top)] = top, RouteTemplates(top)
        yield routers[id(top)][1]
