"""One rule of who may use how much."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, cast

from starlette.types import Scope

from .callables import KeyFunction, check_bool, check_function, check_name
from .keys import client_address
from .limiters import Decision, InFlight, Limiter, check_cost
from .shared import SharedLimiter

AnyLimiter = Limiter | SharedLimiter | InFlight


Cost = int | Callable[[Scope], int]


DEFAULT_NAME = "default"  # that of a decision which no policy has put its name to


class Policy:
    """Who is limited to what, for which requests.

    Args:
        limit: A rate such as "100/minute", or a `Limiter`, `SharedLimiter` or `InFlight`.
        name: How headers, metrics and errors call it: letters, digits, `_`, `.`, `:` and `-`.
        key: Who is asking, as a function of the scope; the client's address when None. A request
            whose key is None is not limited.
        cost: What a request counts: a whole number, or a function of the scope that gives one.
        tokens: Makes the limit one of tokens: so many are reserved before a request, as a whole
            number or a function of the scope, and when the answer has ended the tokens that it
            says it has used are charged instead. Reserve as much as a request can use, and
            requests at the same time cannot exceed the limit together.
        when: Which requests it is for, such as `requests_to("/v1/*")`; all when None.
        enforce: False only counts and tells (shadow mode).

    Attributes:
        limiter: What counts; made of `limit` if that is a rate.
        shared: The limiter is a `SharedLimiter`, which has to be waited for.
        unit: What the limit is one of: "requests", "tokens" or "concurrent-requests".

    Raises:
        ValueError: An argument is malformed, or one excludes the other.
    """

    def __init__(
        self,
        limit: str | AnyLimiter,
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
        self.shared = isinstance(self.limiter, SharedLimiter)
        self.local = cast(Limiter | InFlight, self.limiter)  # unless `shared`
        self.remote = cast(SharedLimiter, self.limiter)  # if `shared`
        self.unit = "concurrent-requests" if isinstance(self.limiter, InFlight) else "requests"
        self.cost = cost
        if tokens is not None:
            self._count_tokens(tokens)
        self.price = self.cost if isinstance(self.cost, int) else 1  # until a function tells
        self.is_plain = not self.shared and self.unit == "requests" and isinstance(self.cost, int)
        for what, function in {"key": self.key, "when": when}.items():
            if function is not None:
                check_function(what, function)
        what, least = ("cost", 0) if tokens is None else ("tokens", 1)
        _check_cost(what, self.cost, least, self.limiter.limit)

    def key_or(self, default: KeyFunction | None) -> KeyFunction:
        """Return the key of this policy, or `default` if it was made without one."""
        return self.key if self.has_key or default is None else default

    def now(self) -> float:
        """Seconds of the limiter's clock."""
        return 0.0 if isinstance(self.limiter, InFlight) else self.limiter.clock()

    def named(self, decision: Decision) -> Decision:
        """`decision` under the name of this policy."""
        return decision if self.name == DEFAULT_NAME else decision._replace(policy=self.name)

    def _count_tokens(self, tokens: Cost) -> None:
        if self.cost != 1:
            raise ValueError(f"give cost or tokens, not both: got {self.cost!r} and {tokens!r}")
        if isinstance(self.limiter, InFlight):
            raise ValueError("tokens need a limit of tokens in a time, got one of requests at once")
        if isinstance(self.limiter, SharedLimiter) and not self.limiter.supports_refund:
            raise ValueError(
                "tokens need a shared limit that can give back what was not used, and "
                f"{self.limiter.strategy!r} cannot: use strategy='fixed-window'"
            )
        self.unit, self.cost = "tokens", tokens


def _limiter(limit: str | AnyLimiter) -> AnyLimiter:
    if isinstance(limit, AnyLimiter):
        return limit
    if not isinstance(limit, str):
        raise ValueError(
            f"limit must be a rate such as '100/minute', a Limiter, a SharedLimiter or an "
            f"InFlight, got {limit!r}"
        )
    return Limiter(limit)


def _check_cost(what: str, cost: Cost, least: int, limit: int) -> None:
    if callable(cost):
        check_function(what, cost)
    elif type(cost) is not int or not least <= cost <= limit:
        raise ValueError(
            f"{what} must be a function, or a whole number from {least} to the limit {limit}, "
            f"got {cost!r}"
        )


