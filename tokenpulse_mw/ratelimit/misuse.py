"""Tells once of what is likely a mistake, with what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.types import Scope

from ..exchange import SCOPE_KEY, ExchangeMiddleware

logger = logging.getLogger("tokenpulse_mw.ratelimit")

_SCOPE_KEY = "tokenpulse_mw.limiters"
_MAX_PATH_CHARS = 100  # characters, in the log
_MAX_LAYERS = 50
_MAX_INSPECTED = 1000  # requests; what is mounted wrongly shows in the first few


class WarnOnce:
    """Logs a warning the first time, and no other."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, message: str, *arguments: object) -> None:
        """Log `message`, unless this has told before."""
        if not self.told:
            self.told = True
            logger.warning(message, *arguments)


class MisuseDetector:
    """Notices, in the first requests, that a middleware is not where it should be.

    A limiter that counts the same request twice halves the limit without a word: it happens when a
    middleware is added to an application and again to one mounted in it, or when `wrap` is used on
    top of `install`. And what is measured inside of a limit knows of no refusal.

    Args:
        app: What the middleware wraps.
        limiters: Those of the middleware.

    Attributes:
        left: Requests that are still looked at.
    """

    def __init__(self, app: object, limiters: Iterable[object]) -> None:
        self._limiters = list(limiters)
        self._measured_inside = _is_measured(app)
        self.left = _MAX_INSPECTED

    def inspect(self, scope: Scope) -> None:
        """Note that the limiters count this request; tell if one has done so before."""
        if scope["type"] != "http":  # what else there is, passes untouched
            return
        self.left -= 1
        seen: tuple[MisuseDetector, ...] = scope.get(_SCOPE_KEY, ())
        others = [limiter for each in seen if each is not self for limiter in each._limiters]
        if any(each is other for each in self._limiters for other in others):
            self.left = 0
            logger.warning(
                "a limiter counts the same request twice (seen on %s), so each client gets half "
                "its limit: add RateLimitMiddleware once, or give each one its own limiter",
                ascii(scope["path"][:_MAX_PATH_CHARS]),
            )
        if self._measured_inside and SCOPE_KEY not in scope:
            self._measured_inside = False
            logger.warning(
                "requests are measured inside of RateLimitMiddleware, so nobody counts those that "
                "it refuses: put MetricsMiddleware, or what else measures, outside of it (what is "
                "added to an application later stands outside)"
            )
        scope[_SCOPE_KEY] = (*seen, self)


def _is_measured(app: object) -> bool:
    """Whether an exchange middleware is among what is wrapped, as far as that can be seen."""
    for _ in range(_MAX_LAYERS):
        if isinstance(app, ExchangeMiddleware):
            return True
        app = getattr(app, "app", None)
    return False
