"""The key of a limit for each route: its method and template."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from starlette.types import Scope

from ...exchange import RouteTemplates, method_label, recorder_of
from ..callables import KeyFunction, factory
from ..misuse import WarnOnce

_OPAQUE = "/{path}"  # the template of an application without routes
_MAX_ROUTERS = 16


@factory
def route() -> KeyFunction:
    """Key by method and template of the route that a request is for, as in "GET /items/{id}".

    It names no client: use it as `join(client_address(), route())`. The application's routes are
    found where it or an `ExchangeMiddleware` stands around the limit, else all paths are
    "/{path}". A WebSocket's method is "WEBSOCKET". What fits no route shares one key.
    """
    known: dict[int, tuple[Any, RouteTemplates]] = {}
    warn = WarnOnce()

    def key(scope: Scope) -> Hashable:
        is_websocket = scope.get("type") == "websocket"
        method = "WEBSOCKET" if is_websocket else method_label(str(scope.get("method", "")))
        method = "GET" if method == "HEAD" else method  # the route of GET answers it
        try:
            return f"{method} {_template(scope, method, known)}"
        except Exception as error:  # noqa: BLE001 - the routes are other people's
            warn("route() cannot read the routes, so they share one limit: %r", error)
            return f"{method} {_OPAQUE}"

    return key


def _template(scope: Scope, method: str, known: dict[int, tuple[Any, RouteTemplates]]) -> str:
    """The template for the whole path, also where a mount has taken a part of it already."""
    asked = {
        "type": scope.get("type", "http"),
        "method": method,
        "headers": scope.get("headers", ()),
        "path": scope["path"],
        "root_path": scope.get("app_root_path", scope.get("root_path", "")),
    }
    found = (templates(asked) for templates in _all_templates(scope, known))
    return next((each for each in found if each != _OPAQUE), _OPAQUE)


def _all_templates(
    scope: Scope, known: dict[int, tuple[Any, RouteTemplates]]
) -> Iterator[RouteTemplates]:
    tap = recorder_of(scope)
    if tap is not None and "router" not in scope:  # else the tap may know of a part only
        yield tap.dispatcher.routes
    top = scope.get("router", scope.get("app"))
    if top is not None:
        if id(top) not in known:
            if len(known) >= _MAX_ROUTERS:
                known.clear()
            known[id(top)] = top, RouteTemplates(top)  # kept, since an id is good while it lives
        yield known[id(top)][1]
