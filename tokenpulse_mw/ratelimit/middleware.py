"""ASGI middleware that rejects requests over a limit with 429 and sends rate limit headers."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import SCOPE_KEY, ExchangeMiddleware, Recorder, recorder_of
from ..validation import check_bool
from .callables import KeyFunction, check_function
from .headers import Dialect, dialect
from .limiters import Decision
from .misuse import MisuseDetector
from .paths import exempt_paths
from .policy import AnyLimiter, Policy
from .policy_set import OnDecision, PolicySet
from .reservations import Reservations
from .responses import Respond, reject_websocket, too_many_requests

DEFAULT_LIMIT = "100/minute"

_HEADS = ("http.response.start", "websocket.http.response.start")


class RateLimitMiddleware:
    """Middleware that limits the requests of each client.

    HTTP requests and WebSocket handshakes are limited; accepted connections pass unchanged. An
    error in a key, a limiter or `on_decision` is logged, and the request passes; a failing cost
    counts as 1.

    Args:
        limit: A rate such as "100/minute".
        key: Function of the scope that returns the client's key; the client's address when
            None. A request with the key None is not limited.
        limiter: Limiter to use instead of `limit`. Share it to inspect or reset keys.
        policies: Several limits, instead of `limit`, `key` and `limiter`. A request is counted
            under all policies, or under none if one rejects it.
        default_key: Key of `policies` without one; the client's address when None.
        headers: Dialect of the headers on responses to limited requests, for the enforced
            policies: "draft-11" (draft-ietf-httpapi-ratelimit-headers-11),
            "openai" (`x-ratelimit-*-requests` and `-tokens`), "legacy" (`X-RateLimit-*`), or None
            for none.
        exempt: Paths that GET and HEAD requests may read without a limit; each may end with `*`.
            Other methods and WebSockets are limited. The middleware cannot know what answers
            these paths: name only those that something cheap answers.
        respond: Function of the decision that returns the response to a request over the limit.
        enforce: False counts and reports without rejecting (shadow mode).
        on_decision: Called with the scope and the decision of each policy on every request.

    Attributes:
        policies: Policies in the order of evaluation.

    Raises:
        ValueError: An argument is malformed, or two exclude each other.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limit: str = DEFAULT_LIMIT,
        key: KeyFunction | None = None,
        limiter: AnyLimiter | None = None,
        policies: Iterable[Policy] | None = None,
        default_key: KeyFunction | None = None,
        headers: str | None = "draft-11",
        exempt: Iterable[str] = (),
        respond: Respond = too_many_requests,
        enforce: bool = True,
        on_decision: OnDecision | None = None,
    ) -> None:
        check_function("respond", respond)
        for name, function in {"default_key": default_key, "on_decision": on_decision}.items():
            if function is not None:
                check_function(name, function)
        self.app = app
        self._gate = PolicySet(
            _policies(limit, key, limiter, policies),
            enforce=check_bool("enforce", enforce),
            on_decision=on_decision,
            default_key=default_key,
        )
        self.policies: Sequence[Policy] = self._gate.policies
        self._judge = None if self._gate.shared else self._gate.evaluate  # found once, called often
        self._respond = respond
        self._is_exempt = exempt_paths(exempt)
        self._dialect = dialect(headers, self.policies)
        self._misuse = MisuseDetector(app, (policy.limiter for policy in self.policies))
        # Tokens, and the end of an answer, are known to an exchange.
        ends = any(policy.unit != "requests" for policy in self.policies)
        self._exchange = ExchangeMiddleware(self) if ends else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request over the limit; pass all others on and add rate limit headers."""
        kind = scope["type"]
        if (kind != "http" and kind != "websocket") or (
            self._is_exempt is not None and self._is_exempt(scope)
        ):
            await self.app(scope, receive, send)
            return
        if kind == "http" and self._exchange is not None and not self._exchange.join(scope):
            await self._exchange(scope, receive, send)  # and it calls us again
            return
        if self._misuse.left:
            self._misuse.inspect(scope)
        tap: Recorder | None = scope.get(SCOPE_KEY)
        judge = self._judge
        if judge is not None:
            decisions, refusal, holds = judge(scope, tap)
        else:
            decisions, refusal, holds = await self._gate.evaluate_shared(scope, tap)
        if decisions and self._dialect is not None and (kind == "http" or refusal is not None):
            send = _adding_headers(self._dialect, decisions, tap, send)
        if refusal is not None:
            await self._refuse(refusal, scope, receive, send)
        elif holds is not None:
            await self._hold(holds, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _refuse(self, decision: Decision, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = self._respond(decision)
            if not callable(answer):
                raise TypeError(f"respond must return an ASGI application, got {answer!r}")
        except Exception as error:  # noqa: BLE001 - our failure must not be the request's
            self._gate.report(scope, error)
            answer = too_many_requests(decision)
        tap = recorder_of(scope)
        if tap is not None:
            tap.limited = True
        if scope["type"] == "websocket":
            await reject_websocket(answer, scope, receive, send)
        else:
            await answer(scope, receive, send)

    async def _hold(self, holds: Reservations, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and settle its reservations when it ends."""
        tap = recorder_of(scope)
        if tap is not None and not tap.finished and scope["type"] == "http":
            tap.add_callback(holds)  # runs after the last byte, with the usage
            await self.app(scope, receive, send)
            return
        try:
            await self.app(scope, receive, send)
        except GeneratorExit:  # destroyed after the event loop: nothing can be awaited any more
            holds.finished(None)
            raise
        except BaseException:
            await _close(holds)
            raise
        await _close(holds)


async def _close(holds: Reservations) -> None:
    with CancelScope(shield=True):  # a storage has its own, short timeout
        await holds.close()


def _policies(
    limit: str,
    key: KeyFunction | None,
    limiter: AnyLimiter | None,
    policies: Iterable[Policy] | None,
) -> list[Policy]:
    if limiter is not None and limit != DEFAULT_LIMIT:
        raise ValueError(f"give limit or limiter, not both: got {limit!r} and {limiter!r}")
    if policies is None:
        return [Policy(limit if limiter is None else limiter, key=key)]
    if key is not None or limiter is not None or limit != DEFAULT_LIMIT:
        raise ValueError("give either policies, or limit, key and limiter, not both")
    if isinstance(policies, str) or not isinstance(policies, Iterable):
        raise ValueError(f"policies must be a list of Policy, got {policies!r}")
    return list(policies)


def _adding_headers(
    dialect: Dialect, decisions: Sequence[Decision], tap: Recorder | None, send: Send
) -> Send:
    """Return a `send` that adds the headers for `decisions` to the response."""
    fields, replaces = dialect.write(decisions), dialect.replaces
    if tap is not None and not replaces:  # the recorder inspects every message anyway
        tap.add_headers(fields)
        return send

    def send_telling(message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind != "http.response.body" and kind in _HEADS:
            kept = message.get("headers", ())
            if replaces:
                kept = [pair for pair in kept if pair[0].lower() not in replaces]
            message = {**message, "headers": [*kept, *fields]}
        return send(message)  # not awaited here, which would cost every chunk a coroutine

    return send_telling
