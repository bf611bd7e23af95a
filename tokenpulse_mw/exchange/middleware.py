"""The middleware that observes each request once, for everyone who wants to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from inspect import iscoroutinefunction

from starlette.types import ASGIApp, Receive, Scope, Send

from .annotate import PENDING_KEY
from .dispatcher import Dispatcher
from .observers import Observer
from .provider import ProviderResolver, Providers
from .recorder import SCOPE_KEY, HttpRecorder, MeteredRecorder, Recorder, WebSocketRecorder
from .route import RouteTemplates

_RECORDERS: Mapping[str, type[HttpRecorder]] = {
    "http": HttpRecorder,
    "websocket": WebSocketRecorder,
}


class ExchangeMiddleware:
    """Measure every request, and hand its `Exchange` to the observers when it is over.

    That is HTTP requests, and the handshakes of WebSockets.

    However many of these are stacked, a request is tapped once: an inner one adds its observers,
    and its wish for usage, to the tap that is open and wraps nothing. Responses pass unchanged
    and undelayed; what goes wrong in an observer is logged and never reaches the request.

    Args:
        observers: Callables of a finished `Exchange`. They run on the event loop, so they must
            be quick. See `Observer` for the hooks they may also have.
        provider: `Providers`, or a callable of the scope that gives a provider's name or None.
        usage: Read token usage from the answers of models.
        clock: Monotonic seconds.

    Raises:
        ValueError: `observers` holds something that cannot be called, or has to be awaited; or
            `provider` or `clock` cannot be called.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        observers: Iterable[Observer] = (),
        provider: Providers | ProviderResolver | None = None,
        usage: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.app = app
        if not callable(clock):
            raise ValueError(f"clock must be a function such as time.perf_counter, got {clock!r}")
        if provider is not None and not isinstance(provider, Providers):
            provider = Providers(resolver=_resolver(provider))
        self._dispatcher = Dispatcher(
            observers=_callables(observers),
            providers=provider,
            routes=RouteTemplates(app),
            usage=usage,
            clock=clock,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tap a request that no one has tapped yet; pass everything else through."""
        make_tap = _RECORDERS.get(scope["type"])
        if make_tap is None or (SCOPE_KEY in scope and self.join(scope)):
            await self.app(scope, receive, send)
            return
        if make_tap is HttpRecorder and scope.get("method") == "POST":
            make_tap = MeteredRecorder
        tap = scope[SCOPE_KEY] = make_tap(self._dispatcher, scope, receive, send)
        if PENDING_KEY in scope:
            scope[PENDING_KEY].transfer_to(tap)
        self._dispatcher.on_open()
        try:
            await self.app(scope, tap.receive, tap.send)
            if not tap.finished:
                tap.returned()
        except BaseException as error:
            tap.raised(error)
            raise
        finally:
            if tap.callbacks:
                await tap.close()
            # The server's `send`, which the tap holds, may hold the scope: no garbage collector
            # is needed for the two if the scope lets go of the tap.
            scope[SCOPE_KEY] = None

    def join(self, scope: Scope) -> bool:
        """Add our observers and wishes to the exchange that is open; False where none is."""
        tap: Recorder | None = scope.get(SCOPE_KEY)
        if tap is not None:
            tap.join(self._dispatcher)
        return tap is not None


def _resolver(provider: ProviderResolver) -> ProviderResolver:
    if not callable(provider):
        raise ValueError(
            f"provider must be Providers([...]) or a function of the scope, got {provider!r}"
        )
    return provider


def _callables(observers: Iterable[Observer]) -> tuple[Observer, ...]:
    checked: list[Observer] = []
    for observer in observers:
        if not callable(observer) or iscoroutinefunction(observer):
            raise ValueError(
                "observers must be callables that take an Exchange, and not coroutine functions, "
                f"got {observer!r}"
            )
        if observer not in checked:
            checked.append(observer)
    return tuple(checked)
