"""Warnings about likely misconfiguration, each logged once with its fix."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.types import Scope

from ..exchange import SCOPE_KEY, ExchangeMiddleware

logger = logging.getLogger("tokenpulse_mw.ratelimit")

_SCOPE_KEY = "tokenpulse_mw.limiters"
_MAX_PATH_CHARS = 100  # characters, in the log
_MAX_LAYERS = 50
_MAX_INSPECTED = 1000  # requests; wrongly added middleware is visible in the first ones


class WarnOnce:
    """Logger of a single warning."""

    def __init__(self) -> None:
        self.logged = False

    def __call__(self, message: str, *arguments: object) -> None:
        """Log `message`, unless a message was logged before."""
        if not self.logged:
            self.logged = True
            logger.warning(message, *arguments)


class MisuseDetector:
    """Detector of misplaced middleware, active for the first requests.

    A limiter that counts a request twice silently halves the limit. This happens if a middleware
    is added to an application and again to a mounted one, or if `wrap` follows `install`. Metrics
    inside a limit do not receive rejected requests.

    Args:
        app: The application that the middleware wraps.
        limiters: Limiters of the middleware.

    Attributes:
        left: Number of requests still to inspect.
    """

    def __init__(self, app: object, limiters: Iterable[object]) -> None:
        self._limiters = list(limiters)
        self._measured_inside = _is_measured(app)
        self.left = _MAX_INSPECTED

    def inspect(self, scope: Scope) -> None:
        """Record that the limiters count this request, and warn if one already has."""
        if scope["type"] != "http":
            return
        self.left -= 1
        detectors: tuple[MisuseDetector, ...] = scope.get(_SCOPE_KEY, ())
        others = [
            limiter
            for detector in detectors
            if detector is not self
            for limiter in detector._limiters
        ]
        if any(limiter is other for limiter in self._limiters for other in others):
            self.left = 0
            logger.warning(
                "a limiter counts the same request twice (seen on %s), so each client gets half "
                "its limit: add RateLimitMiddleware once, or give each middleware its own limiter",
                ascii(scope["path"][:_MAX_PATH_CHARS]),
            )
        if self._measured_inside and SCOPE_KEY not in scope:
            self._measured_inside = False
            logger.warning(
                "requests are measured inside RateLimitMiddleware, so rejected requests are not "
                "counted: put MetricsMiddleware or ExchangeMiddleware outside it (the middleware "
                "that is added last is outermost)"
            )
        scope[_SCOPE_KEY] = (*detectors, self)


def _is_measured(app: object) -> bool:
    """Return True if a wrapped application is a recognizable exchange middleware."""
    for _ in range(_MAX_LAYERS):
        if isinstance(app, ExchangeMiddleware):
            return True
        app = getattr(app, "app", None)
    return False
