"""A policy, and the charge of one request under it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from inspect import isclass
from typing import NamedTuple, cast

from starlette.types import Scope

from ..validation import check_bool, check_integer
from .callables import KeyFunction, check_function, check_name
from .keys import client_address
from .limiters import (
    Decision,
    InFlight,
    Limiter,
    PlanLimiter,
    RateOf,
    StoredInFlight,
    StoredLimiter,
)

AnyLimiter = Limiter | StoredLimiter | InFlight | StoredInFlight
Cost = int | Callable[[Scope], int]

DEFAULT_NAME = "default"  # name of a decision that no policy has renamed

_new = tuple.__new__  # twice as fast as calling the class of a named tuple


class Policy:
    """A limit with a key, a cost and the requests it applies to.

    Args:
        limit: A rate such as "100/minute"; a function of the key, async or not, that returns one,
            or None for no limit; or a limiter, such as `PlanLimiter`, `SharedLimiter`,
            `ZoneLimiter` or `InFlight`.
        name: Name in headers, metrics and errors: letters, digits, `_`, `.`, `:` and `-`.
        key: Function of the scope that returns the client's key; the client's address when
            None. A request whose key is None is not limited.
        cost: Cost of a request: an integer, or a function of the scope that returns an integer.
        tokens: Limit tokens instead of requests. This number (or function of the scope) is
            reserved before a request and replaced by the reported usage when the response
            ends. If it covers the largest request, concurrent requests cannot exceed the limit.
        when: Condition on the scope, such as `requests_to("/v1/*")`; all when None.
        enforce: False counts and reports without rejecting (shadow mode).

    Attributes:
        limiter: Limiter, made from `limit` if that is a rate.
        shared: True if the limiter counts in a storage, so that its hits are awaited.
        holds_slots: True if the limiter counts requests in progress, which release their slots.
        plans: The limiter if it is a `PlanLimiter`, else None.
        suspended: True to limit no request and count none, as tests of something else need it.
        unit: Unit of the limit: "requests", "tokens" or "concurrent-requests".

    Raises:
        ValueError: An argument is malformed, or two are mutually exclusive.
    """

    def __init__(
        self,
        limit: str | RateOf | AnyLimiter,
        *,
        name: str = DEFAULT_NAME,
        key: KeyFunction | None = None,
        cost: Cost = 1,
        tokens: Cost | None = None,
        when: Callable[[Scope], bool] | None = None,
        enforce: bool = True,
    ) -> None:
        self.limiter = _limiter(limit)
        self.name = check_name("policy name", name)
        self.has_key = key is not None
        self.key = client_address() if key is None else key
        self.when = when
        self.enforce = check_bool("enforce", enforce)
        self.suspended = False
        self.shared = isinstance(self.limiter, StoredLimiter | StoredInFlight)
        self.holds_slots = isinstance(self.limiter, InFlight | StoredInFlight)
        self.local = cast(Limiter | InFlight, self.limiter)  # unless `shared`
        self.remote = cast(StoredLimiter | StoredInFlight, self.limiter)  # if `shared`
        self._timed = cast(Limiter | StoredLimiter, self.limiter)  # unless `holds_slots`
        self.plans = self.limiter if isinstance(self.limiter, PlanLimiter) else None
        # A subclass, such as `ZoneLimiter`, has its windows elsewhere.
        self.windows = self.limiter.fixed_windows if type(self.limiter) is Limiter else None
        self.window_of = None if self.windows is None else cast(Limiter, self.limiter).window_of
        self.unit = "concurrent-requests" if self.holds_slots else "requests"
        self.cost = cost
        if tokens is not None:
            self._count_tokens(tokens)
        self.price = self.cost if isinstance(self.cost, int) else 1  # if the function fails
        self.is_plain = (
            not self.shared
            and self.plans is None
            and self.unit == "requests"
            and isinstance(self.cost, int)
        )
        for parameter, function in {"key": self.key, "when": when}.items():
            if function is not None:
                check_function(parameter, function)
        parameter, minimum = ("cost", 0) if tokens is None else ("tokens", 1)
        if callable(self.cost):
            check_function(parameter, self.cost)
        else:
            maximum = self.limiter.limit if self.plans is None else None
            try:
                check_integer(parameter, self.cost, minimum=minimum, maximum=maximum)
            except ValueError as error:
                raise ValueError(f"{error}: a request cannot cost more than the limit") from None

    def key_or(self, default: KeyFunction | None) -> KeyFunction:
        """Return the key of this policy, or `default` if the policy has no key."""
        return self.key if self.has_key or default is None else default

    def cost_of(self, scope: Scope) -> int:
        """Return the cost of a request that the function of this policy computes.

        Raises:
            Exception: The function fails or returns an invalid cost.
        """
        minimum = 1 if self.unit == "tokens" else 0  # a reserve of 0 would limit nothing
        cost = cast(Callable[[Scope], int], self.cost)(scope)
        return max(check_integer("cost", cost, minimum=0), minimum)

    def now(self) -> float:
        """Return the seconds of the limiter's clock."""
        return 0.0 if self.holds_slots else self._timed.clock()

    def named(self, decision: Decision) -> Decision:
        """Return `decision` with the name of this policy."""
        if self.name == DEFAULT_NAME:
            return decision
        # Four times as fast as `_replace`.
        allowed, limit, remaining, reset, retry, _, also, degraded, more, window, unit = decision
        name = self.name
        return _new(
            Decision,
            (allowed, limit, remaining, reset, retry, name, also, degraded, more, window, unit),
        )

    def described(self, decision: Decision) -> Decision:
        """Return `decision` with the unit and the window of this policy."""
        return decision._replace(window=decision.window or self.limiter.window, unit=self.unit)

    def _count_tokens(self, tokens: Cost) -> None:
        if self.cost != 1:
            raise ValueError(f"give cost or tokens, not both: got {self.cost!r} and {tokens!r}")
        if self.holds_slots:
            raise ValueError(
                f"tokens need a rate limit, got a limiter of type {type(self.limiter).__name__}"
            )
        if isinstance(self.limiter, StoredLimiter) and not self.limiter.supports_refund:
            raise ValueError(
                "tokens need a shared limiter that supports refunds, and "
                f"{self.limiter.strategy!r} cannot: use strategy='fixed-window'"
            )
        self.unit, self.cost = "tokens", tokens


