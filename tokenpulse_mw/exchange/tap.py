"""The one tap on a request: it passes every message on first, and looks at it afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from starlette.types import Message, Receive, Scope, Send

from ..usage import Ledger, UsageMeter, meter_for
from .exchange import Exchange, Outcome
from .observers import Failures, Observer
from .provider import HEADER as PROVIDER_HEADER
from .provider import UNKNOWN, Providers
from .route import UNMATCHED, RouteTemplates

SCOPE_KEY = "tokenpulse_mw.exchange"

CLIENT_CLOSED_REQUEST = 499  # nginx's code for a client that left before the answer's head


@dataclass(slots=True)
class Station:
    """What all exchanges of one middleware share."""

    observers: tuple[Observer, ...]
    providers: Providers
    routes: RouteTemplates
    usage: bool
    clock: Callable[[], float]
    failures: Failures = field(default_factory=Failures)
    opened: tuple[Observer, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.opened = tuple(each for each in self.observers if hasattr(each, "opened"))


class Tap:
    """Stands between the application and the server for one exchange.

    `exchange` is filled in as messages pass; observers are given it once, when the last byte of
    the body is out or when the application returns or raises without having come so far.
    """

    __slots__ = (
        "_finished",
        "_gone",
        "_meter",
        "_receive",
        "_send",
        "_station",
        "exchange",
        "meters_usage",
        "observers",
        "providers",
        "scope",
    )

    def __init__(self, station: Station, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.exchange = Exchange(scope["method"], station.clock())
        self.observers = station.observers
        self.providers = station.providers
        self.meters_usage = station.usage
        self._station = station
        self._receive = receive
        self._send = send
        self._meter: UsageMeter | None = None
        self._gone = False
        self._finished = False

    async def receive(self) -> Message:
        """The server's next message; a client that leaves is noted."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._finished:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        """Pass `message` on, then look at it."""
        try:
            await self._send(message)
        except OSError:  # how ASGI 2.4 servers say that the client has left
            self._gone = True
            raise
        if self._finished:
            return
        try:
            kind = message["type"]
            if kind == "http.response.body":
                self._body(message)
            elif kind == "http.response.start":
                self._start(message)
            elif kind == "http.response.pathsend":  # the server sends a file as the whole body
                self._finish("complete")
        except Exception as error:  # noqa: BLE001 - ours must not become the request's
            self.report("exchange", error)

    def join(self, observers: Iterable[Observer]) -> None:
        """Let more observers look on, each once, however often it is installed."""
        new = [each for each in observers if each not in self.observers]
        self.observers = (*self.observers, *new)
        self._station.failures.call("opened", new)

    def drop(self) -> None:
        """Do not measure this exchange: it is a probe or a scrape, not traffic."""
        if not self._finished:
            self._finished = True
            self._station.failures.call("dropped", self.observers)

    def returned(self) -> None:
        """The application is done; settle an answer that it did not finish."""
        if not self._finished:
            self._stop("truncated" if self.exchange.status else "error")

    def raised(self, error: BaseException) -> None:
        """The application raised; a cancellation is the server's way to end a request."""
        if not self._finished:
            self._gone = self._gone or not isinstance(error, Exception)
            self._stop("error")

    def report(self, component: str, error: Exception) -> None:
        """Log a failure of ours once, and let it be counted."""
        self._station.failures.tell(component, error, self.observers)

    def _start(self, message: Message) -> None:
        exchange = self.exchange
        exchange.status = status = message["status"]
        content_type = b""
        for name, value in message.get("headers", ()):
            lowered = name.lower()
            if lowered == b"content-type":
                content_type = value
            elif lowered == PROVIDER_HEADER and not exchange.provider:
                exchange.provider = value.decode("latin-1")
        # Answers of models come from POST alone; reading one back must not count it again.
        if self.meters_usage and exchange.method == "POST" and 200 <= status < 300:
            self._meter = meter_for(content_type.decode("latin-1"))

    def _body(self, message: Message) -> None:
        exchange = self.exchange
        body = message.get("body")
        if body:
            if exchange.time_to_first_byte is None:
                exchange.time_to_first_byte = self._station.clock() - exchange.started
            if self._meter is not None:
                self._metered(self._meter, body)
        if not message.get("more_body"):
            self._finish("complete")

    def _metered(self, meter: UsageMeter, body: bytes) -> None:
        waiting = not meter.ledger.speaking
        meter.feed(body)
        if waiting and meter.ledger.speaking:
            self.exchange.time_to_first_token = self._station.clock() - self.exchange.started

    def _stop(self, outcome: Outcome) -> None:
        exchange = self.exchange
        if not exchange.status:
            exchange.status = CLIENT_CLOSED_REQUEST if self._gone else 500
        self._finish("client_disconnect" if self._gone else outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._finished = True
        station, exchange = self._station, self.exchange
        exchange.duration = station.clock() - exchange.started
        exchange.outcome = outcome
        try:
            exchange.route = station.routes(self.scope)
        except Exception as error:  # noqa: BLE001 - other people's routes
            exchange.route = UNMATCHED
            self.report("route", error)
        if self._meter is not None:
            self._meter.finish(complete=outcome == "complete")
            take_account(exchange, self._meter.ledger)
        try:
            exchange.provider = self.providers.resolve(
                self.scope, declared=exchange.provider, model=exchange.model
            )
        except Exception as error:  # noqa: BLE001 - other people's resolvers
            exchange.provider = UNKNOWN
            self.report("provider", error)
        if exchange.usage is None and exchange.provider == UNKNOWN:
            exchange.usage_source = None  # nothing says that a model answered
        station.failures.finished(self.observers, exchange)


def take_account(exchange: Exchange, ledger: Ledger) -> None:
    """Write into `exchange` what the answer said of itself; what the application said stays."""
    if exchange.usage is None:
        exchange.usage = ledger.usage
        exchange.usage_source = ledger.source
    exchange.model = exchange.model or ledger.model
    if ledger.failed and exchange.outcome == "complete":
        exchange.outcome = "error"
