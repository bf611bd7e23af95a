"""ASGI middleware that measures each request once and notifies observers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from inspect import isclass, iscoroutinefunction
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..usage import Prices
from .annotate import PENDING_KEY
from .dispatcher import Dispatcher
from .in_progress import RequestsInProgress
from .observers import HOOKS, Observer, ObserverLike, component_name
from .provider import ProviderResolver, Providers
from .recorder import SCOPE_KEY, HttpRecorder, MeteredRecorder, Recorder
from .route import RouteTemplates
from .upstream import UpstreamQuotas
from .websocket import WebSocketRecorder

_RECORDERS: Mapping[str, type[HttpRecorder]] = {
    "http": HttpRecorder,
    "websocket": WebSocketRecorder,
}


class ExchangeMiddleware:
    """Measure HTTP requests and WebSocket handshakes, and notify observers at their end.

    Stacked middlewares share one recorder: an inner one adds its observers and options to it.
    Responses are sent unchanged and without delay. Errors of observers are logged and never reach
    the request.

    Args:
        app: The ASGI application.
        observers: Instances of `Observer`, or functions of a finished `Exchange`. They run on
            the event loop, so they must be quick.
        provider: `Providers`, or a function of the scope that returns a provider name or None.
        usage: Read token usage from the responses of models.
        request_model: Read the model in the body of a POST request, as the application reads it,
            for responses that name none; at most 64 KiB, without delay.
        websocket_usage: Read token usage from the messages of models over WebSockets: OpenAI
            Realtime and Responses, and Gemini Live. Observers have `on_websocket_usage` for it.
        in_progress: Receives the requests in progress.
        quotas: Receives what is left of the providers' rate limits.
        prices: Prices of models, by which the cost of a response is estimated if the response does
            not report it.
        clock: Monotonic seconds.

    Raises:
        ValueError: An observer is not callable or is a coroutine function; `provider` or `clock`
            is not callable; or `prices`, `in_progress` or `quotas` have another type.
    """

    # Exceptions of the application that are ASGI applications, which send the response.
    rejections: tuple[type[Any], ...] = ()

    def __init__(
        self,
        app: ASGIApp,
        *,
        observers: Iterable[ObserverLike] = (),
        provider: Providers | ProviderResolver | None = None,
        usage: bool = True,
        request_model: bool = False,
        websocket_usage: bool = False,
        in_progress: RequestsInProgress | None = None,
        quotas: UpstreamQuotas | None = None,
        prices: Prices | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.app = app
        if not callable(clock):
            raise ValueError(f"clock must be a function such as time.perf_counter, got {clock!r}")
        if prices is not None and not isinstance(prices, Prices):
            raise ValueError(f"prices must be Prices(...), got {prices!r}")
        if not isinstance(in_progress, RequestsInProgress | None):
            raise ValueError(f"in_progress must be RequestsInProgress(...), got {in_progress!r}")
        if not isinstance(quotas, UpstreamQuotas | None):
            raise ValueError(f"quotas must be UpstreamQuotas(...), got {quotas!r}")
        if provider is not None and not isinstance(provider, Providers):
            provider = Providers(resolver=_resolver(provider))
        self._dispatcher = Dispatcher(
            observers=_check_observers(observers),
            providers=provider,
            routes=RouteTemplates(app),
            usage=usage,
            request_model=request_model,
            websocket_usage=websocket_usage,
            in_progress=() if in_progress is None else (in_progress,),
            quotas=() if quotas is None else (quotas,),
            prices=prices,
            clock=clock,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Record a request that has no recorder; pass every other scope to the application.

        When the application has started, its routes are read.
        """
        make_recorder = _RECORDERS.get(scope["type"])
        if make_recorder is None or (SCOPE_KEY in scope and self.join(scope)):
            if scope["type"] == "lifespan":
                send = self._reading_routes(scope, send)
            try:
                await self.app(scope, receive, send)
            except self.rejections as rejection:
                await rejection(scope, receive, send)
            return
        is_websocket = make_recorder is WebSocketRecorder
        if not is_websocket and scope.get("method") == "POST":
            make_recorder = MeteredRecorder
        dispatcher = self._dispatcher
        recorder = scope[SCOPE_KEY] = make_recorder(dispatcher, scope, receive, send)
        if PENDING_KEY in scope:
            scope[PENDING_KEY].transfer_to(recorder)
        for in_progress in dispatcher.in_progress:
            in_progress.open[recorder] = None
        for hook in dispatcher.open_hooks:
            try:
                hook()
            except Exception as error:  # noqa: BLE001 - isolates the observer
                dispatcher.report(component_name(hook), error)
        try:
            try:
                await self.app(scope, recorder.receive, recorder.send)
            except self.rejections as rejection:
                await rejection(scope, recorder.receive, recorder.send)
            if not recorder.finished:
                recorder.returned()
        except BaseException as error:
            recorder.raised(error)
            raise
        finally:
            if is_websocket:
                recorder.disconnected()
            if recorder.callbacks:
                await recorder.close()
            # Break the cycle of scope, recorder and the server's `send`, so that reference
            # counting frees all three.
            scope[SCOPE_KEY] = None

    def _reading_routes(self, scope: Scope, send: Send) -> Send:
        """Return `send`, which also reads the routes when the application has started."""
        if SCOPE_KEY in scope:  # of stacked middlewares, only the outermost one needs them
            return send
        scope[SCOPE_KEY] = None

        async def send_started(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._dispatcher.read_routes()
            await send(message)

        return send_started

    def join(self, scope: Scope) -> bool:
        """Add the observers to the open exchange; return False without one."""
        recorder: Recorder | None = scope.get(SCOPE_KEY)
        if recorder is not None:
            recorder.join(self._dispatcher)
        return recorder is not None


def _resolver(provider: ProviderResolver) -> ProviderResolver:
    if not callable(provider):
        raise ValueError(
            f"provider must be Providers([...]) or a function of the scope, got {provider!r}"
        )
    return provider


def _check_observers(observers: Iterable[ObserverLike]) -> tuple[ObserverLike, ...]:
    checked: list[ObserverLike] = []
    for observer in observers:
        if not _is_observer(observer):
            raise ValueError(
                "observers must be instances of Observer or callables that take an Exchange, "
                f"and not coroutine functions, got {observer!r}"
            )
        if observer not in checked:
            checked.append(observer)
    return tuple(checked)


def _is_observer(observer: object) -> bool:
    if isclass(observer) and issubclass(observer, Observer):
        return False  # not instantiated
    functions = [observer, *(getattr(observer, hook, None) for hook in HOOKS)]
    if any(map(iscoroutinefunction, functions)):
        return False
    return isinstance(observer, Observer) or callable(observer)
