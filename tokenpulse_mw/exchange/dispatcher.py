"""What all exchanges of one middleware share, and how a finished one is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from inspect import getattr_static
from types import FunctionType, MethodType

from starlette.types import Scope

from ..usage import UsageMeter
from .exchange import Exchange
from .observers import ErrorReporter, Observer, component_name
from .provider import MAX_PATH_CHARS, UNKNOWN, Providers
from .route import UNMATCHED, RouteTemplates

_MAX_MERGED = 64  # ways in which the middlewares of one application are stacked


@dataclass(slots=True, kw_only=True)
class Dispatcher:
    """The observers of a middleware, and what it takes to tell them all there is to know.

    Attributes:
        observers: Told of every finished exchange.
        providers: Tells the provider; None where the middleware was not given any.
        routes: Tells the route's template.
        usage: Whether answers of models are metered.
        clock: Monotonic seconds.
        errors: Keeps what goes wrong here out of the request.
        silent: Nobody is to be told, and nobody can join.
        open_hooks: The hooks `on_open` of those observers that have one.
        limit_hooks: The hooks `on_limit`, likewise.
    """

    observers: tuple[Observer, ...]
    providers: Providers | None
    routes: RouteTemplates
    usage: bool
    clock: Callable[[], float]
    errors: ErrorReporter = field(default_factory=ErrorReporter)
    silent: bool = False
    open_hooks: tuple[Callable[[], object], ...] = field(init=False)
    limit_hooks: tuple[Callable[[str, str], object], ...] = field(init=False)
    _resolver: Providers = field(init=False)
    _label_of_path: Callable[[str], str] | None = field(init=False)
    _template: Callable[[Scope], str] = field(init=False)
    _deliveries: list[tuple[Observer, Observer]] = field(init=False)
    _merged: dict[int, tuple[Dispatcher, Dispatcher]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.open_hooks = tuple(self._hooks("on_open"))
        self.limit_hooks = tuple(self._hooks("on_limit"))
        self._resolver = self.providers or Providers()
        self._label_of_path = self._resolver.label_of_path
        self._template = self.routes.__call__  # bound once, here and below: calls are faster so
        self._deliveries = [(_bound_call(each), each) for each in self.observers]

    def on_open(self) -> None:
        """Tell those observers who want to know that an exchange has begun."""
        for hook in self.open_hooks:
            try:
                hook()
            except Exception as error:  # noqa: BLE001 - an observer's failure is not the request's
                self.report(component_name(hook), error)

    def on_limit(self, policy: str, decision: str) -> None:
        """Tell those observers who want to know what a rate limit has decided."""
        for hook in self.limit_hooks:
            try:
                hook(policy, decision)
            except Exception as error:  # noqa: BLE001 - as above
                self.report(component_name(hook), error)

    def merge(self, inner: Dispatcher) -> Dispatcher:
        """This station with the observers and wishes of `inner`, each observer only once."""
        if self.silent:
            return self
        known = self._merged.get(id(inner))
        if known is not None:
            return known[1]
        new = tuple(each for each in inner.observers if each not in self.observers)
        joint = replace(
            self,
            observers=self.observers + new,
            providers=inner.providers or self.providers,
            usage=self.usage or inner.usage,
        )
        if len(self._merged) < _MAX_MERGED:
            self._merged[id(inner)] = (inner, joint)  # kept, since an id is good while it lives
        return joint

    def report(self, component: str, error: Exception) -> None:
        """Log a failure of ours if a line is due, and count it."""
        self.errors.report(component, error, self.observers)

    def on_drop(self) -> None:
        """Tell those observers who want to know that an exchange is not to be measured."""
        self.errors.notify("on_drop", self.observers)

    def finalize(self, exchange: Exchange, scope: Scope, meter: UsageMeter | None) -> None:
        """Fill in what is known only at the end, and give `exchange` to the observers.

        Nothing is raised: what cannot be told is left out, and reported.
        """
        try:
            exchange.route = self._template(scope)
        except Exception as error:  # noqa: BLE001 - it must not become the request's failure
            exchange.route = UNMATCHED
            self.report("route", error)
        try:
            if meter is None and self._label_of_path and not (exchange.provider or exchange.model):
                exchange.provider = self._label_of_path(scope["path"][:MAX_PATH_CHARS])
            else:
                self._add_usage(exchange, scope, meter)
        except Exception as error:  # noqa: BLE001 - as above
            exchange.provider = UNKNOWN
            self.report("provider", error)
        for tell, observer in self._deliveries:
            try:
                tell(exchange)
            except Exception as error:  # noqa: BLE001 - as above
                self.errors.report(component_name(observer), error, self.observers)

    def _add_usage(self, exchange: Exchange, scope: Scope, meter: UsageMeter | None) -> None:
        """Tell the usage, the model, and by that too the provider."""
        try:
            if meter is not None:
                _copy_usage(exchange, meter)
        except Exception as error:  # noqa: BLE001 - as above
            self.report("usage", error)
        exchange.provider = self._resolver.resolve(scope, exchange.provider, exchange.model)
        if exchange.usage_source == "missing" and not _is_model_response(exchange, meter):
            exchange.usage_source = None
        elif meter is not None and meter.account.unreadable:
            self.errors.notify("on_error", self.observers, "usage")

    def _hooks(self, name: str) -> Iterator[Callable[..., object]]:
        for observer in self.observers:
            hook = getattr(observer, name, None)
            if hook is not None:
                yield hook


def _copy_usage(exchange: Exchange, meter: UsageMeter) -> None:
    """Copy what the response reports into `exchange`; what the application reported stays.

    An error in a guessed body is not believed: the client may have had the model write it.
    """
    meter.finish(complete=exchange.outcome == "complete")
    ledger = meter.account
    exchange.events = ledger.events
    if exchange.usage is None:
        exchange.usage = ledger.usage
        exchange.usage_source = ledger.source
        if exchange.usage_source != "reported":
            exchange.usage_doubtful = ledger.doubtful
    exchange.model = exchange.model or ledger.model
    if ledger.failed and not ledger.sniffed and exchange.outcome == "complete":
        exchange.outcome = "error"


def _is_model_response(exchange: Exchange, meter: UsageMeter | None) -> bool:
    """Whether a model gave this answer: as that shows, else as its provider does."""
    shown = None if meter is None else meter.account.is_response
    return exchange.provider != UNKNOWN if shown is None else shown


def _bound_call(observer: Observer) -> Observer:
    """How `observer` is called with the least ado: a method bound once is faster than an object."""
    method = getattr_static(type(observer), "__call__")
    return MethodType(method, observer) if isinstance(method, FunctionType) else observer
