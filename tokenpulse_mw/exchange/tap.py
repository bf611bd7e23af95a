"""What is known of an exchange while it goes on, and how it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from anyio import CancelScope
from starlette.types import Receive, Scope, Send

from ..usage import UsageMeter
from .exchange import METHODS, OTHER_METHOD, Exchange, Outcome
from .server import CLIENT_CLOSED_REQUEST
from .station import Station
from .watcher import Watcher, closed, told

RawHeaders = Sequence[tuple[bytes, bytes]]

SCOPE_KEY = "tokenpulse_mw.exchange"

_NOTHING: dict[str, Any] = {}


class Tap:
    """Stands between the application and the server for one exchange.

    What passes is noted. The `Exchange` is made of that once: when the last byte of the body is
    out, or when the application returns or raises without having come so far; from then on the
    tap is `finished`, and nothing changes it any more.

    Attributes:
        station: Who is told.
        started: When the request came in, in seconds of the station's clock.
        status: Of the answer, as far as there is one; else 0.
        limited: A rate limit answers instead of the application.
        said: What the application has said of the exchange, by the names of its fields.
        watchers: Wait for the end.
        finished: The exchange is over.
    """

    __slots__ = (
        "_first_byte",
        "_first_token",
        "_gone",
        "_headers",
        "_meter",
        "_receive",
        "_scope",
        "_send",
        "finished",
        "limited",
        "said",
        "started",
        "station",
        "status",
        "watchers",
    )

    def __init__(self, station: Station, scope: Scope, receive: Receive, send: Send) -> None:
        self.station = station
        self.started = station.clock()
        self.status = 0
        self.limited = False
        self.said: Mapping[str, Any] = _NOTHING
        self.watchers: tuple[Watcher, ...] = ()
        self.finished = False
        self._scope = scope
        self._receive = receive
        self._send = send
        self._headers: RawHeaders = ()
        self._gone = False
        self._meter: UsageMeter | None = None
        self._first_byte: float | None = None
        self._first_token: float | None = None

    def say(self, **facts: Any) -> None:
        """Note what the application knows of the exchange; later words override earlier ones."""
        if not self.finished:
            self.said = {**self.said, **facts}

    def misspeak(self, failure: Exception) -> None:
        """Report that something the application knows could not be told."""
        self.station.report("annotate", failure)

    def add_headers(self, headers: RawHeaders) -> None:
        """Send `headers` with the answer, beside its own."""
        self._headers = [*self._headers, *headers] if self._headers else headers

    def watch(self, watcher: Watcher) -> None:
        """Tell `watcher` when this exchange is over."""
        self.watchers = (*self.watchers, watcher)

    async def close(self) -> None:
        """The application is gone, and so are we; let those who watched do what takes time."""
        with CancelScope(shield=True):
            for watcher in self.watchers:
                await closed(watcher, self.station.report)

    def join(self, station: Station) -> None:
        """Let the observers of another middleware look on too."""
        if self.finished:
            return
        joint = self.station.joined(station)
        new = tuple(each for each in joint.observers if each not in self.station.observers)
        self.station = joint
        joint.failures.call("opened", new)

    def drop(self) -> None:
        """Do not measure this exchange: it is a probe or a scrape, not traffic."""
        if self.finished:
            return
        self.station.dropped()
        if self.watchers:  # they have to know how it ends, whoever else does not
            self.station = replace(self.station, observers=(), muted=True)
        else:
            self.finished = True
            self._scope = _NOTHING

    def returned(self) -> None:
        """The application is done with an answer that is not finished."""
        self._stop("truncated" if self.status else "error")

    def raised(self, error: BaseException) -> None:
        """Finish the exchange of an application that raised, or was cancelled by the server."""
        if not self.finished:
            self._gone = self._gone or not isinstance(error, Exception)
            self._stop("error")
        if isinstance(error, GeneratorExit):
            self.watchers = ()  # destroyed after the event loop: nothing can be awaited any more

    def _stop(self, outcome: Outcome) -> None:
        if not self.status:
            self.status = CLIENT_CLOSED_REQUEST if self._gone else 500
        self._finish(outcome, self.station.clock())

    def _finish(self, outcome: Outcome, now: float) -> None:
        self.finished = True
        # Let go of the scope, which holds this tap: the two need no garbage collector then.
        scope, self._scope = self._scope, _NOTHING
        method = scope.get("method", "GET")  # a WebSocket's handshake has none of its own
        exchange = Exchange(
            method if method in METHODS else OTHER_METHOD,
            self.started,
            status=self.status,
            outcome="client_disconnect" if self._gone else outcome,
            limited=self.limited,
            duration=now - self.started,
            time_to_first_byte=None if method == "HEAD" else self._first_byte,
            time_to_first_token=self._first_token,
        )
        if self.said:
            for name, fact in self.said.items():
                setattr(exchange, name, fact)
        self.station.settle(exchange, scope, self._meter)
        for watcher in self.watchers:
            told(watcher, exchange, self.station.report)
