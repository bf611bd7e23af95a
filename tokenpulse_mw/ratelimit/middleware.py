"""ASGI middleware that rejects requests over a limit with 429 and sends rate limit headers."""

from __future__ import annotations

from collections.abc import Awaitable, Iterable, Sequence

from anyio import CancelScope
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..exchange import (
    SCOPE_KEY,
    ExchangeMiddleware,
    Recorder,
    add_usage_callback,
    end_responses,
    read_request_model,
)
from ..validation import check_bool
from .callables import KeyFunction, check_function
from .headers import Dialect, dialect
from .limiters import Decision
from .misuse import MisuseDetector
from .paths import exempt_paths
from .policy import AnyLimiter, Policy
from .policy_set import Evaluation, OnDecision, PolicySet
from .rejection import RateLimited, send_rejection
from .rejections import Rejections
from .reservations import Reservations
from .responses import Respond, too_many_requests

DEFAULT_LIMIT = "100/minute"

_HEADS = ("http.response.start", "websocket.http.response.start")
_HEADERS_KEY = "tokenpulse_mw.rate_limit_headers"  # those of the innermost limit, in the scope


class RateLimitMiddleware:
    """Middleware that limits the requests of each client.

    HTTP requests and WebSocket handshakes are limited; accepted connections pass unchanged. An
    error in a key, a limiter or `on_decision` is logged, and the request passes; a failing cost
    counts as 1.

    Args:
        limit: A rate such as "100/minute".
        key: Function of the scope that returns the client's key; the client's address when
            None. A request whose key is None is not limited.
        limiter: Limiter to use instead of `limit`. Share it to inspect or reset keys.
        policies: Several limits, instead of `limit`, `key` and `limiter`. A request is counted
            under all policies, or under none if one rejects it.
        default_key: Key of `policies` without one; the client's address when None.
        headers: Dialect of the headers on responses to limited requests, for the enforced
            policies: "draft-11" (draft-ietf-httpapi-ratelimit-headers-11),
            "openai" (`x-ratelimit-*-requests` and `-tokens`), "legacy" (`X-RateLimit-*`), or None
            for no headers.
        exempt: Paths that GET and HEAD requests may read without a limit; a path may end with
            `*`. Other methods and WebSockets are limited. Exempt only paths with cheap handlers:
            the middleware cannot determine which handler serves a path.
        respond: Function of the decision that returns the response to a request over the limit.
        enforce: False counts and reports without rejecting (shadow mode).
        on_decision: Called with the scope and the decision of each policy on every request.
        rejections: Stores the keys that are rejected, which `limit_routes` lists.

    Attributes:
        policies: Policies in the order of evaluation.

    Raises:
        ValueError: An argument is malformed, or two are mutually exclusive.
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
        rejections: Rejections | None = None,
    ) -> None:
        check_function("respond", respond)
        for name, function in {"default_key": default_key, "on_decision": on_decision}.items():
            if function is not None:
                check_function(name, function)
        self.app = app
        self._policy_set = PolicySet(
            _policies(limit, key, limiter, policies),
            enforce=check_bool("enforce", enforce),
            on_decision=on_decision,
            default_key=default_key,
            rejections=rejections,
        )
        self.policies: Sequence[Policy] = self._policy_set.policies
        # Looked up once, since it is called on every request.
        self._evaluate = None if self._policy_set.awaits else self._policy_set.evaluate
        self._reads_model = self._policy_set.reads_model
        self._rejection = respond
        self._is_exempt = exempt_paths(exempt)
        self._dialect = dialect(headers, self.policies)
        self._misuse = MisuseDetector(app, (policy.limiter for policy in self.policies))
        # Only an exchange has the tokens and the end of a response.
        needs_exchange = any(policy.unit != "requests" for policy in self.policies)
        self._exchange = ExchangeMiddleware(self) if needs_exchange else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request over the limit; pass all others on and add rate limit headers."""
        try:
            await self.handle(scope, receive, send)
        except RateLimited as rejection:  # by a middleware inside that calls `TokenPulse.check`
            await rejection(scope, receive, send)

    def handle(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Do the same as a call, without another coroutine around the application.

        For a middleware that awaits the result at once and handles `RateLimited`. Servers
        recognize an ASGI application by its coroutine, so they need the call.
        """
        kind = scope["type"]
        if (kind != "http" and kind != "websocket") or (
            self._is_exempt is not None and self._is_exempt(scope)
        ):
            return self.app(scope, receive, send)
        if self._exchange is not None and kind == "http" and not self._exchange.join(scope):
            return self._exchange(scope, receive, send)  # it calls this middleware again
        if self._misuse.left:
            self._misuse.inspect(scope)
        recorder: Recorder | None = scope.get(SCOPE_KEY)
        if self._reads_model and kind == "http":
            return self._handle_model(recorder, scope, receive, send)
        if self._evaluate is None:
            return self._handle_shared(recorder, scope, receive, send)
        return self._respond(self._evaluate(scope, recorder), recorder, scope, receive, send)

    async def _handle_model(
        self, recorder: Recorder | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Read the model of the request, then evaluate it."""
        model, receive = await read_request_model(
            scope, receive, tokens=self._policy_set.reads_tokens
        )
        if recorder is not None and model is not None:
            recorder.requested_model = model
        if self._evaluate is None:
            await self._handle_shared(recorder, scope, receive, send)
        else:
            evaluation = self._evaluate(scope, recorder)
            await self._respond(evaluation, recorder, scope, receive, send)

    async def _handle_shared(
        self, recorder: Recorder | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        evaluation = await self._policy_set.evaluate_async(scope, recorder)
        await self._respond(evaluation, recorder, scope, receive, send)

    def _respond(
        self,
        evaluation: Evaluation,
        recorder: Recorder | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Awaitable[None]:
        """Return the response of the application, or the rejection."""
        decisions, rejection, reservations = evaluation
        dialect = self._dialect
        is_http = scope["type"] == "http"
        if decisions and dialect is not None:
            if recorder is not None:
                outer = recorder.decisions
                recorder.decisions = [*outer, *decisions] if outer else decisions
            if is_http or rejection is not None:
                if recorder is not None and not dialect.replaces:
                    recorder.add_headers(dialect.write(decisions))  # it inspects messages anyway
                else:
                    send = _adding_headers(dialect, decisions, recorder, scope, send)
        if rejection is not None:
            if recorder is not None:
                recorder.limited = True
            response = self._policy_set.response_to(rejection, scope, self._rejection)
            return send_rejection(response, scope, receive, send)
        if reservations is None:
            return self.app(scope, receive, send)
        if recorder is not None and not recorder.finished and is_http:
            recorder.add_callback(reservations)  # runs after the last byte, with the usage
            return self.app(scope, receive, send)
        add_usage_callback(recorder, reservations.charge_response)
        return self._hold(reservations, recorder, scope, receive, send)

    async def _hold(
        self,
        reservations: Reservations,
        recorder: Recorder | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Pass the request on, and settle its reservations when the application returns."""
        try:
            await self.app(scope, receive, send)
        except GeneratorExit:  # destroyed after the event loop: nothing can be awaited
            reservations.finished(None)
            raise
        except BaseException as error:
            end_responses(recorder, error)
            await self._close(reservations, scope)
            raise
        end_responses(recorder)  # so that those that are cut are charged, too
        await self._close(reservations, scope)

    async def _close(self, reservations: Reservations, scope: Scope) -> None:
        try:
            with CancelScope(shield=True):  # a storage has its own, short timeout
                await reservations.close()
        except Exception as error:  # noqa: BLE001 - must not fail the request
            self._policy_set.report(scope, error)


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
    dialect: Dialect,
    decisions: Sequence[Decision],
    recorder: Recorder | None,
    scope: Scope,
    send: Send,
) -> Send:
    """Return a `send` that adds the headers for `decisions` to the response.

    Headers of an inner rate limit, such as that of a tenant, take precedence.
    """
    fields, replaces = dialect.write(decisions), dialect.replaces
    if replaces:
        scope[_HEADERS_KEY] = fields

    def send_with_headers(message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind != "http.response.body" and kind in _HEADS:
            pairs, added = list(message.get("headers") or ()), fields
            if recorder is not None:
                recorder.keep_quota_headers(pairs)
            if replaces and scope[_HEADERS_KEY] is fields:
                pairs = [pair for pair in pairs if pair[0].lower() not in replaces]
            elif replaces:
                names = {name.lower() for name, _ in pairs}
                added = [pair for pair in fields if pair[0] not in names]
            message = {**message, "headers": [*pairs, *added]}
        return send(message)  # not awaited here, which would cost every chunk a coroutine

    return send_with_headers
