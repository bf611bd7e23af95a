"""What one request wants of one policy, and what was decided of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from starlette.types import Scope

from .limiters import Decision, InFlight, checked_cost
from .policy import Policy


class Claim(NamedTuple):
    """So much of a policy's limit, for one key."""

    policy: Policy
    key: Hashable
    cost: int

    def peek(self) -> Decision:
        """Whether it would be granted, by a limiter of this process."""
        policy = self.policy
        return policy.named(policy.local.peek(self.key, self.cost))

    def take(self) -> Decision:
        """Take it of a limiter of this process, if it is granted."""
        policy = self.policy
        return policy.named(policy.local.hit(self.key, self.cost))

    async def take_shared(self) -> Decision:
        """Take it of a shared limiter, if it is granted."""
        policy = self.policy
        return policy.named(await policy.remote.hit(self.key, self.cost))

    def give_back(self, *, since: float) -> None:
        """Undo a `take` of `since`."""
        limiter = self.policy.local
        if isinstance(limiter, InFlight):
            limiter.release(self.key, self.cost)
        else:
            limiter.charge(self.key, -self.cost, since=since)

    async def give_back_shared(self, *, since: float, degraded: bool) -> None:
        """Undo a `take_shared` of `since`."""
        await self.policy.remote.charge(self.key, -self.cost, since=since, degraded=degraded)


class Ruling(NamedTuple):
    """What was decided of a claim, and when by its limiter's clock."""

    claim: Claim
    decision: Decision
    at: float

    def undone(self) -> Ruling:
        """Give back what was taken in this process; the decision tells of what is left again."""
        claim, decision, at = self
        if not decision.allowed:
            return self
        if not claim.policy.shared:
            claim.give_back(since=at)
        remaining = min(decision.remaining + claim.cost, decision.limit)
        return Ruling(claim, decision._replace(remaining=remaining), at)

    async def undo_shared(self) -> None:
        """Give back what was taken of a shared limiter."""
        if self.decision.allowed and self.claim.policy.shared:
            await self.claim.give_back_shared(since=self.at, degraded=self.decision.degraded)


def claim_of(policy: Policy, scope: Scope) -> Claim | None:
    """What the request claims under `policy`; None where that is not for it.

    Raises:
        Exception: The policy's own functions fail, or give what cannot be used.
    """
    if policy.when is not None and not policy.when(scope):
        return None
    key = policy.key(scope)
    if key is None:
        return None
    hash(key)  # raises here, where it concerns this policy alone
    return Claim(policy, key, policy.price)


def priced(claim: Claim, scope: Scope) -> Claim:
    """`claim` with what its policy's function says that the request costs.

    Raises:
        Exception: The function fails, or gives what is no cost.
    """
    cost = claim.policy.cost
    if isinstance(cost, int):
        return claim
    least = 1 if claim.policy.unit == "tokens" else 0  # to reserve nothing would limit nothing
    return claim._replace(cost=max(checked_cost(cost(scope)), least))
