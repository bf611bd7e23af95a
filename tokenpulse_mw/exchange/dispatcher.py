"""Finalizes exchanges and delivers them to the observers of one middleware."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from inspect import getattr_static
from types import FunctionType, MethodType
from typing import Any, Protocol, TypeVar

from starlette.types import Scope

from ..usage import Prices, UsageMeter, check_nanos
from .exchange import Exchange
from .fault import fault_of
from .in_progress import RequestsInProgress
from .models import UNKNOWN
from .observers import ErrorReporter, Observer, ObserverLike, component_name, find_hook
from .provider import MAX_PATH_CHARS, Providers
from .request_model import model_of_path
from .route import UNMATCHED, RouteTemplates
from .upstream import UpstreamQuotas, parse_quotas

_T = TypeVar("_T")

_MAX_MERGED = 64  # inner middlewares whose merged dispatcher is cached


class FinishedRecorder(Protocol):
    """Recorder whose exchange has ended."""

    client_left: bool
    is_text_error: bool
    outer_error: BaseException | None
    quota_headers: list[tuple[bytes, bytes]] | None

    def find_requested_model(self) -> str | None:
        """Return the model in the body of the request, or None."""
        ...


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """Completes the exchanges of a middleware, and delivers them to its observers.

    Attributes:
        observers: Receive every finished exchange.
        providers: Resolves the provider; None if the middleware was created without one.
        routes: Resolves the template of the route.
        usage: True if responses of models are metered.
        request_model: True if the model is read from the bodies of requests.
        websocket_usage: True if responses of models over WebSockets are metered.
        in_progress: Receive the requests in progress.
        quotas: Receive what is left of the providers' rate limits.
        prices: Prices of models; None if only reported costs are known.
        clock: Monotonic seconds.
        errors: Isolates and logs errors of observers and of this library.
        silent: True if no observer is notified and none can join.
        open_hooks: The hooks `on_open` of the observers.
        limit_hooks: The hooks `on_limit` of the observers.
        usage_hooks: The hooks `on_websocket_usage` of the observers.
    """

    observers: tuple[ObserverLike, ...]
    providers: Providers | None
    routes: RouteTemplates
    usage: bool
    clock: Callable[[], float]
    request_model: bool = False
    websocket_usage: bool = False
    in_progress: tuple[RequestsInProgress, ...] = ()
    quotas: tuple[UpstreamQuotas, ...] = ()
    prices: Prices | None = None
    errors: ErrorReporter = field(default_factory=ErrorReporter)
    silent: bool = False
    open_hooks: tuple[Callable[[], object], ...] = field(init=False)
    limit_hooks: tuple[Callable[[str, str], object], ...] = field(init=False)
    usage_hooks: tuple[Callable[[Exchange], object], ...] = field(init=False)
    _resolver: Providers = field(init=False)
    _label_of_path: Callable[[str], str] | None = field(init=False)
    _fallback: Callable[[Exchange], str] | None = field(init=False)
    _template: Callable[[Scope], str] = field(init=False)
    _deliveries: list[tuple[Callable[[Exchange], object], ObserverLike]] = field(init=False)
    _merged: dict[int, tuple[Dispatcher, Dispatcher]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.open_hooks = tuple(self._hooks("on_open"))
        self.limit_hooks = tuple(self._hooks("on_limit"))
        self.usage_hooks = tuple(self._hooks("on_websocket_usage"))
        self._resolver = self.providers or Providers()
        self._label_of_path = self._resolver.label_of_path
        self._fallback = self._resolver.fallback
        self._template = self.routes.__call__  # binding once makes calls faster
        self._deliveries = [
            (deliver, observer)
            for observer in self.observers
            if (deliver := _bound_call(observer)) is not None
        ]

    def on_limit(self, policy: str, decision: str) -> None:
        """Notify observers of a decision of the rate limit `policy`."""
        for hook in self.limit_hooks:
            try:
                hook(policy, decision)
            except Exception as error:  # noqa: BLE001 - isolates the observer
                self.report(component_name(hook), error)

    def read_routes(self) -> None:
        """Read the routes of the application, so that the first request need not."""
        try:
            self.routes.prepare()
        except Exception as error:  # noqa: BLE001 - isolates the application
            self.report("route", error)

    def merge(self, inner: Dispatcher) -> Dispatcher:
        """Return a dispatcher with the observers and options of both; this one if it has all."""
        if self.silent:
            return self
        known = self._merged.get(id(inner))
        if known is not None:
            return known[1]
        options: dict[str, Any] = {
            "observers": _union(self.observers, inner.observers),
            "providers": inner.providers or self.providers,
            "usage": self.usage or inner.usage,
            "request_model": self.request_model or inner.request_model,
            "websocket_usage": self.websocket_usage or inner.websocket_usage,
            "prices": inner.prices or self.prices,
            "in_progress": _union(self.in_progress, inner.in_progress),
            "quotas": _union(self.quotas, inner.quotas),
        }
        merged = self
        if any(getattr(self, name) != value for name, value in options.items()):
            merged = replace(self, **options)
        if len(self._merged) < _MAX_MERGED:
            self._merged[id(inner)] = (inner, merged)  # keeps the object of the id alive
        return merged

    def report(self, component: str, error: Exception) -> None:
        """Log a failure of this library if a line is due, and count it."""
        self.errors.report(component, error, self.observers)

    def notify(self, hook: str) -> None:
        """Call the hook `hook` of the observers."""
        self.errors.notify(hook, self.observers)

    def notify_error(self, component: str) -> None:
        """Count a failure of `component` that needs no log line."""
        self.errors.notify("on_error", self.observers, component)

    def finalize(
        self,
        exchange: Exchange,
        scope: Scope,
        meter: UsageMeter | None,
        recorder: FinishedRecorder,
    ) -> None:
        """Fill in the fields known only at the end, and deliver `exchange` to the observers.

        Errors are reported, not raised; the field at fault keeps its default.

        Args:
            exchange: The finished exchange.
            scope: The request.
            meter: Meter of the response, if a model may have responded.
            recorder: Recorder of the exchange.
        """
        try:
            exchange.route = self._template(scope)
        except Exception as error:  # noqa: BLE001 - isolates the request
            exchange.route = UNMATCHED
            self.report("route", error)
        try:
            if meter is None and self._label_of_path and not (exchange.provider or exchange.model):
                exchange.provider = self._label_of_path(scope["path"][:MAX_PATH_CHARS])
            else:
                self._add_usage(exchange, scope, meter)
            if (exchange.status >= 500 or exchange.usage_source) and exchange.model is None:
                self._add_requested_model(exchange, scope, recorder)
            if self._fallback is not None and exchange.provider == UNKNOWN:
                exchange.provider = self._fallback(exchange)
        except Exception as error:  # noqa: BLE001 - isolates the request
            exchange.provider = UNKNOWN
            self.report("provider", error)
        if exchange.usage_source is not None:
            self._price(exchange, meter)
        if exchange.status >= 400 or exchange.outcome != "complete":
            # Error handlers respond while they handle the exception. Once the client has left, the
            # exception may be a consequence of that.
            cause = None if recorder.client_left else sys.exception()
            is_text, outer = recorder.is_text_error, recorder.outer_error
            self._add_fault(exchange, cause, is_text=is_text, outer=outer)
        elif exchange.fault is not None:
            exchange.fault = None  # annotated for a failure that did not happen
        if recorder.quota_headers and not exchange.limited:
            self._add_quotas(exchange, recorder.quota_headers)
        for deliver, observer in self._deliveries:
            try:
                deliver(exchange)
            except Exception as error:  # noqa: BLE001 - isolates the observer
                self.errors.report(component_name(observer), error, self.observers)

    def describe(
        self,
        exchange: Exchange,
        scope: Scope,
        meter: UsageMeter | None,
        recorder: FinishedRecorder,
    ) -> None:
        """Fill in the route, the model and the provider of an exchange in progress."""
        try:
            exchange.route = self._template(scope)
            if exchange.model is None and meter is not None and meter.account.model:
                exchange.model, exchange.model_source = meter.account.model, "response"
            exchange.provider = self._resolver.resolve(scope, exchange.provider, exchange.model)
            if exchange.model is None:
                self._add_requested_model(exchange, scope, recorder)
            if exchange.provider == UNKNOWN:
                exchange.provider = self._resolver.only(exchange)
        except Exception as error:  # noqa: BLE001 - isolates the caller
            self.report("exchange", error)

    def _add_fault(
        self,
        exchange: Exchange,
        cause: BaseException | None,
        *,
        is_text: bool = False,
        outer: BaseException | None,
    ) -> None:
        if exchange.fault is None:  # not annotated
            try:
                exchange.fault = fault_of(exchange, cause, is_text=is_text, outer=outer)
            except Exception as error:  # noqa: BLE001 - isolates the request
                self.report("fault", error)

    def _add_quotas(self, exchange: Exchange, headers: list[tuple[bytes, bytes]]) -> None:
        try:
            exchange.upstream, is_invalid = parse_quotas(headers)
            if is_invalid:
                self.errors.notify("on_error", self.observers, "upstream_quota")
            for quotas in self.quotas if exchange.upstream else ():
                quotas.add(exchange)
        except Exception as error:  # noqa: BLE001 - isolates the request
            self.report("upstream_quota", error)

    def finalize_websocket_usage(
        self,
        exchange: Exchange,
        scope: Scope,
        cause: BaseException | None,
        outer: BaseException | None,
    ) -> None:
        """Complete a response of a model over a WebSocket, and notify the observers of it.

        Args:
            exchange: The response with its usage.
            scope: The handshake.
            cause: The exception of the application that cut the response, if any.
            outer: The exception that was handled before the handshake, if any.
        """
        try:
            exchange.route = self._template(scope)
        except Exception as error:  # noqa: BLE001 - isolates the connection
            exchange.route = UNMATCHED
            self.report("route", error)
        try:
            if exchange.model is None and (model := model_of_path(scope["path"])) is not None:
                exchange.model, exchange.model_source = model, "request"
            exchange.provider = self._resolver.resolve(scope, exchange.provider, exchange.model)
            if self._fallback is not None and exchange.provider == UNKNOWN:
                exchange.provider = self._fallback(exchange)
            self._resolver.seen.add(exchange.provider)
        except Exception as error:  # noqa: BLE001 - isolates the connection
            exchange.provider = UNKNOWN
            self.report("provider", error)
        self._price(exchange, None)
        if exchange.outcome != "complete":
            self._add_fault(exchange, cause, outer=outer)
        for hook in self.usage_hooks:
            try:
                hook(exchange)
            except Exception as error:  # noqa: BLE001 - isolates the observer
                self.report(component_name(hook), error)

    def _price(self, exchange: Exchange, meter: UsageMeter | None) -> None:
        """Set the cost, or report that this fails."""
        try:
            self._add_cost(exchange, meter)
        except Exception as error:  # noqa: BLE001 - isolates the request
            exchange.cost_nanos, exchange.cost_source = None, "missing"
            self.report("cost", error)

    def _add_usage(self, exchange: Exchange, scope: Scope, meter: UsageMeter | None) -> None:
        """Set the usage, the model and the provider."""
        try:
            if meter is not None:
                _copy_usage(exchange, meter)
        except Exception as error:  # noqa: BLE001 - isolates the request
            self.report("usage", error)
        declared = exchange.provider
        exchange.provider = self._resolver.resolve(scope, declared, exchange.model)
        if exchange.usage_source == "missing" and not _is_model_response(exchange, meter):
            exchange.usage_source = None
        elif meter is not None and meter.account.unreadable:
            self.errors.notify("on_error", self.observers, "usage")
        if declared or exchange.usage_source is not None:  # a path alone proves no provider
            self._resolver.seen.add(exchange.provider)

    def _add_requested_model(
        self, exchange: Exchange, scope: Scope, recorder: FinishedRecorder
    ) -> None:
        """Set the model that only the request names, and the provider if nothing else names it."""
        model = model_of_path(scope["path"]) or recorder.find_requested_model()
        if model is not None:
            exchange.model, exchange.model_source = model, "request"
            if exchange.provider == UNKNOWN:
                exchange.provider = self._resolver.owner(model)

    def _add_cost(self, exchange: Exchange, meter: UsageMeter | None) -> None:
        """Set the cost of a model's response: as reported, else by the prices."""
        if exchange.cost_source is not None:
            return  # by an annotation or a header
        if meter is not None and meter.account.cost_nanos is not None:
            exchange.cost_nanos, exchange.cost_source = meter.account.cost_nanos, "reported"
        elif self.prices is not None:
            usage, cost = exchange.usage, None
            if usage is not None:
                cost = self.prices.cost(exchange.provider, exchange.model, usage)
            if usage is None or cost is None:
                exchange.cost_source = "missing"
                return
            exchange.cost_nanos, exchange.cost_source = check_nanos(cost.nanos), "estimated"
            # Without any token, the counts are unknown.
            is_partial = exchange.usage_source == "partial" or not usage.total
            exchange.cost_is_minimum = cost.is_minimum or is_partial

    def _hooks(self, name: str) -> Iterator[Callable[..., object]]:
        for observer in self.observers:
            hook = find_hook(observer, name)
            if hook is not None:
                yield hook


