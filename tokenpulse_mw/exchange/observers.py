"""Those who are told of exchanges, and the wall that keeps their failures out of the request."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any

from .exchange import Exchange

logger = logging.getLogger("tokenpulse_mw.exchange")

# An observer is any callable of a finished Exchange. It may also have the methods
#   opened()            an exchange has begun
#   dropped()           an exchange that had begun is not to be measured (a probe, a scrape)
#   failed(component)   a part of this library failed and the request went on without it
#   decided(policy, decision)   a rate limit was asked: "allowed", "limited", "shadow" or "error"
Observer = Callable[[Exchange], object]

_MOST_TOLD = 100  # kinds of failure


class Failures:
    """Calls observers and other people's code so that their failures stop here.

    Each kind of failure is logged once; every one is told to the observers that count them.

    Args:
        logger: Where they are logged.
        others: What goes on without the part that has failed.
        explained: Kinds of errors that say what to do: where they come from is for debugging.
    """

    def __init__(
        self,
        *,
        logger: logging.Logger = logger,
        others: str = "requests",
        explained: tuple[type[Exception], ...] = (),
    ) -> None:
        self._line = f"%s failed with %s: {others} go on without it; this is said only once"
        self._logger, self._explained = logger, explained
        self._told: set[tuple[str, str]] = set()

    def call(self, hook: str, observers: Iterable[object], *arguments: Any) -> None:
        """Call the optional method `hook` of those observers that have it."""
        for observer in observers:
            method = getattr(observer, hook, None)
            if method is not None:
                try:
                    method(*arguments)
                except Exception as error:  # noqa: BLE001 - a failure of theirs ends here
                    if hook == "failed":  # else there would be no end to it
                        self.log(name_of(observer), error)
                    else:
                        self.tell(name_of(observer), error, observers)

    def tell(self, component: str, error: Exception, observers: Iterable[object] = ()) -> None:
        """Log that `component` failed with `error`, and let `observers` count it."""
        self.log(component, error)
        self.call("failed", observers, component)

    def log(self, component: str, error: Exception) -> None:
        """Log that `component` failed with `error`, if that is the first time."""
        kind = (component, type(error).__name__)
        if kind not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(kind)
            explained = isinstance(error, self._explained)
            self._logger.error(
                self._line,
                component,
                " ".join(f"{kind[1]}: {error}".split()) if explained else kind[1],
                exc_info=None if explained else error,
            )
            if explained:
                self._logger.debug("%s failed here", component, exc_info=error)


def name_of(observer: object) -> str:
    """The class or function at fault: a label value, so never anything of the request."""
    owner = getattr(observer, "__self__", observer)
    return getattr(owner, "__name__", type(owner).__name__)
