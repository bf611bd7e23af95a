"""Tells once of what is likely a mistake, with what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from starlette.types import Scope

logger = logging.getLogger("tokenpulse_mw.ratelimit")

_SCOPE_KEY = "tokenpulse_mw.limiters"
_LONGEST_PATH = 100  # characters, in the log
_MOST_LOOKED_AT = 1000  # requests; what is mounted wrongly shows in the first few


class Once:
    """Logs a warning the first time, and no other."""

    def __init__(self) -> None:
        self.told = False

    def __call__(self, message: str, *arguments: object) -> None:
        """Log `message`, unless this has told before."""
        if not self.told:
            self.told = True
            logger.warning(message, *arguments)


class DoubleCount:
    """Notices a limiter that counts the same request twice.

    That halves the limit without a word. It happens when a middleware is added to an application
    and again to one mounted in it, or when `wrap` is used on top of `install`.

    Args:
        limiters: Those of one middleware.

    Attributes:
        left: Requests that are still looked at.
    """

    def __init__(self, limiters: Iterable[object]) -> None:
        self._limiters = list(limiters)
        self.left = _MOST_LOOKED_AT

    def look_at(self, scope: Scope) -> None:
        """Note that the limiters count this request; tell if one has done so before."""
        if scope["type"] != "http":  # what else there is, passes untouched
            return
        self.left -= 1
        seen: tuple[DoubleCount, ...] = scope.get(_SCOPE_KEY, ())
        others = [limiter for each in seen if each is not self for limiter in each._limiters]
        if any(each is other for each in self._limiters for other in others):
            self.left = 0
            logger.warning(
                "a limiter counts the same request twice (seen on %s), so each client gets half "
                "its limit: add RateLimitMiddleware once, or give each one its own limiter",
                ascii(scope["path"][:_LONGEST_PATH]),
            )
        scope[_SCOPE_KEY] = (*seen, self)
