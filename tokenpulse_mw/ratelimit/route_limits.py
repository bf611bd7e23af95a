"""Limits at routes, for keys that are known only there, such as the tenant of a dependency."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from inspect import Parameter, Signature, signature
from typing import Any

from anyio import CancelScope
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ..exchange import Exchange, Recorder, add_usage_callback, recorder_of
from .callables import KeyFunction, check_function, check_name
from .headers import RawHeaders, dialect
from .key_kinds import kind_of, with_kind
from .limiters import Decision, Limiter, PlanLimiter, RateOf, RateTable
from .misuse import WarnOnce
from .policy import AnyLimiter, Money, OnMissingCost, Policy
from .policy_set import OnDecision, PolicySet
from .rejection import RateLimited, register_handler
from .rejections import Rejections
from .reservations import Reservations
from .responses import Respond
from .weights import Weight

# Functions of the request or WebSocket, which can also be read as its scope.
ConnectionKey = Callable[[Any], Hashable | None]
ConnectionCost = int | Callable[[Any], int]
ConnectionReserve = str | Money | Callable[[Any], Money | None]
ConnectionCondition = Callable[[Any], bool]

FROM_LIMIT: Any = "from the limit"  # default of `key`, for which None has a meaning

_CHECK_KEY = "tokenpulse_mw.route_check"  # the connection and the key of a check, in the scope
_MAX_LIMITS = 1000
_MAX_COMBINATIONS = 256


class RouteLimit:
    """A limit for some routes: a dependency of FastAPI, or an argument of `TokenPulse.check`.

    All routes with the same object share the limit.

    Attributes:
        policy: The policy; its limiter can be inspected and reset.
    """

    def __init__(self, policy: Policy, limits: RouteLimits, dependency: object) -> None:
        self.policy = policy
        self._limits = limits
        # FastAPI resolves these parameters; `dependency` is a `Depends(...)`.
        kind = Parameter.POSITIONAL_OR_KEYWORD
        parameters = [Parameter("connection", kind, annotation=HTTPConnection)]
        if dependency is not None:
            parameters.append(Parameter("key", kind, default=dependency))
        self.__signature__ = Signature(parameters)

    async def __call__(self, connection: HTTPConnection, key: Hashable | None = FROM_LIMIT) -> None:
        """Count the request, or raise `RateLimited`."""
        await self._limits.check(connection, self, key=key)


class RouteLimits:
    """All limits at routes of one gateway.

    Args:
        policies: Policies of the middleware, whose names are taken; each new limit is appended.
        default_key: Key of limits without one.
        headers: Dialect of the headers.
        respond: Function of the decision that returns the response to a rejected request.
        enforce: False counts and reports without rejecting.
        on_decision: Called with the scope and each decision.
        create_limiter: Function of a rate, a name and a time zone or None, that returns the
            limiter of a new limit.
        rejections: Stores the rejected keys.

    Attributes:
        policies: Policies of the middleware and of the routes.
    """

    def __init__(
        self,
        policies: list[Policy],
        *,
        default_key: KeyFunction,
        headers: str | None,
        respond: Respond,
        enforce: bool,
        on_decision: OnDecision | None,
        create_limiter: Callable[[str, str, str | None], AnyLimiter],
        rejections: Rejections | None = None,
    ) -> None:
        self.policies = policies
        self._create_limiter = create_limiter
        self._default_key = default_key
        self._headers = headers
        self._dialect = dialect(headers, self.policies)
        self._names = {policy.name for policy in policies}
        self._respond = respond
        self._options: dict[str, Any] = {
            "enforce": enforce,
            "on_decision": on_decision,
            "rejections": rejections,
        }
        self._sets: dict[tuple[RouteLimit, ...], PolicySet] = {}
        self._warn, self._warn_late = WarnOnce(), WarnOnce()

    def add(
        self,
        limit: str | RateOf | RateTable | AnyLimiter,
        *,
        name: str | None = None,
        key: object = None,
        cost: ConnectionCost = 1,
        tokens: ConnectionCost | None = None,
        weights: Mapping[str, Weight] | None = None,
        reserve: ConnectionReserve | None = None,
        on_missing_cost: OnMissingCost = "reserve",
        when: ConnectionCondition | None = None,
        enforce: bool = True,
        status: int = 429,
        timezone: str | None = None,
    ) -> RouteLimit:
        """Return a new limit.

        Raises:
            ValueError: An argument is malformed, the name or the limiter is used already, or there
                are too many limits.
        """
        if len(self.policies) >= _MAX_LIMITS:
            raise ValueError(
                f"limit() was called {_MAX_LIMITS} times: create limits once, such as in a module, "
                "not for each request"
            )
        if self._sets:
            self._warn_late(
                "limit() was called after the first request (logged once): each call creates "
                "another limit with counts of its own; call it once, such as in a module"
            )
        if name is not None and check_name("name", name) in self._names:
            raise ValueError(
                f"name must be unique among the limits, got {name!r} again: to share a limit, use "
                "the same object for several routes"
            )
        dependency = _dependency(key)
        name = _free_name(limit, self._names) if name is None else name
        policy = Policy(
            self._create_limiter(limit, name, timezone) if isinstance(limit, str) else limit,
            name=name,
            key=self._key(None if dependency is not None else key, dependency),
            cost=_of_connection("cost", cost),
            tokens=None if tokens is None else _of_connection("tokens", tokens),
            weights=weights,
            reserve=None if reserve is None else _of_connection("reserve", reserve),
            on_missing_cost=on_missing_cost,
            when=None if when is None else _of_connection("when", when),
            enforce=enforce,
            status=status,
            timezone=None if isinstance(limit, str) else timezone,
        )
        if any(policy.limiter is other.limiter for other in self.policies):
            raise ValueError(
                f"limit must have its own limiter, got that of another one: {limit!r}; to share a "
                "limit, use the same object for several routes"
            )
        self.policies.append(policy)
        self._names.add(name)
        self._dialect = dialect(self._headers, self.policies)
        return RouteLimit(policy, self, dependency)

    async def check(
        self,
        connection: HTTPConnection | Scope,
        *limits: RouteLimit,
        key: Hashable | None = FROM_LIMIT,
    ) -> None:
        """Count a request under all `limits`, or under none and raise `RateLimited`.

        Raises:
            RateLimited: The request is over a limit.
            ValueError: An argument is not a limit, or one is given twice.
        """
        policy_set = self._sets.get(limits) or self._policy_set(limits)
        if not isinstance(connection, HTTPConnection):
            is_http = connection["type"] == "http"
            connection = Request(connection) if is_http else HTTPConnection(connection)
        scope = connection.scope
        recorder = recorder_of(scope)
        if recorder is None:
            self._warn(
                "limit() was used outside of a gateway (logged once): metrics, alerts and headers "
                "lack it; call install() or wrap(), and add middleware that calls check() before "
                "install()"
            )
        inner = {**scope, _CHECK_KEY: (connection, key)}
        if policy_set.awaits:
            evaluation = await policy_set.evaluate_async(inner, recorder)
        else:
            evaluation = policy_set.evaluate(inner, recorder)
        decisions, rejection, reservations = evaluation
        fields = self._add_headers(recorder, decisions)
        if reservations is not None:
            await _hold(reservations, scope, recorder)
        if rejection is not None:
            response = policy_set.response_to(rejection, scope, self._respond)
            if recorder is None:
                response = _with_headers(response, fields)
            else:
                recorder.limited = True
            register_handler(scope)
            raise RateLimited(rejection, response)

    def _policy_set(self, limits: tuple[RouteLimit, ...]) -> PolicySet:
        if not limits:
            raise ValueError("check() needs a limit, such as check(request, per_tenant)")
        for limit in limits:
            if not isinstance(limit, RouteLimit) or limit.policy not in self.policies:
                raise ValueError(
                    f"limits must be made by limit() of the same TokenPulse, got {limit!r}: create "
                    'each once, such as per_tenant = pulse.limit("20/minute", key=...)'
                )
        policy_set = PolicySet([limit.policy for limit in limits], **self._options)
        if len(self._sets) >= _MAX_COMBINATIONS:
            self._sets.clear()
        self._sets[limits] = policy_set
        return policy_set

    def _add_headers(self, recorder: Recorder | None, decisions: Sequence[Decision]) -> RawHeaders:
        """Add one header field for the decisions of all layers to the response."""
        if self._dialect is None or not decisions:
            return []
        latest = {  # without the decisions of another gateway
            decision.policy: decision
            for decision in (*(recorder.decisions if recorder else ()), *decisions)
            if decision.policy in self._names
        }
        fields = self._dialect.write(list(latest.values()))
        if recorder is not None:
            recorder.decisions = list(latest.values())
            recorder.replace_headers(fields, self._dialect.replaces)
        return fields

    def _key(self, key: object, dependency: object) -> KeyFunction:
        """Return a key function of the scope that `check` evaluates."""
        if dependency is not None:
            function: ConnectionKey = partial(_without_dependency)
            with_kind(function, kind_of(getattr(dependency, "dependency", None) or dependency))
        elif key is None:
            function = self._default_key
        else:
            function = _check_key(key)

        def key_of(scope: Scope) -> Hashable | None:
            connection, given = scope[_CHECK_KEY]
            found: Hashable | None = function(connection) if given is FROM_LIMIT else given
            if found is not None and type(found).__hash__ is object.__hash__:
                raise TypeError(
                    "key must be equal in all requests of a client, got an object that equals "
                    f"only itself: {type(found).__name__}; use an attribute such as its id"
                )
            return found

        return with_kind(key_of, kind_of(function))


def _dependency(key: object) -> object:
    """Return the `Depends(...)` of `key`, which may be `Annotated[...]`; None without one."""
    marks = (key, *getattr(key, "__metadata__", ()))
    return next((mark for mark in marks if hasattr(mark, "dependency")), None)


def _check_key(key: Any) -> ConnectionKey:
    """Return `key` if it is a function of the request, and not a dependency."""
    check: Callable[[str, object], None] = check_function
    name = getattr(key, "__name__", "function")
    try:
        check("key", key)
        signature(key).bind(None)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"key must be a function of the request that is not async, got {key!r} ({error}); for "
            f"a dependency of FastAPI, use key=Depends({name})"
        ) from None
    if _is_dependency(key):
        raise ValueError(
            f"key must be a function of the request, got the dependency {name}: use "
            f"key=Depends({name})"
        )
    function: ConnectionKey = key
    return function


def _is_dependency(key: ConnectionKey) -> bool:
    """Return True if a parameter of `key` is declared with `Header()`, `Depends()` or the like."""
    try:
        parameters = signature(key, eval_str=True).parameters.values()
    except NameError:  # an annotation of a name that only type checkers import
        parameters = signature(key).parameters.values()
    marks = [
        mark
        for parameter in parameters
        for mark in (parameter.default, *getattr(parameter.annotation, "__metadata__", ()))
    ]
    return any(type(mark).__module__.partition(".")[0] == "fastapi" for mark in marks)


def _without_dependency(connection: object) -> Hashable | None:
    raise ValueError(
        "key is Depends(...), which only FastAPI can resolve: use Depends(limit), or give the key "
        f"to check(), got {type(connection).__name__}"
    )


def _of_connection(parameter: str, value: Any) -> Any:
    """Return a function of the scope that calls `value` with the connection."""
    if not callable(value):
        return value
    check_function(parameter, value)
    return lambda scope: value(scope[_CHECK_KEY][0])


def _free_name(limit: object, names: set[str]) -> str:
    """Return a name after the rate or the function, such as "20-per-minute"."""
    if isinstance(limit, str):
        text = limit.replace("/", "-per-")
    elif isinstance(limit, Mapping):
        text = "plans"
    elif isinstance(limit, Limiter) and not isinstance(limit, PlanLimiter):
        text = f"{limit.limit}-per-{limit.window}s"
    else:
        text = str(getattr(limit, "__name__", type(limit).__name__))
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-")[:56] or "limit"
    if name not in names:
        return name
    return next(
        free for number in range(2, len(names) + 3) if (free := f"{name}-{number}") not in names
    )


def _with_headers(response: ASGIApp, fields: RawHeaders) -> ASGIApp:
    """Return `response` with headers that no exchange adds."""

    async def with_headers(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"].endswith("response.start"):
                message = {**message, "headers": [*message["headers"], *fields]}
            await send(message)

        await response(scope, receive, send_with_headers)

    return with_headers


async def _hold(reservations: Reservations, scope: Scope, recorder: Recorder | None) -> None:
    """Settle the reservations when the response ends; those of a WebSocket when it closes."""
    if recorder is not None and scope["type"] == "http":
        recorder.add_callback(reservations)
    elif recorder is not None and (
        add_usage_callback(recorder, reservations.charge_response) or reservations.has_slots
    ):
        recorder.add_callback(_AtClose(reservations))
    else:  # the end is not known, or has no usage: tokens stay charged
        with CancelScope(shield=True):
            await reservations.close()


class _AtClose:
    """Callback that settles reservations after the application has returned."""

    needs_close = True

    def __init__(self, reservations: Reservations) -> None:
        self._reservations = reservations

    def finished(self, exchange: Exchange) -> None:
        """Do nothing: the handshake ends here, and the connection later."""

    async def close(self) -> None:
        """Settle the reservations."""
        await self._reservations.close()