def _union(outer: tuple[_T, ...], inner: tuple[_T, ...]) -> tuple[_T, ...]:
    return outer + tuple(item for item in inner if item not in outer)


def _copy_usage(exchange: Exchange, meter: UsageMeter) -> None:
    """Copy usage, model and outcome of the response, without overriding annotations.

    An error in a sniffed body is ignored, because a client can have the model write one.
    """
    meter.finish(complete=exchange.outcome == "complete")
    account = meter.account
    exchange.events = account.events
    if exchange.usage is None:
        exchange.usage = account.usage
        exchange.usage_source = account.source
        if exchange.usage_source != "reported":
            exchange.usage_doubtful = account.doubtful
    if exchange.model is None and account.model:
        exchange.model, exchange.model_source = account.model, "response"
    if account.failed and not account.sniffed:  # clients often disconnect because of the error
        exchange.outcome = "error"


def _is_model_response(exchange: Exchange, meter: UsageMeter | None) -> bool:
    """Return True if a model responded, judged by the response, else by the provider."""
    is_response = None if meter is None else meter.account.is_response
    return exchange.provider != UNKNOWN if is_response is None else is_response


def _bound_call(observer: ObserverLike) -> Callable[[Exchange], object] | None:
    """Return the fastest callable for a finished exchange; None if `observer` ignores it."""
    if isinstance(observer, Observer):
        return find_hook(observer, "on_close")
    method = getattr_static(type(observer), "__call__")
    return MethodType(method, observer) if isinstance(method, FunctionType) else observer
