"""Observers of exchanges; their errors never reach the request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol

from ..outages import Outages
from .exchange import Exchange

logger = logging.getLogger("tokenpulse_mw.exchange")


class Observer:
    """Base class of observers: every hook does nothing until a subclass overrides it.

    Hooks run on the event loop, so they must be quick. They are plain functions, not coroutines.
    """

    def on_open(self) -> None:
        """Handle the start of an exchange."""

    def on_close(self, exchange: Exchange) -> None:
        """Handle a finished exchange."""

    def on_drop(self) -> None:
        """Handle an open exchange that is excluded from measurement: a probe or a scrape."""

    def on_websocket_accept(self) -> None:
        """Handle an accepted WebSocket, whose handshake is finished."""

    def on_websocket_close(self) -> None:
        """Handle the end of an accepted WebSocket, in whichever way it ends."""

    def on_websocket_usage(self, exchange: Exchange) -> None:
        """Handle the end of one response of a model over a WebSocket, if usage is metered there."""

    def on_limit(self, policy: str, decision: str) -> None:
        """Handle the decision of a rate limit.

        Args:
            policy: Name of the policy.
            decision: `allowed`, `limited`, `shadow` or `error`.
        """

    def on_error(self, component: str) -> None:
        """Handle a failure of `component`, a part of this library or an observer."""


# A callable receives finished exchanges. The other hooks are optional for it.
ObserverLike = Observer | Callable[[Exchange], object]

HOOKS = (
    *("on_open", "on_close", "on_drop", "on_websocket_accept", "on_websocket_close"),
    *("on_websocket_usage", "on_limit", "on_error"),
)


def find_hook(observer: object, name: str) -> Callable[..., object] | None:
    """Return the hook `name` of `observer`; None if it is missing or the no-op of `Observer`."""
    hook: Callable[..., object] | None = getattr(observer, name, None)
    # `Observer` lacks hooks such as those for listeners of the alert engine.
    no_op = vars(Observer).get(name, observer)
    return None if getattr(hook, "__func__", None) is no_op else hook


class ErrorReporter:
    """Isolates and logs the errors of observers and user code.

    Each error type of a component is one outage (`outages.py`): every failure is counted, and
    few are logged.

    Args:
        logger: Receives the log lines.
        continuing: Plural noun that names what continues after a failure, such as "requests".
        self_explanatory: Error types whose message is enough; tracebacks are logged as DEBUG.
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
        self._line = f"%s failed with %s: {continuing} continue without it"
        self._logger, self._self_explanatory = logger, self_explanatory
        self._outages = Outages(logger, clock=clock, level=logging.ERROR)

    def notify(self, hook: str, observers: Iterable[object], *arguments: Any) -> None:
        """Call the optional method `hook` of each observer."""
        for observer in observers:
            method = find_hook(observer, hook)
            if method is not None:
                try:
                    method(*arguments)
                except Exception as error:  # noqa: BLE001 - isolates the observer
                    if hook == "on_error":  # reporting it would recurse
                        self.log(component_name(observer), error)
                    else:
                        self.report(component_name(observer), error, observers)

    def report(self, component: str, error: Exception, observers: Iterable[object] = ()) -> None:
        """Log that `component` failed with `error`, and call `on_error` of `observers`."""
        self.log(component, error)
        self.notify("on_error", observers, component)

    def log(self, component: str, error: Exception) -> None:
        """Count that `component` failed with `error`, and log it if a line is due."""
        kind = type(error).__name__
        has_message = isinstance(error, self._self_explanatory)
        is_logged = self._outages.failed(
            (component, kind),
            self._line,
            component,
            " ".join(f"{kind}: {error}".split()) if has_message else kind,
            error=None if has_message else error,
        )
        if is_logged and has_message:
            self._logger.debug("traceback of %s", component, exc_info=error)

    def recovered(self, component: str) -> None:
        """End the outages of `component`; cheap if there are none."""
        for cause in self._outages.lasting():
            if isinstance(cause, tuple) and cause[0] == component:
                self._outages.recovered(cause, "%s recovered from %s", *cause)


def component_name(observer: object) -> str:
    """Return the name of the class or function, a safe label value."""
    owner = getattr(observer, "__self__", observer)
    return getattr(owner, "__name__", type(owner).__name__)


Report = Callable[[str, Exception], object]


class ExchangeCallback(Protocol):
    """A callback for the end of one exchange."""

    @property
    def needs_close(self) -> bool:
        """True if `close` has something to do after `finished`."""
        ...

    def finished(self, exchange: Exchange) -> None:
        """Handle the end of the exchange: its last byte, or the return of the application."""
        ...

    async def close(self) -> None:
        """Do short asynchronous work after the application has returned."""
        ...


def notify_finished(callback: ExchangeCallback, exchange: Exchange, report: Report) -> None:
    """Call `callback.finished` and report its errors."""
    try:
        callback.finished(exchange)
    except Exception as error:  # noqa: BLE001 - isolates the callback
        report(component_name(callback), error)


async def notify_closed(callback: ExchangeCallback, report: Report) -> None:
    """Await `callback.close` and report its errors."""
    try:
        await callback.close()
    except Exception as error:  # noqa: BLE001 - isolates the callback
        report(component_name(callback), error)
