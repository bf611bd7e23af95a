"""What all exchanges of one middleware share, and how a finished one is settled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from starlette.types import Scope

from ..usage import UsageMeter
from .exchange import Exchange
from .observers import Failures, Observer, name_of
from .provider import UNKNOWN, Providers
from .route import UNMATCHED, RouteTemplates

_MOST_JOINTS = 64  # ways in which the middlewares of one application are stacked


@dataclass(slots=True, kw_only=True)
class Station:
    """The observers of a middleware, and what it takes to tell them all there is to know.

    Attributes:
        observers: Told of every finished exchange.
        providers: Tells the provider; None where the middleware was not given any.
        routes: Tells the route's template.
        usage: Whether answers of models are metered.
        clock: Monotonic seconds.
        failures: Keeps what goes wrong here out of the request.
        openers: The hooks `opened` of those observers that have one.
        deciders: The hooks `decided`, likewise.
    """

    observers: tuple[Observer, ...]
    providers: Providers | None
    routes: RouteTemplates
    usage: bool
    clock: Callable[[], float]
    failures: Failures = field(default_factory=Failures)
    openers: tuple[Callable[[], object], ...] = field(init=False)
    deciders: tuple[Callable[[str, str], object], ...] = field(init=False)
    _resolver: Providers = field(init=False)
    _joints: dict[int, tuple[Station, Station]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.openers = tuple(self._hooks("opened"))
        self.deciders = tuple(self._hooks("decided"))
        self._resolver = self.providers or Providers()

    def opened(self) -> None:
        """Tell those observers who want to know that an exchange has begun."""
        for hook in self.openers:
            try:
                hook()
            except Exception as error:  # noqa: BLE001 - an observer's failure is not the request's
                self.failures.log(name_of(hook), error)

    def decided(self, policy: str, decision: str) -> None:
        """Tell those observers who want to know what a rate limit has decided."""
        for hook in self.deciders:
            try:
                hook(policy, decision)
            except Exception as error:  # noqa: BLE001 - as above
                self.failures.log(name_of(hook), error)

    def joined(self, inner: Station) -> Station:
        """This station with the observers and wishes of `inner`, each observer only once."""
        known = self._joints.get(id(inner))
        if known is not None:
            return known[1]
        new = tuple(each for each in inner.observers if each not in self.observers)
        joint = replace(
            self,
            observers=self.observers + new,
            providers=inner.providers or self.providers,
            usage=self.usage or inner.usage,
        )
        if len(self._joints) < _MOST_JOINTS:
            self._joints[id(inner)] = (inner, joint)  # kept, since an id is good while it lives
        return joint

    def report(self, component: str, error: Exception) -> None:
        """Log a failure of ours once, and let it be counted."""
        self.failures.tell(component, error, self.observers)

    def dropped(self) -> None:
        """Tell those observers who want to know that an exchange is not to be measured."""
        self.failures.call("dropped", self.observers)

    def settle(self, exchange: Exchange, scope: Scope, meter: UsageMeter | None) -> None:
        """Fill in what is known only at the end, and give `exchange` to the observers.

        Nothing is raised: what cannot be told is left out, and reported.
        """
        try:
            exchange.route = self.routes(scope)
        except Exception as error:  # noqa: BLE001 - it must not become the request's failure
            exchange.route = UNMATCHED
            self.report("route", error)
        component = "usage"
        try:
            if meter is not None:
                _take_account(exchange, meter)
            component = "provider"
            declared, model = exchange.provider, exchange.model
            exchange.provider = self._resolver.resolve(scope, declared, model)
        except Exception as error:  # noqa: BLE001 - as above
            exchange.provider = UNKNOWN
            self.report(component, error)
        if exchange.usage_source == "missing" and exchange.provider == UNKNOWN:
            exchange.usage_source = None  # nothing says that a model answered at all
        elif meter is not None and meter.ledger.unreadable:
            self.failures.call("failed", self.observers, "usage")
        self.failures.finished(self.observers, exchange)

    def _hooks(self, name: str) -> Iterator[Callable[..., object]]:
        for observer in self.observers:
            hook = getattr(observer, name, None)
            if hook is not None:
                yield hook


def _take_account(exchange: Exchange, meter: UsageMeter) -> None:
    """Write into `exchange` what the answer said of itself; what the application said stays."""
    meter.finish(complete=exchange.outcome == "complete")
    ledger = meter.ledger
    if exchange.usage is None:
        exchange.usage = ledger.usage
        exchange.usage_source = ledger.source
    exchange.model = exchange.model or ledger.model
    if ledger.failed and exchange.outcome == "complete":
        exchange.outcome = "error"
