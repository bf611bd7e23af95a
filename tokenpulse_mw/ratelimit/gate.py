"""Asks all policies about a request, and counts it under all of them or under none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import Scope

from ..exchange import Failures, Tap, tap_of
from .claim import Claim, Ruling, claim_of, priced
from .holds import Holds
from .limiters import Decision
from .policy import DEFAULT_NAME, Policy, check_policies

OnDecision = Callable[[Scope, Decision], object]


# What was decided of a request: the decisions of the policies that are enforced, which are told
# the client; the one that keeps it out, if any does; and what is to be settled when it is over.
Verdict = tuple[Sequence[Decision], Decision | None, Holds | None]
Judge = Callable[[Scope, Tap | None], Verdict]

_NOTHING: Verdict = ((), None, None)


class Gate:
    """Where every request is judged by the policies of one middleware.

    Args:
        policies: At least one, each with a name and a limiter of its own.
        enforce: False only counts and tells, whatever the policies say of themselves.
        on_decision: Told of every decision.

    Attributes:
        policies: In the order in which they are asked.
        shared: Some limiter has to be waited for, with `judge_shared`.
        judge: Decides by limiters of this process alone.

    Raises:
        ValueError: There are no policies, or two share a name or a limiter.
    """

    def __init__(
        self, policies: Sequence[Policy], *, enforce: bool, on_decision: OnDecision | None
    ) -> None:
        check_policies(policies)
        self.policies = sorted(policies, key=_hard_to_undo)
        self.shared = any(policy.shared for policy in policies)
        self._enforced = {policy.name for policy in policies if policy.enforce and enforce}
        self._on_decision = on_decision
        self._failures = Failures()
        alone = len(policies) == 1 and policies[0].is_plain
        self.judge: Judge = self._judge_one(policies[0]) if alone else self._judge_all

    def _judge_all(self, scope: Scope, tap: Tap | None) -> Verdict:
        return self._verdict(scope, tap, self._ask(scope, self._claims(scope)))

    def _judge_one(self, policy: Policy) -> Judge:
        """The same for one plain policy, which is what most gateways have, with less ado."""
        key_of, when, hit, cost = policy.key, policy.when, policy.local.hit, policy.price
        is_named, is_enforced = policy.name != DEFAULT_NAME, policy.name in self._enforced
        refused = "limited" if is_enforced else "shadow"

        def judge(scope: Scope, tap: Tap | None) -> Verdict:
            try:
                key = key_of(scope) if when is None or when(scope) else None
                if key is None:
                    return _NOTHING
                decision = hit(key, cost)
            except Exception as error:  # noqa: BLE001 - our failure must not be the request's
                self._failed(scope, policy, error)
                return _NOTHING
            if is_named:
                decision = policy.named(decision)
            if tap is not None:
                tap.station.decided(policy.name, "allowed" if decision.allowed else refused)
            if self._on_decision is not None:
                self._tell(scope, decision)
            if not is_enforced:
                return _NOTHING
            return (decision,), None if decision.allowed else decision, None

        return judge

    async def judge_shared(self, scope: Scope, tap: Tap | None) -> Verdict:
        """Decide by the limiters of this process, then by those that are shared."""
        claims = self._claims(scope)
        asked = self._ask(scope, [claim for claim in claims if not claim.policy.shared])
        if self._refusal(asked) is None:
            shared = [claim for claim in claims if claim.policy.shared]
            try:
                await self._ask_shared(scope, shared, asked)
            except BaseException:  # the client has left, and no one can wait for a storage
                for ruling in asked:
                    ruling.undone()
                raise
            if self._refusal(asked) is not None:
                granted, asked = asked, [ruling.undone() for ruling in asked]
                for ruling in granted:
                    await ruling.undo_shared()
        return self._verdict(scope, tap, asked)

    def _claims(self, scope: Scope) -> list[Claim]:
        claims = []
        for policy in self.policies:
            try:
                claim = claim_of(policy, scope)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, policy, error)
                continue
            if claim is not None:
                claims.append(self._priced(claim, scope))
        return claims

    def _priced(self, claim: Claim, scope: Scope) -> Claim:
        try:
            return priced(claim, scope)
        except Exception as error:  # noqa: BLE001 - as above, and it still counts as one
            self._report(scope, claim.policy, error)
            return claim

    def _ask(self, scope: Scope, claims: list[Claim]) -> list[Ruling]:
        """Take what is claimed of limiters of this process; nothing where one refuses."""
        if len(claims) > 1:
            asked = self._each(scope, claims, Claim.peek)
            if self._refusal(asked) is not None:
                return asked
            claims = [ruling.claim for ruling in asked]
        taken = self._each(scope, claims, Claim.take)
        return taken if self._refusal(taken) is None else [each.undone() for each in taken]

    def _each(
        self, scope: Scope, claims: list[Claim], ask: Callable[[Claim], Decision]
    ) -> list[Ruling]:
        asked: list[Ruling] = []
        for claim in claims:
            try:
                asked.append(Ruling(claim, ask(claim), claim.policy.now()))
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, claim.policy, error)
        return asked

    async def _ask_shared(self, scope: Scope, claims: list[Claim], asked: list[Ruling]) -> None:
        """Take what is claimed of shared limiters too, until one refuses."""
        for claim in claims:
            try:
                decision = await claim.take_shared()
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, claim.policy, error)
                continue
            asked.append(Ruling(claim, decision, claim.policy.now()))
            if not decision.allowed and claim.policy.name in self._enforced:
                return

    def _refusal(self, asked: list[Ruling]) -> Decision | None:
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

    def _verdict(self, scope: Scope, tap: Tap | None, asked: list[Ruling]) -> Verdict:
        for _, decision, _ in asked:
            if tap is not None:
                tap.station.decided(decision.policy, self._outcome(decision))
            self._tell(scope, decision)
        refusal = self._refusal(asked)
        enforced = [each.decision for each in asked if each.claim.policy.name in self._enforced]
        return enforced, refusal, None if refusal else _holds(asked)

    def _tell(self, scope: Scope, decision: Decision) -> None:
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
        self._report(scope, policy, error)

    def _report(self, scope: Scope, policy: Policy, error: Exception) -> None:
        self.report(scope, error, what=f"rate limit policy {policy.name}")

    def report(self, scope: Scope, error: Exception, *, what: str = "ratelimit") -> None:
        """Log a failure of ours if a line is due, and count it."""
        tap = tap_of(scope)
        self._failures.log(what, error)
        if tap is not None:
            self._failures.call("failed", tap.station.observers, "ratelimit")


def _hard_to_undo(policy: Policy) -> tuple[bool, bool]:
    return policy.shared, policy.shared and not policy.remote.chargeable


def _holds(asked: list[Ruling]) -> Holds | None:
    held = [
        ruling
        for ruling in asked
        if ruling.claim.policy.unit != "requests" and ruling.decision.allowed
    ]
    return Holds(held) if held else None
