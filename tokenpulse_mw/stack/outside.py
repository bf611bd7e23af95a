"""Middleware of the application that runs outside of ours: CORS, and what refuses probes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from inspect import isclass

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import SCOPE_KEY, app_path
from .unlimited import OwnEndpoint

logger = logging.getLogger("tokenpulse_mw")

_NEVER_REFUSE = ("CORSMiddleware", "GZipMiddleware", "SessionMiddleware")
_REFUSALS = {301, 302, 303, 307, 308, 400, 401, 403}  # also redirects to a login or to HTTPS


def put_cors_outside(app: Starlette) -> None:
    """Put every `CORSMiddleware` of the application outside of all other middleware.

    Otherwise a browser could not read a 429, and its preflight requests would be limited.
    """
    cors = [entry for entry in app.user_middleware if is_class(entry, CORSMiddleware)]
    if cors:
        others = [entry for entry in app.user_middleware if entry not in cors]
        app.user_middleware[:] = [*cors, *others]
        logger.info("CORSMiddleware moved outside of the rate limit, so that browsers can read 429")


def has_cors(app: object) -> bool:
    """Return True if `app` is an application with a `CORSMiddleware`."""
    return isinstance(app, Starlette) and any(
        is_class(entry, CORSMiddleware) for entry in app.user_middleware
    )


@contextmanager
def refusals_logged(
    app: Starlette, entries: Sequence[Middleware], endpoints: Iterable[OwnEndpoint]
) -> Iterator[None]:
    """Log once that middleware outside of ours refuses a probe or a scrape.

    Args:
        app: The application, which is starting.
        entries: Its middleware outside of ours.
        endpoints: Our endpoints.
    """
    names = [name for name in map(_name, entries) if name not in _NEVER_REFUSE]
    stack = app.middleware_stack
    if stack is None or not names:
        yield
        return
    logger.info(
        "middleware outside of TokenPulse: names=%s; requests that it rejects are neither limited "
        "nor measured",
        ",".join(names),
    )
    paths = {endpoint.route.path for endpoint in endpoints}
    public = {path for path in paths if not path.startswith("/admin/")}
    detector = app.middleware_stack = _RefusalDetector(stack, names, public)
    try:
        yield
    finally:
        if app.middleware_stack is detector:  # else the application has replaced it
            app.middleware_stack = stack


class _RefusalDetector:
    """Outermost layer that sees the responses to probes and scrapes."""

    def __init__(self, app: ASGIApp, names: Sequence[str], paths: Collection[str]) -> None:
        self.app = app
        self._names = names
        self._paths = paths
        self._warned = False

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Pass the request on."""
        if self._warned or scope["type"] != "http" or app_path(scope) not in self._paths:
            return self.app(scope, receive, send)

        def inspecting(message: Message) -> Awaitable[None]:
            # Our layers leave their key in the scope, so the response is not theirs without it.
            if message.get("status") in _REFUSALS and SCOPE_KEY not in scope:
                self._warn(scope, message["status"])
            return send(message)

        return self.app(scope, receive, inspecting)

    def _warn(self, scope: Scope, status: int) -> None:
        if not self._warned and scope["method"] in ("GET", "HEAD"):
            self._warned = True
            logger.warning(
                "rejected outside of TokenPulse (logged once): path=%s status=%d middleware=%s; "
                "add the middleware before install(), so that probes and scrapes pass it, and the "
                "requests that it rejects are limited and measured",
                app_path(scope),
                status,
                ",".join(self._names),
            )


def is_class(entry: Middleware, middleware: type) -> bool:
    """Return True if the entry is of the class `middleware`, or of a subclass."""
    return isclass(entry.cls) and issubclass(entry.cls, middleware)


def _name(entry: Middleware) -> str:
    """Return the name of a middleware, which is a class or has a function `dispatch`."""
    factory = entry.kwargs.get("dispatch", entry.cls)
    return str(getattr(factory, "__name__", type(factory).__name__))