def check_policies(policies: Sequence[Policy]) -> None:
    """Refuse policies that cannot be asked together.

    Raises:
        ValueError: There are none, two share a name or a limiter, or not all could be undone.
    """
    if not policies:
        raise ValueError("policies must not be empty")
    for policy in policies:
        if not isinstance(policy, Policy):
            raise ValueError(f"policies must be a list of Policy, got {policy!r} among them")
    names = [policy.name for policy in policies]
    if len(set(names)) < len(names):
        raise ValueError(f"every policy needs a name of its own (name=), got {names}")
    if len({_counters(policy) for policy in policies}) < len(policies):
        raise ValueError(
            f"every policy needs a limiter of its own, got one twice in {names}; shared limiters "
            "of the same rate in the same storage are one, unless each has a prefix of its own"
        )
    if sum(policy.shared and not policy.remote.supports_refund for policy in policies) > 1:
        raise ValueError(
            "only one policy can have a shared sliding window, since it cannot give back what "
            f"another refuses, got several in {names}: use strategy='fixed-window'"
        )


def _counters(policy: Policy) -> object:
    """What tells the counters of a policy from all others."""
    return policy.remote.counters if policy.shared else id(policy.limiter)


class Charge(NamedTuple):
    """So much of a policy's limit, for one key."""

    policy: Policy
    key: Hashable
    cost: int

    def peek(self) -> Decision:
        """Whether it would be granted, by a limiter of this process."""
        policy = self.policy
        return policy.named(policy.local.peek(self.key, self.cost))

    def apply(self) -> Decision:
        """Take it of a limiter of this process, if it is granted."""
        policy = self.policy
        return policy.named(policy.local.hit(self.key, self.cost))

    async def apply_shared(self) -> Decision:
        """Take it of a shared limiter, if it is granted."""
        policy = self.policy
        return policy.named(await policy.remote.hit(self.key, self.cost))

    def refund(self, *, since: float) -> None:
        """Undo a `apply` of `since`."""
        limiter = self.policy.local
        if isinstance(limiter, InFlight):
            limiter.release(self.key, self.cost)
        else:
            limiter.charge(self.key, -self.cost, since=since)

    async def refund_shared(self, *, since: float, degraded: bool) -> None:
        """Undo a `apply_shared` of `since`."""
        await self.policy.remote.charge(self.key, -self.cost, since=since, degraded=degraded)


class ChargeResult(NamedTuple):
    """What was decided of a claim, and when by its limiter's clock."""

    charge: Charge
    decision: Decision
    at: float

    def rolled_back(self) -> ChargeResult:
        """Give back what was taken in this process; the decision tells of what is left again."""
        claim, decision, at = self
        if not decision.allowed:
            return self
        if not claim.policy.shared:
            claim.refund(since=at)
        remaining = min(decision.remaining + claim.cost, decision.limit)
        return ChargeResult(claim, decision._replace(remaining=remaining), at)

    async def roll_back_shared(self) -> None:
        """Give back what was taken of a shared limiter."""
        if self.decision.allowed and self.charge.policy.shared:
            await self.charge.refund_shared(since=self.at, degraded=self.decision.degraded)


def charge_for(
    policy: Policy, scope: Scope, *, default_key: KeyFunction | None = None
) -> Charge | None:
    """Return the charge of a request under `policy`, or None if the policy does not apply.

    Args:
        policy: Policy to charge.
        scope: Request.
        default_key: Key of a policy without one.

    Raises:
        Exception: A function of the policy fails or returns an unusable value.
    """
    if policy.when is not None and not policy.when(scope):
        return None
    key = policy.key_or(default_key)(scope)
    if key is None:
        return None
    hash(key)  # raises here, where it concerns this policy alone
    return Charge(policy, key, policy.price)


def with_cost(claim: Charge, scope: Scope) -> Charge:
    """`charge` with what its policy's function says that the request costs.

    Raises:
        Exception: The function fails, or gives what is no cost.
    """
    cost = claim.policy.cost
    if isinstance(cost, int):
        return claim
    least = 1 if claim.policy.unit == "tokens" else 0  # to reserve nothing would limit nothing
    return claim._replace(cost=max(check_cost(cost(scope)), least))
