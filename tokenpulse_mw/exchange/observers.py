"""Those who are told of exchanges, and the wall that keeps their failures out of the request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..outages import Outages
from .exchange import Exchange

logger = logging.getLogger("tokenpulse_mw.exchange")


# An observer is any callable of a finished Exchange. It may also have the methods
#   opened()            an exchange has begun
#   dropped()           an exchange that had begun is not to be measured (a probe, a scrape)
#   failed(component)   a part of this library failed and the request went on without it
#   decided(policy, decision)   a rate limit was asked: "allowed", "limited", "shadow" or "error"
Observer = Callable[[Exchange], object]


class ErrorReporter:
    """Calls observers and other people's code so that their failures stop here.

    Each kind of failure of a component is an outage, logged as such (`outages.py`): every failure
    is counted, few are logged.

    Args:
        logger: Receives the log lines.
        continuing: What continues without the component that failed.
        self_explanatory: Kinds of errors that say what to do; their tracebacks are logged as DEBUG.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        logger: logging.Logger = logger,
        continuing: str = "requests",
        self_explanatory: tuple[type[Exception], ...] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._line = f"%s failed with %s: {continuing} go on without it"
        self._logger, self._self_explanatory = logger, self_explanatory
        self._outages = Outages(logger, clock=clock, level=logging.ERROR)

    def notify(self, hook: str, observers: Iterable[object], *arguments: Any) -> None:
        """Call the optional method `hook` of those observers that have it."""
        for observer in observers:
            method = getattr(observer, hook, None)
            if method is not None:
                try:
                    method(*arguments)
                except Exception as error:  # noqa: BLE001 - a failure of theirs ends here
                    if hook == "on_error":  # else there would be no end to it
                        self.log(component_name(observer), error)
                    else:
                        self.report(component_name(observer), error, observers)

    def report(self, component: str, error: Exception, observers: Iterable[object] = ()) -> None:
        """Log that `component` failed with `error`, and let `observers` count it."""
        self.log(component, error)
        self.notify("on_error", observers, component)

    def log(self, component: str, error: Exception) -> None:
        """Count that `component` failed with `error`, and log it if a line is due."""
        kind = type(error).__name__
        explained = isinstance(error, self._self_explanatory)
        logged = self._outages.failed(
            (component, kind),
            self._line,
            component,
            " ".join(f"{kind}: {error}".split()) if explained else kind,
            error=None if explained else error,
        )
        if logged and explained:
            self._logger.debug("%s failed here", component, exc_info=error)

    def recovered(self, component: str) -> None:
        """End what `component` failed with; cheap if nothing fails."""
        for cause in self._outages.lasting():
            if isinstance(cause, tuple) and cause[0] == component:
                self._outages.recovered(cause, "%s recovered from %s", *cause)


def component_name(observer: object) -> str:
    """The class or function at fault: a label value, so never anything of the request."""
    owner = getattr(observer, "__self__", observer)
    return getattr(owner, "__name__", type(owner).__name__)


Report = Callable[[str, Exception], object]


class ExchangeCallback(Protocol):
    """Waits for the end of one exchange."""

    def finished(self, exchange: Exchange) -> None:
        """It is over: at its last byte, or when the application is gone without one."""
        ...

    async def close(self) -> None:
        """The application is gone; what has to be waited for can be now, if it takes not long."""
        ...


def notify_finished(watcher: ExchangeCallback, exchange: Exchange, report: Report) -> None:
    """Tell `watcher` that `exchange` is over; what goes wrong in it is reported."""
    try:
        watcher.finished(exchange)
    except Exception as error:  # noqa: BLE001 - it is not the request's failure
        report(component_name(watcher), error)


async def notify_closed(watcher: ExchangeCallback, report: Report) -> None:
    """Let `watcher` do what takes time; what goes wrong in it is reported."""
    try:
        await watcher.close()
    except Exception as error:  # noqa: BLE001 - as above
        report(component_name(watcher), error)
