"""One rule of who may use how much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

from starlette.types import Scope

from .functions import KeyFunction, check_function, checked_name, checked_switch
from .keys import client_address
from .limiters import Decision, InFlight, Limiter
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
        self.name = checked_name("policy name", name)
        self.has_key = key is not None
        self.key = client_address() if key is None else key
        self.when = when
        self.enforce = checked_switch("enforce", enforce)
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
        if isinstance(self.limiter, SharedLimiter) and not self.limiter.chargeable:
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
    if sum(policy.shared and not policy.remote.chargeable for policy in policies) > 1:
        raise ValueError(
            "only one policy can have a shared sliding window, since it cannot give back what "
            f"another refuses, got several in {names}: use strategy='fixed-window'"
        )


def _counters(policy: Policy) -> object:
    """What tells the counters of a policy from all others."""
    return policy.remote.counters if policy.shared else id(policy.limiter)
