"""Asks all policies about a request, and counts it under all of them or under none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from starlette.types import Scope

from ..exchange import Failures, Tap, tap_of
from .claim import Claim, claim_of
from .holds import Holds
from .limiters import Decision
from .policy import DEFAULT_NAME, Policy, check_policies

OnDecision = Callable[[Scope, Decision], object]


class Answer(NamedTuple):
    """What was decided of a claim, and when by its limiter's clock."""

    claim: Claim
    decision: Decision
    at: float


Asked = list[Answer]

# What was decided of a request: the decisions of the policies that it claimed something of; the
# one that keeps it out, if any does; and what is to be settled when it is over, if anything is.
Verdict = tuple[Sequence[Decision], Decision | None, Holds | None]

_NOTHING: Verdict = ((), None, None)


class Gate:
    """Where every request is judged by the policies of one middleware.

    Args:
        policies: At least one, each with a name and a limiter of its own.
        enforce: False only counts and tells, whatever the policies say of themselves.
        on_decision: Told of every decision.

    Attributes:
        policies: In the order in which they are asked.
        shared: Some limiter has to be waited for.

    Raises:
        ValueError: There are no policies, or two share a name or a limiter.
    """

    def __init__(
        self, policies: Sequence[Policy], *, enforce: bool, on_decision: OnDecision | None
    ) -> None:
        check_policies(policies)
        self.policies = sorted(policies, key=_hard_to_undo)
        self.shared = any(policy.shared for policy in policies)
        self._only = policies[0] if len(policies) == 1 and policies[0].is_plain else None
        self._enforced = {policy.name for policy in policies if policy.enforce and enforce}
        self._on_decision = on_decision
        self._failures = Failures()

    def judge(self, scope: Scope, tap: Tap | None) -> Verdict:
        """Decide by limiters of this process alone."""
        if self._only is None:
            return self._verdict(scope, self._ask(scope, self._claims(scope)))
        policy = self._only  # a plain one, which is what most gateways have: with less ado
        try:
            key = policy.key(scope) if policy.when is None or policy.when(scope) else None
            if key is None:
                return _NOTHING
            decision = policy.local.hit(key, policy.price)
        except Exception as error:  # noqa: BLE001 - our failure must not be the request's
            self._failed(scope, policy, error)
            return _NOTHING
        if policy.name != DEFAULT_NAME:
            decision = policy.named(decision)
        if tap is not None or self._on_decision is not None:
            self._announce(scope, decision)
        refused = not decision.allowed and policy.name in self._enforced
        return (decision,), decision if refused else None, None

    async def judge_shared(self, scope: Scope) -> Verdict:
        """Decide by the limiters of this process, then by those that are shared."""
        claims = self._claims(scope)
        asked = self._ask(scope, [claim for claim in claims if not claim.policy.shared])
        if self._refusal(asked) is None:
            shared = [claim for claim in claims if claim.policy.shared]
            try:
                await self._ask_shared(scope, shared, asked)
            except BaseException:  # the client has left, and no one can wait for a storage
                _undo(asked)
                raise
            if self._refusal(asked) is not None:
                granted, asked = asked, _undo(asked)
                await _undo_shared(granted)
        return self._verdict(scope, asked)

    def _claims(self, scope: Scope) -> list[Claim]:
        claims = []
        for policy in self.policies:
            try:
                claim = claim_of(policy, scope)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, policy, error)
                continue
            if claim is not None:
                claims.append(claim)
        return claims

    def _ask(self, scope: Scope, claims: list[Claim]) -> Asked:
        """Take what is claimed of limiters of this process; nothing where one refuses."""
        if len(claims) > 1:
            asked = self._each(scope, claims, Claim.peek)
            if self._refusal(asked) is not None:
                return asked
            claims = [answer.claim for answer in asked]
        return self._each(scope, claims, Claim.take)

    def _each(self, scope: Scope, claims: list[Claim], ask: Callable[[Claim], Decision]) -> Asked:
        asked: Asked = []
        for claim in claims:
            try:
                asked.append(Answer(claim, ask(claim), claim.policy.now()))
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, claim.policy, error)
        return asked

    async def _ask_shared(self, scope: Scope, claims: list[Claim], asked: Asked) -> None:
        """Take what is claimed of shared limiters too, until one refuses."""
        for claim in claims:
            try:
                decision = await claim.take_shared()
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, claim.policy, error)
                continue
            asked.append(Answer(claim, decision, claim.policy.now()))
            if not decision.allowed and claim.policy.name in self._enforced:
                return

    def _refusal(self, asked: Asked) -> Decision | None:
        """The refusal that is to be enforced and has the longest wait; it names the others."""
        refused = [
            decision
            for claim, decision, _ in asked
            if not decision.allowed and claim.policy.name in self._enforced
        ]
        if not refused:
            return None
        worst = max(refused, key=lambda decision: decision.retry_after)
        also = tuple(each.policy for each in refused if each is not worst)
        return worst._replace(also=also) if also else worst

    def _verdict(self, scope: Scope, asked: Asked) -> Verdict:
        decisions = [answer.decision for answer in asked]
        for decision in decisions:
            self._announce(scope, decision)
        refusal = self._refusal(asked)
        return decisions, refusal, None if refusal else _holds(asked)

    def _announce(self, scope: Scope, decision: Decision) -> None:
        """Tell of a decision whoever wants to know."""
        tap = tap_of(scope)
        if tap is not None:
            tap.station.decided(decision.policy, self._outcome(decision))
        if self._on_decision is not None:
            try:
                self._on_decision(scope, decision)
            except Exception as error:  # noqa: BLE001 - as above, and the decision stands
                self.report(scope, error)

    def _outcome(self, decision: Decision) -> str:
        """The value of the label `decision` in tokenpulse_rate_limit_decisions_total."""
        if decision.degraded:
            return "error"
        if decision.allowed:
            return "allowed"
        return "limited" if decision.policy in self._enforced else "shadow"

    def _failed(self, scope: Scope, policy: Policy, error: Exception) -> None:
        """The request goes on as if there were no such policy."""
        tap = tap_of(scope)
        if tap is not None:
            tap.station.decided(policy.name, "error")
        self.report(scope, error)

    def report(self, scope: Scope, error: Exception) -> None:
        """Log a failure of ours once, and let it be counted."""
        tap = tap_of(scope)
        self._failures.tell("ratelimit", error, tap.station.observers if tap else ())


def _hard_to_undo(policy: Policy) -> tuple[bool, bool]:
    return policy.shared, policy.shared and not policy.remote.chargeable


def _undo(asked: Asked) -> Asked:
    """Give back what was taken in this process; the decisions then tell of what is left again."""
    undone: Asked = []
    for claim, decision, at in asked:
        if decision.allowed:
            if not claim.policy.shared:
                claim.give_back(since=at)
            remaining = min(decision.remaining + claim.cost, decision.limit)
            decision = decision._replace(remaining=remaining)
        undone.append(Answer(claim, decision, at))
    return undone


async def _undo_shared(asked: Asked) -> None:
    for claim, decision, at in asked:
        if decision.allowed and claim.policy.shared:
            await claim.give_back_shared(since=at)


def _holds(asked: Asked) -> Holds | None:
    held = [
        (claim, at)
        for claim, decision, at in asked
        if claim.policy.unit != "requests" and decision.allowed
    ]
    return Holds(held) if held else None