def _limiter(limit: str | RateOf | AnyLimiter) -> AnyLimiter:
    if isinstance(limit, AnyLimiter):
        return limit
    if callable(limit) and not isclass(limit):
        return PlanLimiter(limit)
    if not isinstance(limit, str):
        raise ValueError(
            "limit must be a rate such as '100/minute', a function of the key, a Limiter, a "
            f"PlanLimiter, a SharedLimiter, an InFlight or a SharedInFlight, got {limit!r}"
        )
    return Limiter(limit)


def check_policies(policies: Sequence[Policy]) -> None:
    """Validate that policies can be evaluated together.

    Raises:
        ValueError: The list is empty, a name or limiter repeats, or charges cannot be undone.
    """
    if not policies:
        raise ValueError("policies must not be empty")
    for policy in policies:
        if not isinstance(policy, Policy):
            raise ValueError(f"policies must be a list of Policy, got {policy!r} among them")
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ValueError(f"every policy must have a unique name (name=), got {names}")
    if len({_counters(policy) for policy in policies}) < len(policies):
        raise ValueError(
            f"every policy must have its own limiter, got the same limiter twice in {names}: "
            "give shared limiters with the same rate and storage different prefixes, or paths"
        )
    if sum(policy.shared and not policy.remote.supports_refund for policy in policies) > 1:
        raise ValueError(
            "only one policy can have a shared sliding window, since it cannot refund what "
            f"another policy rejects, got several in {names}: use strategy='fixed-window'"
        )


def _counters(policy: Policy) -> object:
    """Return the identity of the counters of a policy."""
    return getattr(policy.limiter, "counters", id(policy.limiter))


class Charge(NamedTuple):
    """Cost of one request for one key of a policy.

    Attributes:
        policy: Policy of the charge.
        key: Key of the client.
        cost: Requests, tokens or slots.
        clears: Clears of the limiter before the charge.
    """

    policy: Policy
    key: Hashable
    cost: int
    clears: int = 0

    @property
    def is_cleared(self) -> bool:
        """True if the limiter was cleared after the charge."""
        return self.policy.limiter.clears != self.clears

    def peek(self) -> Decision:
        """Return what `apply` would decide, without counting."""
        policy = self.policy
        return policy.named(policy.local.peek(self.key, self.cost))

    def apply(self) -> Decision:
        """Count the cost in a limiter of this process if it is allowed."""
        policy = self.policy
        return policy.named(policy.local.hit(self.key, self.cost))

    async def apply_shared(self) -> Decision:
        """Count the cost in a shared limiter if it is allowed."""
        policy = self.policy
        return policy.named(await policy.remote.hit(self.key, self.cost))

    def refund(self, *, since: float) -> None:
        """Release the slots of a charge, or undo an `apply` made at `since`."""
        limiter = self.policy.limiter
        if self.is_cleared or isinstance(limiter, StoredLimiter):
            return
        if isinstance(limiter, Limiter):
            limiter.charge(self.key, -self.cost, since=since)
        else:
            limiter.release(self.key, self.cost)

    async def charge_shared(self, amount: int, *, since: float, degraded: bool) -> None:
        """Correct the cost of an `apply_shared` made at `since`; slots are released by `refund`."""
        limiter = self.policy.limiter
        if amount and isinstance(limiter, StoredLimiter):
            await limiter.charge(self.key, amount, since=since, degraded=degraded)


class ChargeResult(NamedTuple):
    """Decision on a charge, and its time on the limiter's clock."""

    charge: Charge
    decision: Decision
    at: float

    def rolled_back(self) -> ChargeResult:
        """Refund the charge, unless that has to be awaited, and return the result without it."""
        charge, decision, at = self
        if not decision.allowed:
            return self
        charge.refund(since=at)
        remaining = min(decision.remaining + charge.cost, decision.limit)
        return ChargeResult(charge, decision._replace(remaining=remaining), at)

    async def roll_back_shared(self) -> None:
        """Refund the charge in a shared limiter."""
        charge, decision, at = self
        if decision.allowed:
            await charge.charge_shared(-charge.cost, since=at, degraded=decision.degraded)
