"""Asks all policies about a request, and counts it under all of them or under none."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import Scope

from ..exchange import ErrorReporter, Recorder, recorder_of
from .callables import KeyFunction
from .limiters import Decision
from .policy import (
    DEFAULT_NAME,
    Charge,
    ChargeResult,
    Policy,
    charge_for,
    check_policies,
    with_cost,
)
from .reservations import Reservations

OnDecision = Callable[[Scope, Decision], object]


# What was decided of a request: the decisions of the policies that are enforced, which are told
# the client; the one that keeps it out, if any does; and what is to be settled when it is over.
Evaluation = tuple[Sequence[Decision], Decision | None, Reservations | None]


Evaluate = Callable[[Scope, Recorder | None], Evaluation]


_NOTHING: Evaluation = ((), None, None)


class PolicySet:
    """Where every request is judged by the policies of one middleware.

    Args:
        policies: At least one, each with a name and a limiter of its own.
        enforce: False only counts and tells, whatever the policies say of themselves.
        on_decision: Called with every decision.
        default_key: Key of policies without one; the client's address when None.

    Attributes:
        policies: In the order in which they are asked.
        shared: Some limiter has to be waited for, with `evaluate_shared`.
        evaluate: Decides by limiters of this process alone.

    Raises:
        ValueError: There are no policies, or two share a name or a limiter.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        enforce: bool,
        on_decision: OnDecision | None,
        default_key: KeyFunction | None = None,
    ) -> None:
        check_policies(policies)
        self.policies = sorted(policies, key=_hard_to_undo)
        self.shared = any(policy.shared for policy in policies)
        self._enforced = {policy.name for policy in policies if policy.enforce and enforce}
        self._on_decision = on_decision
        self._default_key = default_key
        self._failures = ErrorReporter()
        alone = len(policies) == 1 and policies[0].is_plain
        self.evaluate: Evaluate = self._evaluate_one(policies[0]) if alone else self._evaluate_all

    def _evaluate_all(self, scope: Scope, tap: Recorder | None) -> Evaluation:
        return self._evaluation(scope, tap, self._ask(scope, self._charges(scope)))

    def _evaluate_one(self, policy: Policy) -> Evaluate:
        """The same for one plain policy, which is what most gateways have, with less ado."""
        key_of = policy.key_or(self._default_key)
        when, hit, cost = policy.when, policy.local.hit, policy.price
        is_named, is_enforced = policy.name != DEFAULT_NAME, policy.name in self._enforced
        refused = "limited" if is_enforced else "shadow"

        def judge(scope: Scope, tap: Recorder | None) -> Evaluation:
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
                tap.dispatcher.on_limit(policy.name, "allowed" if decision.allowed else refused)
            if self._on_decision is not None:
                self._notify(scope, decision)
            if not is_enforced:
                return _NOTHING
            return (decision,), None if decision.allowed else decision, None

        return judge

    async def evaluate_shared(self, scope: Scope, tap: Recorder | None) -> Evaluation:
        """Decide by the limiters of this process, then by those that are shared."""
        claims = self._charges(scope)
        asked = self._ask(scope, [claim for claim in claims if not claim.policy.shared])
        if self._rejection(asked) is None:
            shared = [claim for claim in claims if claim.policy.shared]
            try:
                await self._ask_shared(scope, shared, asked)
            except BaseException:  # the client has left, and no one can wait for a storage
                for ruling in asked:
                    ruling.rolled_back()
                raise
            if self._rejection(asked) is not None:
                granted, asked = asked, [ruling.rolled_back() for ruling in asked]
                for ruling in granted:
                    await ruling.roll_back_shared()
        return self._evaluation(scope, tap, asked)

    def _charges(self, scope: Scope) -> list[Charge]:
        claims = []
        for policy in self.policies:
            try:
                claim = charge_for(policy, scope, default_key=self._default_key)
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, policy, error)
                continue
            if claim is not None:
                claims.append(self._priced(claim, scope))
        return claims

    def _priced(self, claim: Charge, scope: Scope) -> Charge:
        try:
            return with_cost(claim, scope)
        except Exception as error:  # noqa: BLE001 - as above, and it still counts as one
            self._report(scope, claim.policy, error)
            return claim

    def _ask(self, scope: Scope, claims: list[Charge]) -> list[ChargeResult]:
        """Take what is claimed of limiters of this process; nothing where one refuses."""
        if len(claims) > 1:
            asked = self._each(scope, claims, Charge.peek)
            if self._rejection(asked) is not None:
                return asked
            claims = [ruling.charge for ruling in asked]
        taken = self._each(scope, claims, Charge.apply)
        return taken if self._rejection(taken) is None else [each.rolled_back() for each in taken]

    def _each(
        self, scope: Scope, claims: list[Charge], ask: Callable[[Charge], Decision]
    ) -> list[ChargeResult]:
        asked: list[ChargeResult] = []
        for claim in claims:
            try:
                asked.append(ChargeResult(claim, ask(claim), claim.policy.now()))
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, claim.policy, error)
        return asked

    async def _ask_shared(
        self, scope: Scope, claims: list[Charge], asked: list[ChargeResult]
    ) -> None:
        """Take what is claimed of shared limiters too, until one refuses."""
        for claim in claims:
            try:
                decision = await claim.apply_shared()
            except Exception as error:  # noqa: BLE001 - as above
                self._failed(scope, claim.policy, error)
                continue
            asked.append(ChargeResult(claim, decision, claim.policy.now()))
            if not decision.allowed and claim.policy.name in self._enforced:
                return

    def _rejection(self, asked: list[ChargeResult]) -> Decision | None:
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

    def _evaluation(
        self, scope: Scope, tap: Recorder | None, asked: list[ChargeResult]
    ) -> Evaluation:
        for _, decision, _ in asked:
            if tap is not None:
                tap.dispatcher.on_limit(decision.policy, self._outcome(decision))
            self._notify(scope, decision)
        refusal = self._rejection(asked)
        enforced = [each.decision for each in asked if each.charge.policy.name in self._enforced]
        return enforced, refusal, None if refusal else _holds(asked)

    def _notify(self, scope: Scope, decision: Decision) -> None:
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
        tap = recorder_of(scope)
        if tap is not None:
            tap.dispatcher.on_limit(policy.name, "error")
        self._report(scope, policy, error)

    def _report(self, scope: Scope, policy: Policy, error: Exception) -> None:
        self.report(scope, error, what=f"rate limit policy {policy.name}")

    def report(self, scope: Scope, error: Exception, *, what: str = "ratelimit") -> None:
        """Log a failure of ours if a line is due, and count it."""
        tap = recorder_of(scope)
        self._failures.log(what, error)
        if tap is not None:
            self._failures.notify("on_error", tap.dispatcher.observers, "ratelimit")


def _hard_to_undo(policy: Policy) -> tuple[bool, bool]:
    return policy.shared, policy.shared and not policy.remote.supports_refund


def _holds(asked: list[ChargeResult]) -> Reservations | None:
    held = [
        ruling
        for ruling in asked
        if ruling.charge.policy.unit != "requests" and ruling.decision.allowed
    ]
    return Reservations(held) if held else None
