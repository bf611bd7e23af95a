"""Evaluation of a request by several policies: it is counted under all of them or none."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import cast

from starlette.types import ASGIApp, Scope

from ..exchange import ErrorReporter, Recorder, recorder_of
from .callables import KeyFunction, reads_model
from .keys import client_address
from .limiters import Decision, Window
from .policy import (
    DEFAULT_NAME,
    Charge,
    ChargeResult,
    Policy,
    check_policies,
)
from .rejections import Rejections
from .reservations import Reservations
from .responses import Respond, too_many_requests

OnDecision = Callable[[Scope, Decision], object]

# Decisions of the enforced policies, which the headers show; the rejection, if any; and the
# reservations to settle when the response ends.
Evaluation = tuple[Sequence[Decision], Decision | None, Reservations | None]
Evaluate = Callable[[Scope, Recorder | None], Evaluation]

_NOT_LIMITED: Evaluation = ((), None, None)

_new = tuple.__new__  # twice as fast as calling the class of a named tuple


class PolicySet:
    """The policies of one middleware.

    Args:
        policies: Policies with unique names and limiters.
        enforce: False counts and reports without rejecting, even for policies with `enforce`.
        on_decision: Function that is called with the scope and each decision.
        default_key: Key of policies without one; the client's address when None.
        rejections: Stores the keys that enforced policies reject.

    Attributes:
        policies: Policies in the order of evaluation.
        awaits: True if a limiter is shared or its rate is an async function; then
            `evaluate_async` must be used.
        reads_model: True if a policy needs the model of the request.
        reads_tokens: True if a policy needs the maximum of tokens of the request too.
        evaluate: Function that evaluates a request if nothing has to be awaited.

    Raises:
        ValueError: The list is empty, or two policies share a name or a limiter.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        *,
        enforce: bool,
        on_decision: OnDecision | None,
        default_key: KeyFunction | None = None,
        rejections: Rejections | None = None,
    ) -> None:
        check_policies(policies)
        self.policies = sorted(policies, key=_rollback_order)
        self._has_plans = any(policy.plans is not None for policy in policies)
        self.awaits = any(
            policy.shared or (policy.plans is not None and policy.plans.is_async)
            for policy in policies
        )
        self._enforced = {policy.name for policy in policies if policy.enforce and enforce}
        self._on_decision = on_decision
        self._rejections = rejections
        default_key = client_address() if default_key is None else default_key
        self._keys = [(policy, policy.key_or(default_key)) for policy in self.policies]
        self.reads_model = any(
            policy.reads_model or reads_model(key_of) for policy, key_of in self._keys
        )
        self.reads_tokens = any(policy.reads_tokens for policy in policies)
        self._failures = ErrorReporter()
        alone = len(policies) == 1 and policies[0].is_plain
        self.evaluate: Evaluate = self._evaluate_one() if alone else self._evaluate_all

    def _evaluate_all(self, scope: Scope, recorder: Recorder | None) -> Evaluation:
        charges = self.charges(scope)
        if self._has_plans:
            charges = self._with_rate(scope, charges)
        return self._evaluation(scope, recorder, self._apply(scope, charges))

    def _evaluate_one(self) -> Evaluate:
        """Return a faster `evaluate` for a single plain policy."""
        [(policy, key_of)] = self._keys
        name, when, hit, cost = policy.name, policy.when, policy.local.hit, policy.price
        is_named, is_enforced = name != DEFAULT_NAME, name in self._enforced
        rejected = "limited" if is_enforced else "shadow"
        on_decision = self._on_decision

        def evaluate(scope: Scope, recorder: Recorder | None) -> Evaluation:
            if policy.is_special:  # suspended, or keys are blocked
                return self._evaluate_all(scope, recorder)
            try:
                key = key_of(scope) if when is None or when(scope) else None
                if key is None:
                    return _NOT_LIMITED
                decision = hit(key, cost)
            except Exception as error:  # noqa: BLE001 - a failing policy must not fail the request
                self._failed(scope, policy, error)
                return _NOT_LIMITED
            if is_named:
                decision = policy.named(decision)
            allowed = decision.allowed
            if recorder is not None:
                outcome = "allowed" if allowed else rejected
                recorder.dispatcher.on_limit(name, "error" if decision.degraded else outcome)
            if on_decision is not None:
                self._notify(scope, decision)
            if not is_enforced:
                return _NOT_LIMITED
            if allowed:
                return (decision,), None, None
            if self._rejections is not None:
                self._rejections.add(policy, key, recorder)
            return (decision,), policy.described(decision), None

        return evaluate

    async def evaluate_async(self, scope: Scope, recorder: Recorder | None) -> Evaluation:
        """Evaluate a request by the limiters of this process, then by the shared limiters."""
        charges = self.charges(scope)
        for charge in charges:
            plans = charge.policy.plans
            if plans is not None and plans.is_async:
                await plans.load(charge.key)
        charges = self._with_rate(scope, charges)
        results = self._apply(scope, [charge for charge in charges if not charge.policy.shared])
        if self._rejection(results) is None:
            shared = [charge for charge in charges if charge.policy.shared]
            try:
                await self._apply_shared(scope, shared, results)
            except BaseException:  # cancelled: shared storages can no longer be awaited
                for result in results:
                    result.rolled_back()
                raise
            if self._rejection(results) is not None:
                applied, results = results, [result.rolled_back() for result in results]
                for result in applied:
                    await result.roll_back_shared()
        return self._evaluation(scope, recorder, results)

    def charges(self, scope: Scope) -> list[Charge]:
        """Return the charge under each policy that applies to a request.

        Each function of a policy is called at most once. A failing policy is reported and left out;
        a failing cost counts as 1.
        """
        charges = []
        last_key_of: KeyFunction | None = None  # policies often have the same key
        key: Hashable | None = None
        for policy, key_of in self._keys:
            when, cost = policy.when, policy.cost
            try:
                if policy.is_special and policy.suspended:
                    continue
                if when is not None and not when(scope):
                    continue
                if key_of is not last_key_of:
                    found = key_of(scope)
                    hash(found)  # an unhashable key disables only this policy
                    key, last_key_of = found, key_of
            except Exception as error:  # noqa: BLE001 - a failing policy must not fail the request
                self._failed(scope, policy, error)
                continue
            if key is not None:
                if not isinstance(cost, int):
                    cost = self._cost(policy, scope)
                charges.append(_new(Charge, (policy, key, cost, policy.limiter.clears)))
        return charges

    def _with_rate(self, scope: Scope, charges: list[Charge]) -> list[Charge]:
        """Return the charges without those of keys that are not limited, or whose rate fails."""
        limited = []
        for charge in charges:
            plans = charge.policy.plans
            try:
                is_blocked = charge.policy.is_special and charge.policy.rejection_of(charge.key)
                if plans is None or is_blocked or plans.is_limited(charge.key):
                    limited.append(charge)
            except Exception as error:  # noqa: BLE001 - a failing policy must not fail the request
                self._failed(scope, charge.policy, error)
        return limited

    def _cost(self, policy: Policy, scope: Scope) -> int:
        try:
            return policy.cost_of(scope)
        except Exception as error:  # noqa: BLE001 - the request counts as 1, or the least reserve
            self._report(scope, policy, error)
            return policy.price

    def _apply(self, scope: Scope, charges: list[Charge]) -> list[ChargeResult]:
        """Apply charges in this process; roll them back if an enforced policy rejects one."""
        results = self._admit(scope, charges)
        if results is None:
            results = self._decide(scope, charges, Charge.peek)
            if self._rejection(results) is not None:
                return results
            charges = [result.charge for result in results]
            results = self._decide(scope, charges, Charge.apply)
        if self._rejection(results) is None:
            return results
        return [result.rolled_back() for result in results]

    def _admit(self, scope: Scope, charges: list[Charge]) -> list[ChargeResult] | None:
        """Apply charges if all limiters have room, as for most requests; else return None."""
        found: list[tuple[Charge, Window | None, float]] = []
        try:
            for charge in charges:
                policy, key, cost, _ = charge
                if policy.is_special:
                    return None
                window_of, window, now = policy.window_of, None, 0.0
                if window_of is not None:
                    window, now = window_of(key), policy.now()
                if window is not None and window.ends > now:
                    if window.used + (cost or 1) > policy.local.limit:  # 0 while it is blocked
                        return None
                elif len(charges) > 1 and not policy.local.has_room(key, cost):
                    return None
                else:
                    window = None
                found.append((charge, window, now))
        except Exception:  # noqa: BLE001 - reported where the policy decides alone
            return None
        results: list[ChargeResult] = []
        for charge, window, now in found:
            policy, _, cost, _ = charge
            if window is None or policy.windows is None:
                results += self._decide(scope, [charge], Charge.apply)
            else:  # a hit, without its calls
                decision = policy.windows.consume(window, now, cost, policy.name)
                results.append(_new(ChargeResult, (charge, decision, now)))
        return results

    def _decide(
        self, scope: Scope, charges: list[Charge], decide: Callable[[Charge], Decision]
    ) -> list[ChargeResult]:
        results: list[ChargeResult] = []
        for charge in charges:
            try:
                decision = decide(charge)
                results.append(_new(ChargeResult, (charge, decision, charge.policy.now())))
            except Exception as error:  # noqa: BLE001 - a failing policy must not fail the request
                self._failed(scope, charge.policy, error)
        return results

    async def _apply_shared(
        self, scope: Scope, charges: list[Charge], results: list[ChargeResult]
    ) -> None:
        """Apply charges in shared limiters until one rejects, and append to `results`."""
        if len(charges) < 2 or any(charge.policy.is_special for charge in charges):
            await self._apply_in_turn(scope, charges, results)
            return
        from .shared_charges import apply_together, grouped, prepared  # imports the drivers

        for number, group in enumerate(grouped(charges)):
            if number and self._rejection(results) is not None:
                return
            together = None
            if len(group) > 1:
                failed = partial(self._failed, scope)
                hits = prepared(group, enforced=self._enforced, failed=failed)
                group = [charge for charge, _ in hits]
                try:
                    together = await apply_together(hits) if hits else None
                except Exception as error:  # noqa: BLE001 - must not fail the request
                    for charge in group:
                        failed(charge.policy, error)
                    continue
            if together is None:
                await self._apply_in_turn(scope, group, results)
            else:
                results += together

    async def _apply_in_turn(
        self, scope: Scope, charges: list[Charge], results: list[ChargeResult]
    ) -> None:
        for charge in charges:
            asked = charge.policy.now()
            try:
                decision = await charge.apply_shared()
            except Exception as error:  # noqa: BLE001 - a failing policy must not fail the request
                self._failed(scope, charge.policy, error)
                continue
            results.append(ChargeResult.of_shared(charge, decision, asked=asked))
            if not decision.allowed and charge.policy.name in self._enforced:
                return

    def _rejection(self, results: list[ChargeResult]) -> Decision | None:
        """Return the enforced rejection with the longest wait; `also` names the others."""
        for _, decision, _ in results:
            if not decision.allowed:
                break
        else:
            return None  # most requests
        rejected = [
            charge.policy.described(decision)
            for charge, decision, _ in results
            if not decision.allowed and charge.policy.name in self._enforced
        ]
        if not rejected:
            return None
        longest = max(rejected, key=lambda decision: decision.retry_after)
        also = tuple(decision.policy for decision in rejected if decision is not longest)
        return longest._replace(also=also) if also else longest

    def _evaluation(
        self, scope: Scope, recorder: Recorder | None, results: list[ChargeResult]
    ) -> Evaluation:
        if recorder is not None:
            for _, decision, _ in results:
                recorder.dispatcher.on_limit(decision.policy, self._outcome(decision))
        if self._on_decision is not None:
            for _, decision, _ in results:
                self._notify(scope, decision)
        rejection = self._rejection(results)
        if rejection is not None and self._rejections is not None:
            for charge, decision, _ in results:
                if not decision.allowed and charge.policy.name in self._enforced:
                    self._rejections.add(charge.policy, charge.key, recorder)
        enforced = [
            decision for charge, decision, _ in results if charge.policy.name in self._enforced
        ]
        return enforced, rejection, None if rejection else _reservations(results)

    def _notify(self, scope: Scope, decision: Decision) -> None:
        try:
            cast(OnDecision, self._on_decision)(scope, decision)
        except Exception as error:  # noqa: BLE001 - the decision stays valid
            self.report(scope, error)

    def _outcome(self, decision: Decision) -> str:
        """Return the label `decision` of tokenpulse_rate_limit_decisions_total."""
        if decision.degraded:
            return "error"
        if decision.allowed:
            return "allowed"
        return "limited" if decision.policy in self._enforced else "shadow"

    def _failed(self, scope: Scope, policy: Policy, error: Exception) -> None:
        """Report that a policy failed; the request is not limited by it."""
        recorder = recorder_of(scope)
        if recorder is not None:
            recorder.dispatcher.on_limit(policy.name, "error")
        self._report(scope, policy, error)

    def _report(self, scope: Scope, policy: Policy, error: Exception) -> None:
        self.report(scope, error, component=f"rate limit policy {policy.name}")

    def response_to(self, rejection: Decision, scope: Scope, respond: Respond) -> ASGIApp:
        """Return the response of `respond`, or plain text if that fails."""
        try:
            response = respond(rejection)
            if not callable(response):
                raise TypeError(f"respond must return an ASGI application, got {response!r}")
        except Exception as error:  # noqa: BLE001 - an error here must not fail the request
            self.report(scope, error)
            return too_many_requests(rejection)
        return response

    def report(self, scope: Scope, error: Exception, *, component: str = "ratelimit") -> None:
        """Count an error, and log it if a line is due."""
        recorder = recorder_of(scope)
        self._failures.log(component, error)
        if recorder is not None:
            self._failures.notify("on_error", recorder.dispatcher.observers, "ratelimit")


def _rollback_order(policy: Policy) -> tuple[bool, bool]:
    """Return a sort key: policies that are easy to roll back come first."""
    return policy.shared, policy.shared and not policy.remote.supports_refund


def _reservations(results: list[ChargeResult]) -> Reservations | None:
    reserved = [
        result
        for result in results
        if result.charge.policy.unit != "requests" and result.decision.allowed
    ]
    return Reservations(reserved) if reserved else None
