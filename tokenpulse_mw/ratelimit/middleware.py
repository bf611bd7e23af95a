"""The middleware that answers 429 to whoever asks too often, and tells all where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import Failures, tap_of
from .decision import Decision
from .exempt import exempt_paths
from .headers import RawHeaders, dialect, seconds
from .keys import KeyFunction, client_address
from .limiter import Limiter

DEFAULT_LIMIT = "100/minute"


def too_many_requests(decision: Decision) -> ASGIApp:
    """The seed's answer: 429, `text/plain`, with `Retry-After` in seconds (RFC 9110, 10.2.3)."""
    retry_after = max(seconds(decision.retry_after), 1)
    return PlainTextResponse(
        "Too Many Requests", status_code=429, headers={"Retry-After": str(retry_after)}
    )


class RateLimitMiddleware:
    """Limit how often each client may ask.

    A failure in `key`, `limiter` or `on_decision` is logged once and lets the request pass.

    Args:
        limit: A rate such as "100/minute".
        key: Who is asking, as a function of the scope. A request whose key is None is not
            limited.
        limiter: Decides, in place of `limit`. Share it to look at keys, or to reset them.
        headers: The dialect of the headers on every limited path's answers: "draft-11"
            (draft-ietf-httpapi-ratelimit-headers-11), or None for none.
        exempt: Paths that are not limited; a `*` may stand at the end of each.
        respond: The answer to a request over the limit, as a function of the decision.
        enforce: False only counts and tells (shadow mode): every request passes.
        on_decision: Told the scope and the decision of every limited path's request.

    Raises:
        ValueError: An argument is malformed, or both `limit` and `limiter` are given.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: str = DEFAULT_LIMIT,
        key: KeyFunction | None = None,
        limiter: Limiter | None = None,
        headers: str | None = "draft-11",
        exempt: Iterable[str] = ("/health*", "/metrics"),
        respond: Callable[[Decision], ASGIApp] = too_many_requests,
        enforce: bool = True,
        on_decision: Callable[[Scope, Decision], object] | None = None,
    ) -> None:
        if limiter is not None and limit != DEFAULT_LIMIT:
            raise ValueError(f"give limit or limiter, not both: got {limit!r} and {limiter!r}")
        for name, function in {"key": key, "respond": respond, "on_decision": on_decision}.items():
            _check_function(name, function)
        self.app = app
        self.limiter = Limiter(limit) if limiter is None else limiter
        self.enforce = enforce
        self._key = key or client_address()
        self._respond = respond
        self._on_decision = on_decision
        self._is_exempt = exempt_paths(exempt)
        self._write = dialect(headers, limit=self.limiter.limit, window=self.limiter.window)
        self._failures = Failures()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request over the limit; pass all else on, with headers that tell the limit."""
        if scope["type"] != "http" or self._is_exempt(scope):
            await self.app(scope, receive, send)
            return
        decision = self._decide(scope)
        if decision is None:
            await self.app(scope, receive, send)
            return
        answer, tap = self.app, tap_of(scope)
        if not decision.allowed and self.enforce:
            answer = self._respond(decision)
            if tap is not None:
                tap.exchange.limited = True
        if self._write is not None:
            fields = self._write(decision)
            if tap is not None:  # it looks at every message anyway
                tap.add_headers(fields)
            else:
                send = _with_headers(send, fields)
        await answer(scope, receive, send)

    def _decide(self, scope: Scope) -> Decision | None:
        """The limiter's decision; None where nobody is to be limited, or we cannot tell."""
        try:
            key = self._key(scope)
            decision = None if key is None else self.limiter.hit(key)
        except Exception as error:  # noqa: BLE001 - our failure must not be the request's
            self._report(scope, error)
            return None
        if decision is not None and self._on_decision is not None:
            try:
                self._on_decision(scope, decision)
            except Exception as error:  # noqa: BLE001 - as above, and the decision stands
                self._report(scope, error)
        return decision

    def _report(self, scope: Scope, error: Exception) -> None:
        tap = tap_of(scope)
        self._failures.tell("ratelimit", error, tap.station.observers if tap else ())


def _check_function(name: str, function: object) -> None:
    if function is None:
        return
    is_async = iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that acts as a function
    )
    if is_async or not callable(function):
        raise ValueError(f"{name} must be a function, and not async, got {function!r}")


def _with_headers(send: Send, fields: RawHeaders) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *fields]}
        await send(message)

    return send_with_headers
